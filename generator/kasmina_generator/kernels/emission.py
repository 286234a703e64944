"""Which files a kernels file gives, from which templates, filled with what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kasmina_generator.kernels.model import KernelSet
from kasmina_generator.kernels.specialisation import FOLDER, KernelSpec, specialisations
from kasmina_generator.kernels.variables import states_of

# Modules that all texts of a placement share: `kernels/NAME.py`, from `kernels/NAME.py.jinja`.
SHARED: dict[str, tuple[str, ...]] = {"inline": ("tiling", "sample"), "parallel": ("units",)}
CATALOGUE = "catalogue"  # of all texts
HERE = "."  # what imports of shared modules begin with, inside their package


class KernelText(NamedTuple):
    """A file to write, its template, and what that reads."""

    file: str
    template: str
    variables: dict[str, object]


def kernel_texts(kernels: KernelSet) -> Iterator[KernelText]:
    """Yield every file of the kernels of a spec."""
    shared = [name for placement in kernels.placements for name in SHARED[placement.name]]
    states = states_of(kernels.mixing.mask, kernels.joint.mask)
    for name in (CATALOGUE, *shared):
        variables = {"kernels": kernels, "states": states, "package": HERE}
        yield KernelText(f"{FOLDER}/{name}.py", f"{FOLDER}/{name}.py.jinja", variables)
    yield from texts_of(specialisations(kernels), HERE)


def texts_of(found: Iterable[KernelSpec], package: str) -> Iterator[KernelText]:
    """Yield the files of kernels, each once however many kernels it serves.

    Args:
        found: The kernels.
        package: What imports of shared modules begin with.
    """
    files = {kernel.file: kernel for kernel in found}
    for file, kernel in files.items():
        yield KernelText(file, kernel.template, {**kernel.variables, "package": package})
