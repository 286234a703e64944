"""The segments of a state: stretches of epochs in which its guards read the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kasmina_generator.expression import (
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Field,
    LimitRef,
    Negative,
)
from kasmina_generator.model import Edge, State
from kasmina_generator.prove.domain import Domain
from kasmina_generator.prove.evaluate import at_epochs, atoms, variables
from kasmina_generator.prove.machine import Machine
from kasmina_generator.prove.regions import Question, Regions

MOST_EPOCHS = 32_767  # the counter is an int16 that saturates


@dataclass(frozen=True, slots=True)
class Segment:
    """Epochs `[first, last]` of one state, in which its guards read the same."""

    state: State
    first: int
    last: int
    final: bool  # `last` stands for every later epoch too
    guards: tuple[Expression, ...]  # of the state's edges, in the order in which they are tried
    regions: Regions

    def covers(self, epochs: int) -> bool:
        """Say whether some epoch of the segment is at least `epochs`."""
        return self.final or self.last >= epochs


def horizon(guards: Iterable[Expression], ranges: dict[str, Domain]) -> int:
    """Return the largest number that the guards compare epochs with, -1 if there is none."""
    most = -1
    for guard in guards:
        for atom in atoms(guard):
            if isinstance(atom, Comparison) and any(v.name == "epochs" for v in variables(atom)):
                most = max(most, _bound(atom, ranges))
    return min(most, MOST_EPOCHS)


def _bound(atom: Comparison, ranges: dict[str, Domain]) -> int:
    most = -1
    for side in (atom.left, atom.right):
        match side:
            case Arithmetic() | Negative():
                return MOST_EPOCHS
            case Constant(value=value):
                most = max(most, int(value))
            case Field(name=name) | LimitRef(name=name) if name in ranges:
                most = max(most, int(ranges[name].high))
    return most


def stretches(guards: tuple[Expression, ...], last: int) -> Iterator[tuple[int, int]]:
    """Yield `[first, last]` of each stretch of epochs in which no comparison of epochs turns."""
    turns = {0}
    for atom in (atom for guard in guards for atom in atoms(guard)):
        if isinstance(atom, Comparison) and any(v.name == "epochs" for v in variables(atom)):
            turns |= _turns(atom, last)
    starts = sorted(turn for turn in turns if turn <= last)
    yield from zip(starts, [start - 1 for start in starts[1:]] + [last], strict=True)


def _turns(atom: Comparison, last: int) -> set[int]:
    match atom.left, atom.right:
        case (Field(name="epochs"), Constant(value=value)):
            return {int(value), int(value) + 1} - {-1}
        case (Constant(value=value), Field(name="epochs")):
            return {int(value), int(value) + 1} - {-1}
        case _:
            return set(range(last + 1))


def segments_of(machine: Machine, state: State, least: int = -1) -> list[Segment]:
    """Return the segments of one state, in order; epochs up to `least` are told apart."""
    edges = machine.edges[state.name]
    guards = tuple(edge.guard for edge in edges)
    last = max(horizon(guards, machine.domains), state.max_epochs or -1, least) + 1
    found: list[Segment] = []
    for first, end in stretches(guards, last):
        here = tuple(at_epochs(guard, first) for guard in guards)
        if found and found[-1].guards == here:  # `epochs >= 5 and epochs >= 9` turns but once
            found[-1] = _longer(found[-1], end, end == last)
        else:
            regions = machine.finder.regions(here, questions(machine, edges, here))
            found.append(Segment(state, first, end, end == last, here, regions))
    return found


def _longer(segment: Segment, last: int, final: bool) -> Segment:
    return Segment(segment.state, segment.first, last, final, segment.guards, segment.regions)


def questions(
    machine: Machine, edges: tuple[Edge, ...], guards: tuple[Expression, ...]
) -> list[Question]:
    """Return what the checks ask of a state that has too many regions to list them all.

    Each edge as the first of its trigger, ties of equal priority, urgent edges beside earlier ones,
    and no automatic edge at all.
    """
    everywhere = range(len(edges))
    automatic = sum(1 << i for i in everywhere if not machine.is_command(edges[i]))
    asked = [(0, automatic)]
    for i in everywhere:
        before = sum(1 << j for j in range(i) if machine.same_trigger(edges[i], edges[j]))
        asked += [(1 << i, before), (1 << i, before | automatic & ((1 << i) - 1))]
        asked += [
            (1 << i | 1 << j, before)
            for j in everywhere[i + 1 :]
            if machine.tied(edges[i], edges[j])
        ]
        if machine.is_urgent(edges[i]):
            asked += [(1 << i | 1 << j, 0) for j in range(i) if not machine.is_urgent(edges[j])]
    return list(dict.fromkeys(asked))
