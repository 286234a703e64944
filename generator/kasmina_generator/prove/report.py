"""A proof in lines that people read."""

from __future__ import annotations

from collections.abc import Iterator

from kasmina_generator.finding import counted
from kasmina_generator.model import Spec
from kasmina_generator.prove.lifetimes import Bound
from kasmina_generator.prove.proof import Proof


def heading(spec: Spec, proof: Proof) -> str:
    """Return what is known of a machine without findings; sound is what has nothing open."""
    sizes = ((spec.states, "state"), (spec.events, "event"), (spec.edges, "edge"))
    counts = ", ".join(counted(len(items), noun) for items, noun in sizes)
    name = f"{spec.name} version {spec.version}"
    if not proof.unproved:
        return f"{name} is sound: {counts}"
    open_ = counted(len(proof.unproved), "statement")
    verb = "is" if len(proof.unproved) == 1 else "are"
    return f"{name} has no fault that was found, but {open_} {verb} not proved: {counts}"


def summary(proof: Proof, *, everything: bool = False) -> Iterator[str]:
    """Yield what was proved and how, which bounds hold, and what was not proved.

    Args:
        proof: Of a machine without findings, or with.
        everything: Each proved statement and each note on a line, and the times.
    """
    size = proof.size
    parts = ((size.places, "place"), (size.nodes, "region"), (size.steps, "step"))
    product = ", ".join(counted(number, noun) for number, noun in parts)
    yield f"  proved: {counted(len(proof.proved), 'statement')}, on a product of {product}"
    if everything:
        yield from (f"    {line}" for line in proof.proved)
    yield from _bounds(proof.bounds)
    yield from (f"  not proved: {line}" for line in proof.unproved)
    if everything:
        yield from (f"  note: {line}" for line in proof.notes)
        times = (f"{stage} {seconds * 1e3:.1f}" for stage, seconds in proof.seconds.items())
        yield f"  process time in ms: {', '.join(times)}"


def _bounds(bounds: tuple[Bound, ...]) -> Iterator[str]:
    for bound in bounds:
        if bound.epochs is not None:
            yield f"  bound: what enters {bound.state} ends within {counted(bound.epochs, 'epoch')}"
    others = [bound.state for bound in bounds if bound.epochs is None]
    if others and len(others) < len(bounds):
        yield f"  no bound: {', '.join(others)}"
