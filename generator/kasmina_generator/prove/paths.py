"""Witnesses: a path of states, epochs, events and the values that let it happen, as names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

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


def realised(product: Product, names: Sequence[str]) -> tuple[str, ...]:
    """Return a path of names with epochs and values as far as some lead along it, () for none.

    Args:
        product: Where it is walked.
        names: States and events by turns; waiting in between is filled in.
    """
    start = product.entry.get(names[0], -1) if names else -1
    if start not in product.traces:
        return ()
    place, steps = start, traced(product, start)
    for number in range(1, len(names), 2):
        hop = _hop(product, place, *names[number : number + 2])
        if not hop:
            return (*witness(product, place, steps), *names[number:])
        steps += hop
        place = product.entry[names[number + 1]]
    return witness(product, place, steps)


def _hop(product: Product, place: int, event: str, target: str) -> list[Step]:
    """Return the steps that wait, as long as it takes, and then leave by an event; [] for none."""
    steps: list[Step] = []
    seen: set[int] = set()
    while place not in seen:
        seen.add(place)
        moves = product.leaving(place)
        for region, move in moves:
            if move.edge and (move.edge.event, move.edge.target) == (event, target):
                return [*steps, step(product, place, region, move)]
        wait = next(((region, move) for region, move in moves if move.edge is None), None)
        if wait is None:
            return []
        steps.append(step(product, place, *wait))
        place = product.older(place)
    return []
