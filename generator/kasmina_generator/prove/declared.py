"""The properties that a spec declares, each proved on the product or refuted by a path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from kasmina_generator.finding import Finding
from kasmina_generator.model import Property, Scalar
from kasmina_generator.prove.domain import Domain
from kasmina_generator.prove.evaluate import Row
from kasmina_generator.prove.lifetimes import endless
from kasmina_generator.prove.paths import Step, name, step, to, traced, values, witness
from kasmina_generator.prove.product import Product, build
from kasmina_generator.prove.regions import Finder

MOST_CORNERS = 32  # choices of all limits at their ends that are tried where not all were

Proof = Callable[[Product, Property, dict[int, int]], Iterator[Finding]]


def _fault(found: Property, what: str, path: tuple[str, ...], hint: str) -> Finding:
    text = f"property {found.name!r} does not hold: {what}"
    return Finding(found.place, text, hint, path, found.kind)


def must_pass(product: Product, asked: Property, _: dict[int, int]) -> Iterator[Finding]:
    """Nothing comes to `to` without having been in `through`, in this life of its slot."""
    machine, roles = product.machine, dict(asked.arguments)
    goals, through = machine.groups[roles["to"]], machine.groups[roles["through"]]
    lives = {edge.target for edge in machine.spec.edges if edge.recycle}
    for birth in dict.fromkeys([machine.spec.initial, *sorted(lives)]):
        start = product.entry[birth]
        if birth in through or start not in product.traces:
            continue
        found = product.search(start, avoid=through)
        goal = next((place for place in found if product.state(place).name in goals), None)
        if goal is not None:
            steps = [*traced(product, start), *traced(product, goal, found)]
            what = f"{product.state(goal).name} is reached without {roles['through']}"
            hint = f"lead every way to {roles['to']} through {roles['through']}"
            yield _fault(asked, what, witness(product, goal, steps), hint)
            return


def handles(product: Product, asked: Property, _: dict[int, int]) -> Iterator[Finding]:
    """In each state of `in`, the event always finds an edge whose guard holds."""
    roles = dict(asked.arguments)
    states = product.machine.groups[roles["in"]]
    told: set[str] = set()
    for segment, region, passing in product.situations:
        state = segment.state.name
        if state not in states or state in told:
            continue
        if not any(edge.event == roles["event"] for edge in passing):
            told.add(state)
            place = product.place_in(segment)
            assert place is not None
            last = Step(place, roles["event"], region.row, name(product, place))
            what = f"{roles['event']} does nothing in {state}"
            hint = f"add an edge from {state} on {roles['event']} whose guard holds there"
            yield _fault(asked, what, to(product, place, last), hint)


def absorbing(product: Product, asked: Property, _: dict[int, int]) -> Iterator[Finding]:
    """What has come to a state never leaves it."""
    states = product.machine.groups[dict(asked.arguments)["state"]]
    for place in product.traces:
        if product.state(place).name in states:
            for region, move in product.leaving(place):
                if move.edge and move.edge.target not in states:
                    path = to(product, place, step(product, place, region, move))
                    line = move.edge.place.line
                    what = f"{move.edge.source} is left by {move.edge.event} (line {line})"
                    yield _fault(asked, what, path, "drop this edge or the property")
                    return


def bounded(product: Product, asked: Property, most: dict[int, int]) -> Iterator[Finding]:
    """What has come to a state ends, whatever happens."""
    machine = product.machine
    for state in sorted(machine.groups[dict(asked.arguments)["from"]]):
        start = product.entry[state]
        if start in product.traces and start not in most:
            steps = endless(product, start, most)
            last = product.state(steps[-1].place)
            waits = machine.waits(last) and steps[-1].target == name(product, steps[-1].place)
            why = "which is declared to wait unbounded" if waits else "and may come back for ever"
            path = witness(product, start, [*traced(product, start), *steps])
            what = f"an entity in {state} comes to {last.name}, {why}"
            yield _fault(asked, what, path, "end each wait by a time-out that leads to an end")
            return


def reachable(product: Product, asked: Property, _: dict[int, int]) -> Iterator[Finding]:
    """Each state can be reached; limits that stand in the way are told by `worst_limits`."""
    reached = {product.state(place).name for place in product.traces}
    for state in sorted(product.machine.groups[dict(asked.arguments)["state"]]):
        if state not in reached:
            what = f"no steps lead from {product.machine.spec.initial} to {state}"
            path = to(product, product.start)
            yield _fault(asked, what, path, f"mend the guards of the edges that lead to {state}")


def worst_limits(product: Product) -> Iterator[tuple[Property, str, bool]]:
    """Yield what limits, within their ranges, keep a state from being reached after all.

    The last of the three says whether they are known to; otherwise nobody knows. Where not every
    row was tried, some limits at the ends of their ranges are, each choice for a whole life.
    """
    reached = {product.state(place).name for place in product.traces}
    for asked in product.machine.spec.properties:
        if asked.kind != "reachable":
            continue
        for state in sorted(product.machine.groups[dict(asked.arguments)["state"]] & reached):
            if product.start in _whatever_the_limits(product, state, known=False):
                continue
            hopeful = _whatever_the_limits(product, state, known=True)
            if product.start not in hopeful:
                place, limits = _where_hope_ends(product, hopeful)
            elif (closing := _closing(product, state)) is not None:
                place, limits = product.start, closing
            else:
                yield asked, f"{asked.name}: whether {state} is reached under all limits", False
                continue
            way = f"no way leads from {product.state(place).name} to {state}"
            yield asked, f"{asked.name}: with limits {values(limits)} {way}", True


def _closing(product: Product, state: str) -> Row | None:
    """Return limits that, fixed for good, keep a state from being reached; None: none was found."""
    finder, spec = product.machine.finder, product.machine.spec
    limits = [domain for domain in finder.domains.values() if domain.is_limit]
    for corner in islice(_corners(limits), MOST_CORNERS):
        fixed = {d.name: replace(d, low=v, high=v, default=v) for d, v in corner}
        found = build(spec, Finder({**finder.domains, **fixed}, finder.oracle))
        if all(found.state(place).name != state for place in found.traces):
            return {domain.name: value for domain, value in corner}
    return None


def _corners(limits: list[Domain]) -> Iterator[list[tuple[Domain, Scalar]]]:
    """Yield limits at their ends: all low, all high, then one of them otherwise than the others."""
    for odd in (None, *limits):
        for high in (False, True):
            yield [(d, d.high if high != (d is odd) else d.low) for d in limits]


def _whatever_the_limits(product: Product, state: str, *, known: bool) -> set[int]:
    """Return the places from which `state` is reached though the worst limits are set each time.

    Args:
        product: The product.
        state: The goal.
        known: Limits block a way only where they are known to; False: also where they may.
    """
    found = {place for place in product.traces if product.state(place).name == state}
    size = -1
    while size != len(found):
        size = len(found)
        for place in reversed(product.traces):
            if place not in found and not _blocking(product, place, found, known=known):
                found.add(place)
    return found


def _blocking(product: Product, place: int, goals: set[int], *, known: bool) -> list[Row]:
    """Return limits under which no step leads to `goals`; what may be such limits is empty."""
    segment, _ = product.places[place]
    helpful = 0
    for number, moves in enumerate(product.moves(segment)):
        if any(product.target(place, move) in goals for move in moves):
            helpful |= 1 << number
    choices = segment.regions.choices
    return [
        limits or {}
        for left, limits in choices
        if not left & helpful and not (known and limits is None)
    ]


def _where_hope_ends(product: Product, hopeful: set[int]) -> tuple[int, Row]:
    """Return a place from which only some limits lead on, and limits that do not."""
    for place in product.traces:
        if place not in hopeful:
            leads_on = any(
                product.target(place, move) in hopeful for _, move in product.leaving(place)
            )
            limits = _blocking(product, place, hopeful, known=True)
            if leads_on and limits:
                return place, limits[0]
    raise AssertionError("some place loses its way by limits")


PROOFS: dict[str, Proof] = {
    "must_pass": must_pass,
    "handles": handles,
    "absorbing": absorbing,
    "reachable": reachable,
    "bounded": bounded,
}
