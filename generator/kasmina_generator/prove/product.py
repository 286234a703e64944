"""The exact product: every (state, epochs) with every region of the guards that are read there.

Epochs run from 0 to one more than the largest number that they are compared with; the last place
stands for all later ones. A *segment* is a stretch of epochs in which the guards of a state read
the same, so regions are found once for each. The environment chooses, at every step and anew, the
fields, the limits, the commands, whether the step is a tick, and whether a capacity has room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from kasmina_generator.expression import (
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Field,
    LimitRef,
    Negative,
)
from kasmina_generator.model import Edge, Event, Spec, State
from kasmina_generator.prove.domain import Domain, domains
from kasmina_generator.prove.evaluate import at_epochs, atoms, variables
from kasmina_generator.prove.regions import Finder, Question, Region, Regions

MOST_EPOCHS = 32_767  # the counter is an int16 that saturates
MOST_PLACES = 200_000  # (state, epochs); more are merged by segments, which EX and AX would see


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


@dataclass(frozen=True, slots=True)
class Move:
    """What a step does with an entity in one region; `edge` None: it stays and grows older."""

    edge: Edge | None
    command: str | None  # the command that is given
    tick: bool
    refused: Edge | None = None  # it stays because this edge found no room

    def label(self) -> str:
        """Return the step's event as a witness names it."""
        parts = [part for part in (self.command, "tick" if self.tick else None) if part]
        if self.refused:
            parts.append(f"no room for {self.refused.event} to {self.refused.target}")
        elif self.edge and self.edge.event != self.command:
            parts.append(self.edge.event)
        return " + ".join(parts)


@dataclass(frozen=True)
class Machine:
    """A spec with what every check asks of it."""

    spec: Spec
    finder: Finder = field(repr=False)

    @cached_property
    def states(self) -> dict[str, State]:
        """States by name."""
        return {state.name: state for state in self.spec.states}

    @cached_property
    def events(self) -> dict[str, Event]:
        """Events by name; the event of recycling edges is none of them."""
        return {event.name: event for event in self.spec.events}

    @cached_property
    def groups(self) -> dict[str, frozenset[str]]:
        """The states of each group, and each state as a group of its own."""
        single = {state.name: frozenset([state.name]) for state in self.spec.states}
        return single | {group.name: frozenset(group.states) for group in self.spec.groups}

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """The values of each field and limit."""
        return domains(self.spec)

    @cached_property
    def edges(self) -> dict[str, tuple[Edge, ...]]:
        """The edges of each state, in the order in which they are tried."""
        leaving: dict[str, list[Edge]] = {state.name: [] for state in self.spec.states}
        for edge in self.spec.edges:
            leaving[edge.source].append(edge)
        return {name: tuple(edges) for name, edges in leaving.items()}

    @cached_property
    def roomy(self) -> frozenset[int]:
        """The edges, by index, that need no room."""
        full = {
            e.index for e in self.spec.edges for c in self.spec.capacities if _asks(e, c.states)
        }
        return frozenset(edge.index for edge in self.spec.edges) - full

    def is_command(self, edge: Edge) -> bool:
        """Say whether an edge waits for a command; the others pass at ticks."""
        return edge.event in self.events and self.events[edge.event].kind == "command"

    def is_urgent(self, edge: Edge) -> bool:
        """Say whether an edge's event is urgent."""
        return edge.event in self.events and self.events[edge.event].urgent

    def waits(self, state: State) -> bool:
        """Say whether a state is declared to wait without bound."""
        return not state.terminal and state.max_epochs is None

    def same_trigger(self, one: Edge, other: Edge) -> bool:
        """Say whether two edges of a state answer the same call: an event, or the tick."""
        if self.is_command(one) or self.is_command(other):
            return one.event == other.event
        return True

    def tied(self, one: Edge, other: Edge) -> bool:
        """Say whether only the order of declaration decides between two edges that differ."""
        same = self.same_trigger(one, other) and one.priority == other.priority
        return same and _result(one) != _result(other)

    def moves(self, edges: tuple[Edge, ...], enabled: int) -> Iterator[Move]:
        """Yield everything that can happen where the guards in `enabled` hold.

        Several commands at once give nothing new: the first of them in the order of edges is
        taken, as if it had come alone.
        """
        passing = [edge for place, edge in enumerate(edges) if enabled >> place & 1]
        own = next((edge for edge in passing if not self.is_command(edge)), None)
        yield from self._at_tick(own, None)
        seen: set[str] = set()
        for edge in passing:
            if self.is_command(edge) and edge.event not in seen:
                seen.add(edge.event)
                yield Move(edge, edge.event, tick=False)
                if own is None or edge.index < own.index:
                    yield from self._at_tick(edge, edge.event)

    def _at_tick(self, edge: Edge | None, command: str | None) -> Iterator[Move]:
        yield Move(edge, command, tick=True)
        if edge is not None and edge.index not in self.roomy:
            yield Move(None, command, tick=True, refused=edge)


def _result(edge: Edge) -> tuple[object, ...]:
    return (edge.target, edge.effects, edge.recycle)


def _asks(edge: Edge, states: tuple[str, ...]) -> bool:
    return edge.target in states and edge.source not in states


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


@dataclass(frozen=True, slots=True)
class Trace:
    """How a place is first reached: from another place, by a move in a region."""

    before: int
    region: Region
    move: Move


@dataclass(frozen=True)
class Product:
    """The places (state, epochs) of a machine, and the steps between them.

    Where there are too many places, `merged` is true and a place stands for a whole segment.
    """

    machine: Machine
    segments: dict[str, list[Segment]]
    merged: bool

    @cached_property
    def places(self) -> list[tuple[Segment, int]]:
        """Every place as its segment and epochs, those of one state together and in order."""
        return [
            (segment, epochs)
            for state in self.machine.spec.states
            for segment in self.segments[state.name]
            for epochs in (
                [segment.first] if self.merged else range(segment.first, segment.last + 1)
            )
        ]

    @cached_property
    def entry(self) -> dict[str, int]:
        """The place in which a state is entered."""
        return {s.state.name: i for i, (s, epochs) in enumerate(self.places) if epochs == 0}

    @property
    def start(self) -> int:
        """The place in which every entity begins."""
        return self.entry[self.machine.spec.initial]

    def older(self, place: int) -> int:
        """Return the place one tick later (one segment later where merged)."""
        segment, epochs = self.places[place]
        final = segment.final and (self.merged or epochs == segment.last)
        return place if final else place + 1

    def ticks(self, place: int) -> int:
        """Return how many ticks a place stands for."""
        segment, _ = self.places[place]
        return segment.last - segment.first + 1 if self.merged and not segment.final else 1

    def target(self, place: int, move: Move) -> int:
        """Return where a move leads."""
        return self.entry[move.edge.target] if move.edge else self.older(place)

    @cached_property
    def steps(self) -> dict[int, list[list[Move]]]:
        """The moves of each region, by the segment's identity."""
        found = {}
        for segments in self.segments.values():
            for segment in segments:
                edges = self.machine.edges[segment.state.name]
                regions = segment.regions.found
                found[id(segment)] = [list(self.machine.moves(edges, r.enabled)) for r in regions]
        return found

    def moves(self, segment: Segment) -> list[list[Move]]:
        """Return the moves of each region of a segment."""
        return self.steps[id(segment)]

    @cached_property
    def exits(self) -> dict[int, list[tuple[Region, Move]]]:
        """One region for each different move of a segment, by the segment's identity."""
        found: dict[int, list[tuple[Region, Move]]] = {}
        for segments in self.segments.values():
            for segment in segments:
                first: dict[tuple[object, ...], tuple[Region, Move]] = {}
                for region, moves in zip(segment.regions.found, self.moves(segment), strict=True):
                    for move in moves:
                        first.setdefault(_kind(move), (region, move))
                found[id(segment)] = list(first.values())
        return found

    def leaving(self, place: int) -> list[tuple[Region, Move]]:
        """Return one region for each different move from a place."""
        return self.exits[id(self.places[place][0])]

    @cached_property
    def traces(self) -> dict[int, Trace | None]:
        """Every place that can be reached, in the order of distance, and how."""
        return self.search(self.start)

    def search(self, start: int, avoid: frozenset[str] = frozenset()) -> dict[int, Trace | None]:
        """Return the places that can be reached from `start` without entering `avoid`."""
        found: dict[int, Trace | None] = {start: None}
        queue = deque([start])
        while queue:
            place = queue.popleft()
            for region, move in self.leaving(place):
                target = self.target(place, move)
                if target not in found and self.state(target).name not in avoid:
                    found[target] = Trace(place, region, move)
                    queue.append(target)
        return found

    def state(self, place: int) -> State:
        """Return the state of a place."""
        return self.places[place][0].state

    @cached_property
    def reachable(self) -> list[Segment]:
        """The segments that can be reached, in the order of states."""
        identities = {id(self.places[place][0]) for place in self.traces}
        return [s for found in self.segments.values() for s in found if id(s) in identities]

    @cached_property
    def situations(self) -> list[tuple[Segment, Region, list[Edge]]]:
        """Every reachable region of every segment, with the edges whose guards hold, in order."""
        return [
            (segment, region, [e for i, e in enumerate(edges) if region.enabled >> i & 1])
            for segment in self.reachable
            for edges in [self.machine.edges[segment.state.name]]
            for region in segment.regions.found
        ]

    def place_in(self, segment: Segment, epochs: int = 0) -> int | None:
        """Return the first reachable place of a segment with at least `epochs`, None if there is none."""
        return next(
            (
                p
                for p in self.traces
                if self.places[p][0] is segment and self.places[p][1] >= epochs
            ),
            None,
        )

    @property
    def assumed(self) -> bool:
        """Whether regions may stand here that no values give, because Z3 is missing."""
        return any(s.regions.how == "assumed" for found in self.segments.values() for s in found)


def _kind(move: Move) -> tuple[object, ...]:
    edge, refused = move.edge, move.refused
    return (edge and edge.index, refused and refused.index, move.tick)


def build(spec: Spec, finder: Finder, least: int = -1) -> Product:
    """Return the product of a spec; epochs up to `least` are told apart in every state."""
    machine = Machine(spec, finder)
    segments = {state.name: segments_of(machine, state, least) for state in spec.states}
    places = sum(found[-1].last + 1 for found in segments.values())
    return Product(machine, segments, merged=places > MOST_PLACES)
