"""The kernels of a spec, for people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from kasmina_generator.kernels.model import StateSet
from kasmina_generator.kernels.specialisation import KernelSpec, specialisations
from kasmina_generator.model import Spec


def as_text(spec: Spec) -> str:
    """Return which states mix, each file, what it computes, and the constants that it is given."""
    return "\n".join(_lines(spec)) + "\n"


def _lines(spec: Spec) -> Iterator[str]:
    kernels = spec.kernels
    if kernels is None:
        yield f"{spec.name}: names no kernels file"
        return
    found = list(specialisations(kernels))
    files = [list(group) for _, group in groupby(found, lambda kernel: kernel.file)]
    yield f"{kernels.name} version {kernels.version}: {kernels.meaning}"
    yield _states(spec, kernels.mixing)
    yield _states(spec, kernels.joint)
    yield f"{len(found)} kernels in {len(files)} files"
    for group in files:
        yield ""
        yield from _file(group)


def _states(spec: Spec, states: StateSet) -> str:
    names = ", ".join(state.name for state in spec.states if state.code in states.codes)
    values = " or ".join(states.values)
    return f"{states.name} ({states.attribute} is {values}): {names or 'no state'}"


def _file(group: list[KernelSpec]) -> Iterator[str]:
    first = group[0]
    variant, placement = first.variant, first.placement
    chosen = "".join(f", {name} {choice}" for name, choice in variant.options)
    word = "each element" if variant.elementwise else "hidden"
    yield f"{first.file}, from {first.template}"
    yield f"    {word} = {variant.kind.text}{chosen}"
    yield f"    parameters: {', '.join(variant.parameters(placement.out))}"
    for kernel in group:
        yield f"    {kernel.label}"
