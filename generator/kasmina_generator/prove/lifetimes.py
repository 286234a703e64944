"""How long an entity may live, and whether it can go on for ever without an end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import networkx as nx

from kasmina_generator.expression import Expression, Truth
from kasmina_generator.finding import Finding
from kasmina_generator.model import Edge
from kasmina_generator.prove.machine import Move
from kasmina_generator.prove.paths import Step, step, to, values
from kasmina_generator.prove.product import Product
from kasmina_generator.prove.regions import Region, Regions
from kasmina_generator.prove.segment import Segment


@dataclass(frozen=True, slots=True)
class Bound:
    """An entity that enters `state` ends within `epochs` ticks, whatever happens; None: unbounded."""

    state: str
    epochs: int | None


def lifetimes(product: Product) -> dict[int, int]:
    """Return the most ticks from each reachable place to an end, where there is a most.

    Places are settled when all that follows them is, so a circle settles nothing that leads to it.
    """
    ways = {place: product.leaving(place) for place in product.traces}
    before: dict[int, list[int]] = {place: [] for place in ways}
    open_ = dict.fromkeys(ways, 0)
    most: dict[int, int] = {}
    for place, moves in ways.items():
        if product.state(place).terminal:
            continue
        for _, move in moves:
            before[product.target(place, move)].append(place)
            open_[place] += 1
    queue = deque(place for place in ways if product.state(place).terminal or not ways[place])
    while queue:
        place = queue.popleft()
        most[place] = _longest(product, place, ways[place], most)
        for earlier in before[place]:
            open_[earlier] -= 1
            if not open_[earlier]:
                queue.append(earlier)
    return most


def _longest(
    product: Product, place: int, moves: list[tuple[Region, Move]], most: dict[int, int]
) -> int:
    if product.state(place).terminal:
        return 0
    dwell = product.ticks(place) - 1
    ticks = (dwell + move.tick + most[product.target(place, move)] for _, move in moves)
    return max(ticks, default=0)


def bounds(product: Product, most: dict[int, int]) -> tuple[Bound, ...]:
    """Return the bound of each reachable state that is no end, in the order of the spec."""
    return tuple(
        Bound(state.name, most.get(product.entry[state.name]))
        for state in product.machine.spec.states
        if not state.terminal and product.entry[state.name] in product.traces
    )


def endless(product: Product, start: int, most: dict[int, int]) -> list[Step]:
    """Return a path from `start`, which has no bound, until it comes back to a place."""
    steps: list[Step] = []
    place, seen = start, set[int]()
    while place not in seen:
        seen.add(place)
        region, move = next(
            (region, move)
            for region, move in sorted(product.leaving(place), key=lambda way: way[1].edge is None)
            if product.target(place, move) not in most
        )
        steps.append(step(product, place, region, move))
        place = product.target(place, move)
    return steps


def endless_lives(product: Product) -> Iterator[Finding]:
    """No entity can be where no end is possible any more, if the machine has ends at all."""
    ends = [place for place in product.traces if product.state(place).terminal]
    if not any(state.terminal for state in product.machine.spec.states):
        return
    hopeful = _backwards(product, ends)
    told: set[str] = set()
    for place in product.traces:
        state = product.state(place)
        if place not in hopeful and state.name not in told:
            told.add(state.name)
            what = f"state {state.name!r}: no end can be reached from here any more"
            hint = "add an edge that can be taken towards a terminal state"
            yield Finding(state.place, what, hint, to(product, place), "endless")


def _backwards(product: Product, ends: list[int]) -> set[int]:
    before: dict[int, list[int]] = {place: [] for place in product.traces}
    for place in product.traces:
        for _, move in product.leaving(place):
            before[product.target(place, move)].append(place)
    found = set(ends)
    queue = deque(ends)
    while queue:
        for earlier in before[queue.popleft()]:
            if earlier not in found:
                found.add(earlier)
                queue.append(earlier)
    return found


MOST_GUARDS = 200  # of the states of one circle; beyond, it is reported as unproved


@dataclass(frozen=True, slots=True)
class Circle:
    """States that automatic edges lead round, and the regions of all their guards together."""

    states: tuple[str, ...]
    segments: tuple[Segment, ...]  # before any time is over
    regions: Regions

    @property
    def known(self) -> bool:
        """Whether no region is missing, and values are known of each."""
        return self.regions.complete and all(region.sure for region in self.regions.found)


def circles(product: Product) -> list[Circle]:
    """Return the reachable states that automatic edges may lead round without a new life."""
    machine = product.machine
    arrows = nx.DiGraph(
        (edge.source, edge.target)
        for edge in machine.spec.edges
        if not machine.is_command(edge) and not edge.recycle and edge.source != edge.target
    )
    found = []
    for states in sorted(map(sorted, nx.strongly_connected_components(arrows))):
        if len(states) > 1 and all(product.entry[state] in product.traces for state in states):
            segments = tuple(s for state in states for s in product.segments[state] if _in_time(s))
            guards = tuple(guard for segment in segments for guard in segment.guards)
            if len(guards) <= MOST_GUARDS:
                regions = machine.finder.regions(guards)
            else:
                regions = Regions((), (), "assumed", complete=False)
            found.append(Circle(tuple(states), segments, regions))
    return found


def _in_time(segment: Segment) -> bool:
    most = segment.state.max_epochs
    return most is None or segment.first < most


def livelock(product: Product, round_: list[Circle]) -> Iterator[Finding]:
    """No unchanging values send an entity round in circles before any time is over.

    A circle by time-outs alone is how a clock works; a circle that some measured value keeps
    going, though nothing changes, is a pair of thresholds that overlap.

    Args:
        product: The product.
        round_: What `circles` has found in it.
    """
    for circle in round_:
        for region in circle.regions.sure.found:  # what is missing is told as unproved
            path = _path_round(product, circle, region)
            if path:
                yield _flaps(product, path, region)
                break


def _path_round(product: Product, circle: Circle, region: Region) -> list[Edge]:
    """Return edges that lead round under the values of one region, [] if they lead out or stop."""
    leaves = _first_moves(product, circle, region)
    for start in circle.states:
        path: list[Edge] = []
        state = start
        while state in leaves and leaves[state][0] not in path:
            path.append(leaves[state][0])
            state = path[-1].target
        if state in leaves:
            path = path[path.index(leaves[state][0]) :]
            measured = any(not isinstance(leaves[edge.source][1], Truth) for edge in path)
            if measured and len(path) > 1:
                return path
    return []


def _first_moves(
    product: Product, circle: Circle, region: Region
) -> dict[str, tuple[Edge, Expression]]:
    """Return the automatic edge by which each state is left first, with its guard as it reads."""
    leaves: dict[str, tuple[Edge, Expression]] = {}
    place = 0
    for segment in circle.segments:
        edges = product.machine.edges[segment.state.name]
        for number, edge in enumerate(edges):
            holds = region.enabled >> place + number & 1
            if holds and not product.machine.is_command(edge) and not edge.recycle:
                leaves.setdefault(segment.state.name, (edge, segment.guards[number]))
        place += len(edges)
    return leaves


def _flaps(product: Product, path: list[Edge], region: Region) -> Finding:
    start = product.entry[path[0].source]
    names = list(to(product, start))
    for number, edge in enumerate(path):
        text = f"tick + {edge.event}"
        names += [text if number else f"{text} {values(region.row)}".strip(), f"{edge.target}@0"]
    lines = ", ".join(str(edge.place.line) for edge in path)
    what = f"unchanging values send an entity round for ever, by the edges of lines {lines}"
    hint = "leave a gap between the thresholds, limits at their worst"
    return Finding(path[0].place, what, hint, tuple(names), "livelock")
