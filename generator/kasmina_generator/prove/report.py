"""A proof in lines that people read."""

from __future__ import annotations

from collections.abc import Iterator

from kasmina_generator.prove.lifetimes import Bound
from kasmina_generator.prove.proof import Proof


def summary(proof: Proof, *, everything: bool = False) -> Iterator[str]:
    """Yield what was proved and how, which bounds hold, and what was not proved.

    Args:
        proof: Of a machine without findings, or with.
        everything: Each proved statement and each note on a line, and the times.
    """
    size, lines = proof.size, len(proof.proved)
    product = f"{size.places} places, {size.nodes} regions, {size.steps} steps"
    yield f"  proved: {lines} statements, on a product of {product}"
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
            yield f"  bound: what enters {bound.state} ends within {bound.epochs} epochs"
    others = [bound.state for bound in bounds if bound.epochs is None]
    if others and len(others) < len(bounds):
        yield f"  no bound: {', '.join(others)}"
