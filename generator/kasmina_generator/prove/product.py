"""The exact product: every (state, epochs) with every region of the guards that are read there.

Epochs run from 0 to one more than the largest number that they are compared with; the last place
stands for all later ones. The environment chooses, at every step and anew, the fields, the limits,
the commands, whether the step is a tick, and whether a capacity has room.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from functools import cached_property

from kasmina_generator.model import Edge, Spec, State
from kasmina_generator.prove.machine import Machine, Move
from kasmina_generator.prove.regions import Finder, Region
from kasmina_generator.prove.segment import Asked, Segment, segments_of

__all__ = ["Asked", "Machine", "Move", "Product", "Segment", "Trace", "build", "segments_of"]

MOST_PLACES = 200_000  # (state, epochs); more are merged by segments, which EX and AX would see


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

    @cached_property
    def complete(self) -> bool:
        """Whether no region is missing that a formula could tell apart from the others."""
        return all(segment.regions.complete for segment in self.reachable)

    @property
    def blurred(self) -> bool:
        """Whether single epochs are not told apart everywhere."""
        return self.merged or any(segment.blurred for segment in self.reachable)

    @cached_property
    def sure(self) -> Product:
        """Only the steps that are known to be possible; all else is left out.

        It is the product itself where every region has values. A place whose regions all are
        assumed has no steps here.
        """
        if all(region.sure for _, region, _ in self.situations):
            return self
        segments = {
            name: [replace(segment, regions=segment.regions.sure) for segment in found]
            for name, found in self.segments.items()
        }
        return replace(self, segments=segments)


def _kind(move: Move) -> tuple[object, ...]:
    edge, refused = move.edge, move.refused
    return (edge and edge.index, refused and refused.index, move.tick)


def build(spec: Spec, finder: Finder, asked: Asked | None = None) -> Product:
    """Return the product of a spec, told apart as finely as formulas ask."""
    machine = Machine(spec, finder)
    asked = asked or Asked()
    segments = {state.name: segments_of(machine, state, asked) for state in spec.states}
    places = sum(found[-1].last + 1 for found in segments.values())
    return Product(machine, segments, merged=places > MOST_PLACES)
