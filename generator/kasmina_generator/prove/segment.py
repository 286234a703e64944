"""The segments of a state: stretches of epochs in which its guards read the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

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
from kasmina_generator.prove.evaluate import at_epochs, atoms, is_ordering, variables
from kasmina_generator.prove.machine import Machine
from kasmina_generator.prove.regions import Finder, Question, Regions

MOST_EPOCHS = 32_767  # the counter is an int16 that saturates
MOST_TURNS = 1 << 12  # stretches of epochs of one state; what comes later is taken together
MOST_COMPUTED = 1 << 8  # the same where guards compute with epochs: Z3 is asked for each


@dataclass(frozen=True, slots=True)
class Segment:
    """Epochs `[first, last]` of one state, in which its guards read the same."""

    state: State
    first: int
    last: int
    final: bool  # `last` stands for every later epoch too
    guards: tuple[Expression, ...]  # of the state's edges, in the order in which they are tried
    regions: Regions
    blurred: bool = False  # its guards do not read the same: epochs are one more unknown

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


@dataclass(frozen=True, slots=True)
class Asked:
    """What formulas ask of every state: epochs up to `least` apart, and events that are enabled."""

    least: int = -1
    enabled: frozenset[str] | None = None  # None: there are no formulas


def segments_of(machine: Machine, state: State, asked: Asked) -> list[Segment]:
    """Return the segments of one state, in order.

    Where there are too many, the last one stands for all later epochs, and its regions are
    those of any of them.
    """
    edges = machine.edges[state.name]
    guards = tuple(edge.guard for edge in edges)
    last = max(horizon(guards, machine.domains), state.max_epochs or -1, asked.least) + 1
    found: list[Segment] = []
    computed = 0
    for first, end in stretches(guards, last):
        here = tuple(at_epochs(guard, first) for guard in guards)
        if found and found[-1].guards == here:  # `epochs >= 5 and epochs >= 9` turns but once
            found[-1] = replace(found[-1], last=end, final=end == last)
            continue
        computed += not all(is_ordering(atom) for guard in here for atom in atoms(guard))
        if computed > MOST_COMPUTED or len(found) == MOST_TURNS:
            regions = _any_later(machine, edges, first, last, asked)
            return [*found, Segment(state, first, first, True, guards, regions, blurred=True)]
        regions = _regions(machine, machine.finder, edges, here, asked)
        found.append(Segment(state, first, end, end == last, here, regions))
    return found


def _regions(
    machine: Machine,
    finder: Finder,
    edges: tuple[Edge, ...],
    guards: tuple[Expression, ...],
    asked: Asked,
) -> Regions:
    return finder.regions(guards, questions(machine, edges), views(machine, edges, asked.enabled))


def _any_later(
    machine: Machine, edges: tuple[Edge, ...], first: int, last: int, asked: Asked
) -> Regions:
    """Return the regions of all epochs from `first`, none of which is sure at any one of them."""
    epochs = Domain("epochs", "int32", first, max(last, MOST_EPOCHS), first, False, False, False)
    finder = Finder({**machine.finder.domains, "epochs": epochs}, machine.finder.oracle)
    guards = tuple(edge.guard for edge in edges)
    regions = _regions(machine, finder, edges, guards, asked)
    found = tuple(replace(region, sure=False) for region in regions.found)
    return replace(regions, found=found, how="assumed")


def questions(machine: Machine, edges: tuple[Edge, ...]) -> list[Question]:
    """Return what the checks ask of a state that has too many regions to list them all.

    Each edge as the first of its trigger, ties of equal priority, urgent edges beside earlier ones,
    each guard by itself, each event with none of its edges, and no automatic edge at all.
    """
    everywhere = range(len(edges))
    automatic = _automatic(machine, edges)
    asked = [(0, automatic), *((0, _edges_of(edges, edge.event)) for edge in edges)]
    for i in everywhere:
        before = _before(machine, edges, i)
        asked += [(1 << i, before), (1 << i, before | automatic & ((1 << i) - 1)), (1 << i, 0)]
        asked += [
            (1 << i | 1 << j, before)
            for j in everywhere[i + 1 :]
            if machine.tied(edges[i], edges[j])
        ]
        if machine.is_urgent(edges[i]):
            asked += [(1 << i | 1 << j, 0) for j in range(i) if not machine.is_urgent(edges[j])]
    return list(dict.fromkeys(asked))


def views(
    machine: Machine, edges: tuple[Edge, ...], enabled: frozenset[str] | None
) -> list[Question]:
    """Return what formulas see of a region: the first edge of each call, and enabled events."""
    if enabled is None:
        return []
    firsts = [(1 << i, _before(machine, edges, i)) for i in range(len(edges))]
    return [*firsts, *((0, _edges_of(edges, event)) for event in sorted(enabled))]


def _automatic(machine: Machine, edges: tuple[Edge, ...]) -> int:
    return sum(1 << i for i, edge in enumerate(edges) if not machine.is_command(edge))


def _edges_of(edges: tuple[Edge, ...], event: str) -> int:
    return sum(1 << i for i, edge in enumerate(edges) if edge.event == event)


def _before(machine: Machine, edges: tuple[Edge, ...], place: int) -> int:
    """Return the earlier edges that answer the same call."""
    return sum(1 << j for j in range(place) if machine.same_trigger(edges[place], edges[j]))
