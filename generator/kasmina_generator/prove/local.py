"""What must hold of each state by itself, in every region that can be reached.

Each check returns findings with the path to the place, the step that fails, and a hint.
"""

from __future__ import annotations

from collections.abc import Iterator

from kasmina_generator.finding import Finding
from kasmina_generator.model import Edge
from kasmina_generator.prove.machine import Machine, Move
from kasmina_generator.prove.paths import Step, name, to
from kasmina_generator.prove.product import Product
from kasmina_generator.prove.regions import Region
from kasmina_generator.prove.segment import Segment


def describe(edge: Edge) -> str:
    """Return an edge as messages name it."""
    return f"'{edge.event}' from {edge.source} to {edge.target}"


def _place(product: Product, segment: Segment, epochs: int = 0) -> int:
    place = product.place_in(segment, epochs)
    assert place is not None  # callers ask for segments that are reachable
    return place


def deterministic(product: Product) -> Iterator[Finding]:
    """No two edges of one call and one priority lead apart where both guards hold."""
    seen: set[tuple[int, int]] = set()
    for segment, region, passing in product.situations:
        for one, other in _ties(product.machine, passing):
            if (one.index, other.index) not in seen:
                seen.add((one.index, other.index))
                yield _tie(product, segment, region, one, other)


def _ties(machine: Machine, passing: list[Edge]) -> Iterator[tuple[Edge, Edge]]:
    """Yield the first edge of each call with those that it beats by its place in the file only."""
    for place, one in enumerate(passing):
        if any(machine.same_trigger(one, before) for before in passing[:place]):
            continue
        for other in passing[place + 1 :]:
            if machine.tied(one, other):
                yield one, other


def _tie(product: Product, segment: Segment, region: Region, one: Edge, other: Edge) -> Finding:
    place = _place(product, segment)
    event = one.event if product.machine.is_command(one) else "tick"
    last = Step(place, event, region.row, f"{one.target}@0 or {other.target}@0")
    what = (
        f"{describe(other)} and {describe(one)} (line {one.place.line}) can both pass "
        f"with priority {one.priority}; which is taken?"
    )
    hint = "make the guards exclude each other, limits at their worst, or give one a 'priority'"
    return Finding(other.place, what, hint, to(product, place, last), "deterministic")


def total(product: Product) -> Iterator[Finding]:
    """Where a state's time is over, some automatic edge lets go at every tick."""
    told: set[str] = set()
    for segment, region, passing in product.situations:
        state = segment.state
        most = state.max_epochs
        if state.terminal or most is None or state.name in told or not segment.covers(most):
            continue
        place = product.place_in(segment, min(most, segment.last))
        if place is None or not all(map(product.machine.is_command, passing)):
            continue
        told.add(state.name)
        last = Step(place, "tick", region.row, name(product, product.older(place)))
        what = f"state {state.name!r}: max_epochs {most} is over and nothing lets it go"
        hint = "guard an automatic edge by 'timed_out', alone or as an alternative"
        yield Finding(state.place, what, hint, to(product, place, last), "total")


def starvation(product: Product) -> Iterator[Finding]:
    """No capacity that never has room keeps an entity longer than its state's time."""
    told: set[str] = set()
    for segment, region, moves in _overdue(product):
        refusal = next((move for move in moves if move.refused), None)
        if refusal is None or segment.state.name in told:
            continue
        told.add(segment.state.name)
        yield _starved(product, segment, region, refusal)


def _overdue(product: Product) -> Iterator[tuple[Segment, Region, list[Move]]]:
    """Yield the regions in which bounded states stay for ever if nothing is taken."""
    for segment in product.reachable:
        state = segment.state
        if segment.final and not state.terminal and state.max_epochs is not None:
            for region, moves in zip(segment.regions.found, product.moves(segment), strict=True):
                yield segment, region, moves


def _starved(product: Product, segment: Segment, region: Region, move: Move) -> Finding:
    edge = move.refused
    assert edge is not None
    place = _place(product, segment)
    last = Step(place, move.label(), region.row, name(product, product.older(place)))
    what = (
        f"{describe(edge)} may wait for room for ever: it is tried before the edge that ends the "
        f"wait, and a refused entity tries no other"
    )
    hint = f"give the time-out of {edge.source} a 'priority' below {edge.priority}"
    return Finding(edge.place, what, hint, to(product, place, last), "starvation")


def urgency(product: Product) -> Iterator[Finding]:
    """An urgent event that may pass is never kept back by an edge that is not urgent."""
    machine = product.machine
    told: set[tuple[int, int]] = set()
    for segment, region, passing in product.situations:
        for urgent in filter(machine.is_urgent, passing):
            for rival in _before(machine, passing, urgent):
                if (urgent.index, rival.index) not in told:
                    told.add((urgent.index, rival.index))
                    yield _preempted(product, segment, region, urgent, rival)
            if urgent.index not in machine.roomy and (urgent.index, -1) not in told:
                told.add((urgent.index, -1))
                yield _refused(product, segment, region, urgent)


def _before(machine: Machine, passing: list[Edge], urgent: Edge) -> Iterator[Edge]:
    for rival in passing[: passing.index(urgent)]:
        if not machine.is_urgent(rival):
            yield rival


def _preempted(
    product: Product, segment: Segment, region: Region, urgent: Edge, rival: Edge
) -> Finding:
    place = _place(product, segment)
    calls = [urgent.event, rival.event if product.machine.is_command(rival) else "tick"]
    last = Step(place, " + ".join(calls), region.row, f"{rival.target}@0")
    what = (
        f"urgent {describe(urgent)} is kept back by {describe(rival)} (line {rival.place.line}), "
        f"which has priority {rival.priority} before {urgent.priority}"
    )
    hint = f"give '{urgent.event}' a priority below {rival.priority}"
    return Finding(urgent.place, what, hint, to(product, place, last), "urgency")


def _refused(product: Product, segment: Segment, region: Region, urgent: Edge) -> Finding:
    place = _place(product, segment)
    move = Move(None, urgent.event, tick=True, refused=urgent)
    last = Step(place, move.label(), region.row, name(product, product.older(place)))
    what = f"urgent {describe(urgent)} may be refused for lack of room"
    hint = "lead urgent edges to states without a capacity"
    return Finding(urgent.place, what, hint, to(product, place, last), "urgency")


def unreachable(product: Product) -> Iterator[Finding]:
    """Every state can be reached, with its guards and not only by arrows."""
    reached = {product.state(place).name for place in product.traces}
    for state in product.machine.spec.states:
        if state.name not in reached:
            what = f"state {state.name!r} is never reached from {product.machine.spec.initial!r}"
            hint = "add an edge to it that can be taken, or drop the state"
            path = to(product, product.start)
            yield Finding(state.place, what, hint, path, "unreachable")


def dead_edges(product: Product) -> Iterator[Finding]:
    """Every declared transition is taken somewhere: its guard can hold, and it can be first."""
    machine = product.machine
    reached = {product.state(place).name for place in product.traces}
    passing = {edge.index for _, _, edges in product.situations for edge in edges}
    used = {edge.index for edge in taken(product)}
    declared: dict[object, list[Edge]] = {}
    for edge in machine.spec.edges:
        if edge.source in reached:
            declared.setdefault((edge.place, edge.event), []).append(edge)
    for edges in declared.values():
        if not any(edge.index in used for edge in edges):
            late = [edge for edge in edges if _holds_later(product, edge)]
            if any(edge.index in passing for edge in edges):
                yield _shadowed(product, next(e for e in edges if e.index in passing))
            else:
                yield _too_late(product, late[0]) if late else _never(product, edges[0])


def taken(product: Product) -> Iterator[Edge]:
    """Yield the edges that some step takes."""
    for segment in product.reachable:
        for _, move in product.exits[id(segment)]:
            edge = move.edge or move.refused
            if edge:
                yield edge


def _never(product: Product, edge: Edge) -> Finding:
    place = next(p for p in product.traces if product.state(p).name == edge.source)
    what = f"{describe(edge)} can never be taken: its guard holds for no values in range"
    hint = f"mend the guard {edge.text!r}" if edge.text else "mend the state's bounds"
    return Finding(edge.place, what, hint, to(product, place), "impossible")


def _holds_later(product: Product, edge: Edge) -> bool:
    """Say whether an edge's guard holds in epochs that no entity reaches."""
    place = product.machine.edges[edge.source].index(edge)
    regions = (r for s in product.segments[edge.source] for r in s.regions.found)
    return any(region.enabled >> place & 1 for region in regions)


def _too_late(product: Product, edge: Edge) -> Finding:
    place = max(p for p in product.traces if product.state(p).name == edge.source)
    exits = dict.fromkeys(
        f"{describe(move.edge)} (line {move.edge.place.line})"
        for _, move in product.leaving(place)
        if move.tick and move.command is None and move.edge
    )
    what = (
        f"{describe(edge)} can never be taken: {edge.source} is always left before its guard can "
        f"hold, by {' or '.join(exits)}"
    )
    hint = "drop it, narrow the earlier guards, or let this one hold earlier"
    return Finding(edge.place, what, hint, to(product, place), "impossible")


def _shadowed(product: Product, edge: Edge) -> Finding:
    segment, region, passing = next(
        each for each in product.situations if any(e is edge for e in each[2])
    )
    first = next(e for e in passing if product.machine.same_trigger(e, edge))
    place = _place(product, segment)
    last = Step(place, first.event, region.row, f"{first.target}@0")
    what = (
        f"{describe(edge)} can never be taken: wherever its guard holds, an earlier edge passes, "
        f"such as {describe(first)} (line {first.place.line})"
    )
    hint = "drop it, narrow the earlier guard or give it an earlier 'priority'"
    return Finding(edge.place, what, hint, to(product, place, last), "shadowed")
