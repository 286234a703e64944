"""Witnesses: a path of states, epochs, events and the values that let it happen, as names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from kasmina_generator.model import Scalar
from kasmina_generator.prove.domain import show
from kasmina_generator.prove.evaluate import Row
from kasmina_generator.prove.machine import Move
from kasmina_generator.prove.product import Product, Trace
from kasmina_generator.prove.regions import Region


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a witness: from a place, what happens, with which values, to what."""

    place: int
    event: str
    row: Row
    target: str

    @property
    def text(self) -> str:
        """Return the event with its values."""
        return f"{self.event} {values(self.row)}".strip()


def values(row: Row) -> str:
    """Return `[a=1, b=0.5]`, or nothing for no values."""
    return f"[{', '.join(f'{name}={show(value)}' for name, value in row.items())}]" if row else ""


def name(product: Product, place: int) -> str:
    """Return `STATE@epochs`."""
    segment, epochs = product.places[place]
    return f"{segment.state.name}@{epochs}"


def step(product: Product, place: int, region: Region, move: Move) -> Step:
    """Return the step that a move makes."""
    target = name(product, product.target(place, move))
    return Step(place, move.label(), region.row, target)


def traced(
    product: Product, place: int, traces: dict[int, Trace | None] | None = None
) -> list[Step]:
    """Return the steps of a shortest path to `place`."""
    found: list[Step] = []
    known = product.traces if traces is None else traces
    trace = known[place]
    while trace is not None:
        found.append(step(product, trace.before, trace.region, trace.move))
        trace = known[trace.before]
    return found[::-1]


def witness(product: Product, place: int, steps: Sequence[Step]) -> tuple[str, ...]:
    """Return states and events by turns, steps that only wait drawn together.

    Args:
        product: Where the places are.
        place: Where the path begins; it is all of the path if there are no steps.
        steps: The path.
    """
    names = [name(product, steps[0].place if steps else place)]
    for (text, _), run in groupby(steps, key=lambda s: (s.text, product.state(s.place).name)):
        same = list(run)
        names += [text if len(same) == 1 else f"{text} x{len(same)}", same[-1].target]
    return tuple(names)


def to(product: Product, place: int, *more: Step) -> tuple[str, ...]:
    """Return the witness of a shortest path to `place` and the steps that follow."""
    return witness(product, place, [*traced(product, place), *more])


def merged_row(*rows: Row) -> dict[str, Scalar]:
    """Return all values of several rows."""
    return {key: value for row in rows for key, value in row.items()}
