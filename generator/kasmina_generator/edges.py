"""Reading guards, transitions and recycling into edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import chain, islice

from kasmina_generator.binding import bind
from kasmina_generator.declarations import read_priority
from kasmina_generator.document import Scalar, Unusable, describe
from kasmina_generator.expression import Expression, Truth
from kasmina_generator.guard import Clock, Guard, Symbols, parse_guard
from kasmina_generator.model import Edge, State
from kasmina_generator.normal_form import at_least, conjunction
from kasmina_generator.number import INT16_MAX
from kasmina_generator.record import Record
from kasmina_generator.references import Names
from kasmina_generator.vocabulary import GUARD_WORDS, RECORDS, RECYCLE

# Edges of a state are compared pairwise and tried one after the other. 128 states of so many edges
# have fewer than int16, in which the step stores an edge's number, can count.
MOST_EDGES_OF_STATE = 255


def read_macros(top: Record, taken: Collection[str]) -> dict[str, Guard | None]:
    """Return the named guards; None for one that does not parse."""
    macros: dict[str, Guard | None] = {}
    for name, node in top.table("guards", "guard", frozenset(GUARD_WORDS)):
        label = f"guard {name.text!r}"
        if name.text in taken:
            what = f"{label} is the name of a context field or limit; choose another name"
            top.log.add(name.place, what)
        elif isinstance(node, Scalar) and node.text:
            macros[name.text] = parse_guard(node, label, top.log)
        else:
            macros[name.text] = None
            if not isinstance(node, Unusable):
                what = f"{label}: expected an expression, found {describe(node)}"
                top.log.add(node.place, what)
    return macros


def check_unused_macros(top: Record, symbols: Symbols) -> None:
    """Check the types of the macros that no edge has named, as if in some bounded state."""
    for name, macro in symbols.macros.items():
        if macro is not None and name not in symbols.used:
            bind(macro, symbols, Clock("", 0, 1), top.log)


def read_edges(top: Record, names: Names) -> tuple[Edge, ...]:
    """Return every edge, sorted by (code of the source, priority, declaration)."""
    every = chain(_transitions(top, names), _recycles(top, names))
    edges = list(islice(every, INT16_MAX))  # cut off, some state has too many
    for state, count in Counter(edge.source for edge in edges).items():
        if count > MOST_EDGES_OF_STATE:
            what = f"{count} edges leave '{state}'; at most {MOST_EDGES_OF_STATE}"
            top.fault("transitions", what)
    codes = {state.name: state.code for state in names.states.values()}
    edges.sort(key=lambda edge: (codes[edge.source], edge.priority))
    return tuple(replace(edge, index=index) for index, edge in enumerate(edges))


def _transitions(top: Record, names: Names) -> Iterator[Edge]:
    for record in top.records("transitions", RECORDS["transition"], "transition"):
        event_name = names.reference(record, "on", names.event_names, "event")
        _relabel(record, event_name)
        sources = names.expand(record, "from")
        target = names.reference(record, "to", names.state_names, "state")
        event = names.events.get(event_name)
        guard = _guard(record)
        common = Edge(
            index=-1,
            source="",
            event=event_name,
            target=target,
            guard=Truth(True),
            text=guard.text if guard else "",
            priority=read_priority(record, event.priority if event else 0),
            effects=_effects(record, names),
            recycle=False,
            meaning=_meaning(record),
            place=record.at,
        )
        urgent = event is not None and event.urgent
        for state in _known(sources, names):
            expression = _bound(guard, state, 0 if urgent else state.min_epochs, names, top)
            yield replace(common, source=state.name, guard=expression)


def _recycles(top: Record, names: Names) -> Iterator[Edge]:
    if "recycle" not in top:
        return
    for record in top.records("recycle", RECORDS["recycle"], "recycle"):
        sources = names.expand(record, "from")
        guard = _guard(record)
        after = record.integer("after_epochs", 0, INT16_MAX)
        common = Edge(
            index=-1,
            source="",
            event=RECYCLE,
            target=names.reference(record, "to", names.state_names, "state"),
            guard=Truth(True),
            text=guard.text if guard else "",
            priority=0,
            effects=_effects(record, names),
            recycle=True,
            meaning=_meaning(record),
            place=record.at,
        )
        for state in _known(sources, names):
            expression = _bound(guard, state, after, names, top)
            yield replace(common, source=state.name, guard=expression)


def _relabel(record: Record, event: str) -> None:
    """Name a transition by what it says, as soon as that is known."""
    sources = record.node("from")
    if event and isinstance(sources, Scalar):
        record.label = f"transition from {sources.text} on {event}"


def _known(sources: tuple[str, ...], names: Names) -> Iterator[State]:
    yield from (names.states[name] for name in sources if name in names.states)


def _meaning(record: Record) -> str:
    return record.text("meaning") if "meaning" in record else ""


def _guard(record: Record) -> Guard | None:
    scalar = record.scalar("guard", "an expression")
    return parse_guard(scalar, f"{record.label}: guard", record.log) if scalar else None


def _bound(guard: Guard | None, state: State, least: int, names: Names, top: Record) -> Expression:
    """Return the guard as the edge of one source state has it, the wait of `least` included."""
    clock = Clock(state.name, state.min_epochs, state.max_epochs)
    own = bind(guard, names.symbols, clock, top.log) if guard else Truth(True)
    return conjunction([at_least(least), own])


def _effects(record: Record, names: Names) -> tuple[str, ...]:
    effects = []
    for scalar in record.names("effects"):
        if scalar.text in names.effect_names:
            effects.append(scalar.text)
        else:
            what = f"{record.label}: effects: unknown effect {scalar.text!r}"
            allowed = names.effect_names
            record.log.add(scalar.place, what, allowed=allowed, given=scalar.text)
    return tuple(effects)
