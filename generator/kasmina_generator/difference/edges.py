"""Rules on edges: where they lead, when they pass, in which order they are tried."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, islice

from kasmina_generator.difference.guards import Relating, Relation, Row
from kasmina_generator.difference.matching import Pair, label
from kasmina_generator.difference.records import Found, Witness
from kasmina_generator.difference.rule import Find, Rule, shown
from kasmina_generator.emit.prose import prose
from kasmina_generator.expression import All, Expression
from kasmina_generator.model import Edge
from kasmina_generator.normal_form import conjunction

MOST_PAIRS = 200  # of edges of a state that changed places, asked whether both can pass

Both = tuple[Edge, Edge]


def _added(pair: Pair) -> Iterator[Found]:
    for edge in pair.edges.added:
        what = f"is new, with guard {edge.text!r}" if edge.text else "is new, without a guard"
        yield Found(label(edge), what, None, edge.place)


def _removed(pair: Pair) -> Iterator[Found]:
    for edge in pair.edges.removed:
        yield Found(label(edge), "is gone", edge.place, None)


def _changed(name: str) -> Find:
    def find(pair: Pair) -> Iterator[Found]:
        for old, new in pair.edges.both:
            values = (getattr(old, name), getattr(new, name))
            if values[0] != values[1]:
                what = f"{name} was {shown(values[0])}, is {shown(values[1])}"
                yield Found(label(new), what, old.place, new.place)

    return find


def _effects(pair: Pair) -> Iterator[Found]:
    for old, new in pair.edges.both:
        if set(old.effects) != set(new.effects):
            what = f"effects were {shown(old.effects)}, are {shown(new.effects)}"
            yield Found(label(new), what, old.place, new.place)


def _index(pair: Pair) -> Iterator[Found]:
    """One finding for all: an edge more shifts every number after it."""
    moved = [(old, new) for old, new in pair.edges.both if old.index != new.index]
    if moved:
        old, new = moved[0]
        what = f"the first is {label(new)}: {old.index} before, {new.index} now"
        yield Found(_edges(len(moved)), what, old.place, new.place)


def _edges(count: int) -> str:
    return f"{count} {'edge' if count == 1 else 'edges'}"


def _guards(*relations: Relation) -> Find:
    def find(pair: Pair) -> Iterator[Found]:
        for old, new in pair.edges.both:
            if old.guard != new.guard:
                relating = pair.prover.relate(old.guard, new.guard)
                if relating.relation in relations:
                    yield _guard(old, new, relating)

    return find


def _guard(old: Edge, new: Edge, relating: Relating) -> Found:
    before, after = (repr(text) if text else "none" for text in (old.text, new.text))
    if old.text == new.text:  # a named guard, or an epoch of the state, changed
        before, after = (repr(_clause(edge.guard, other.guard)) for edge, other in _both(old, new))
    rows = (("passes no more", relating.lost), ("passes now", relating.gained))
    return Found(
        label(new),
        f"guard {before} became {after}: {relating.relation}",
        old.place,
        new.place,
        proof=relating.proof,
        witnesses=tuple(Witness(says, row) for says, row in rows if row is not None),
    )


def _both(old: Edge, new: Edge) -> tuple[Both, Both]:
    return (old, new), (new, old)


def _clause(guard: Expression, other: Expression) -> str:
    """Return in prose what a guard asks beside what both ask."""
    shared = set(_asked(other))
    own = [part for part in _asked(guard) if part not in shared]
    return prose(conjunction(own)) or "nothing more"


def _asked(guard: Expression) -> tuple[Expression, ...]:
    return guard.operands if isinstance(guard, All) else (guard,)


def _guard_text(pair: Pair) -> Iterator[Found]:
    for old, new in pair.edges.both:
        if old.guard == new.guard and old.text != new.text:
            before, after = (repr(text) if text else "none" for text in (old.text, new.text))
            yield Found(label(new), f"guard {before} is written {after}", old.place, new.place)


def _order(*, matters: bool) -> Find:
    def find(pair: Pair) -> Iterator[Found]:
        for edges in _by_source(pair).values():
            found = _swapped(pair, edges)
            if found is not None and found[0] is matters:
                yield found[1]

    return find


def _by_source(pair: Pair) -> dict[str, list[Both]]:
    """Return the edges that both specs have by the state that they leave, in the new order."""
    found: dict[str, list[Both]] = {}
    for old, new in pair.edges.both:
        if old.source == new.source:
            found.setdefault(new.source, []).append((old, new))
    return found


def _swapped(pair: Pair, edges: list[Both]) -> tuple[bool, Found] | None:
    """Return whether another order of a state's edges matters, and two edges that show it."""
    places = [old.index for old, _ in edges]
    if places == sorted(places):
        return None
    swapped = (two for two in combinations(edges, 2) if two[0][0].index > two[1][0].index)
    asked = list(islice(swapped, MOST_PAIRS + 1))
    answers = [(two, *pair.prover.together(two[0][1].guard, two[1][1].guard)) for two in asked]
    for two, row, _ in answers:
        if row is not None:
            return True, _order_found(two, "with values that pass both", row)
    unknown = [two for two, _, known in answers if not known]
    if unknown:
        return True, _order_found(unknown[0], "not proved that they never pass together", None)
    if len(asked) > MOST_PAIRS:
        return True, _order_found(asked[-1], f"not proved: more than {MOST_PAIRS} pairs", None)
    return False, _order_found(asked[0], "they never pass together, by proof", None)


def _order_found(two: tuple[Both, Both], proof: str, row: Row | None) -> Found:
    first, second = two
    return Found(
        f"state '{first[1].source}'",
        f"{label(first[1])} is tried before {label(second[1])} now, and was tried after it",
        first[0].place,
        first[1].place,
        proof=proof,
        witnesses=(Witness("both pass", row),) if row is not None else (),
    )


EDGES = (
    Rule("edge_added", "behaviour", "an edge is new", "what waited may now take it", _added),
    Rule("edge_removed", "behaviour", "an edge is gone",
         "what took it stays, or takes another", _removed),
    Rule("edge_target", "behaviour", "an edge leads to another state",
         "what takes it arrives elsewhere", _changed("target")),
    Rule("edge_effects", "behaviour", "an edge has other effects",
         "the runtime does something else when it is taken", _effects),
    Rule("edge_recycle", "behaviour", "an edge begins a new generation, or no longer does",
         "the slot is re-armed, or is not", _changed("recycle")),
    Rule("guard_stronger", "behaviour", "a guard passes less",
         "an entity that passed waits, or takes a later edge", _guards("stronger")),
    Rule("guard_weaker", "behaviour", "a guard passes more",
         "an entity that waited passes, before later edges are tried", _guards("weaker")),
    Rule("guard_different", "behaviour", "a guard passes other values",
         "some entities that passed wait, and some that waited pass", _guards("different")),
    Rule("guard_unproved", "behaviour", "a guard changed and nothing proves how",
         "take it for different", _guards("unproved")),
    Rule("guard_equal", "table", "a guard is another expression for the same values",
         "generated code changes, what it decides does not", _guards("equal")),
    Rule("guard_text", "source", "a guard is written otherwise and means the same expression",
         "nothing but the text that errors and diagrams show", _guard_text),
    Rule("edge_order", "behaviour", "edges of a state are tried in another order",
         "where both pass, the other one is taken now", _order(matters=True)),
    Rule("edge_order_idle", "table", "edges that never pass together changed their order",
         "none is taken that was not taken before", _order(matters=False)),
    Rule("edge_priority", "table", "an edge has another priority number",
         "an order that changed by it is told on its own", _changed("priority")),
    Rule("edge_index", "table", "edges have other numbers",
         "build again; numbers that were logged mean others", _index),
)  # fmt: skip
