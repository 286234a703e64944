"""The records of a spec that stand for themselves: attributes, states, events, fields, limits."""

from __future__ import annotations

from collections.abc import Iterator

from kasmina_generator.document import Mapping, Scalar, describe
from kasmina_generator.model import (
    Attribute,
    AttributeValue,
    Effect,
    Event,
    EventKind,
    State,
)
from kasmina_generator.number import INT16_MAX
from kasmina_generator.record import Record, named_record
from kasmina_generator.vocabulary import (
    CLASS_WORDS,
    ENUM_WORDS,
    RECORDS,
    RECYCLE,
    Keys,
    camel,
)

MOST_STATE_CODE = 127  # int8
MOST_EVENTS = 31  # bits of an int32 that stays positive
MOST_EFFECTS = 31
MOST_ATTRIBUTE_VALUES = 256  # uint8
DEFAULT_PRIORITY = 100
UNBOUNDED = "unbounded"

_NUMBER_DTYPES = ("float32", "int32")
_DTYPES = (*_NUMBER_DTYPES, "bool")


def read_attributes(top: Record) -> tuple[Attribute, ...]:
    """Return the properties that each state must give a value of."""
    return tuple(_attributes(top))


def _attributes(top: Record) -> Iterator[Attribute]:
    classes: dict[str, str] = {}
    for name, node in top.table("attributes", "attribute", frozenset(RECORDS["state"].all)):
        record = named_record(top.log, "attribute", name, node, RECORDS["attribute"])
        _check_class(top, name, classes)
        if record:
            values = tuple(_attribute_values(record))
            yield Attribute(name.text, values, record.text("meaning"), name.place)


def _check_class(top: Record, name: Scalar, classes: dict[str, str]) -> None:
    """Hold that an attribute's class and table have names of their own."""
    label = f"attribute {name.text!r}"
    if name.text != name.text.lower():
        top.log.add(name.place, f"{label} is not in lower case; its class gets the capitals")
    elif camel(name.text) in CLASS_WORDS:
        what = f"{label} becomes class '{camel(name.text)}', which exists; choose another name"
        top.log.add(name.place, what)
    elif camel(name.text) in classes:
        other = classes[camel(name.text)]
        what = f"{label} becomes class '{camel(name.text)}', as {other!r} does; choose another name"
        top.log.add(name.place, what)
    classes.setdefault(camel(name.text), name.text)


def _attribute_values(record: Record) -> Iterator[AttributeValue]:
    what = f"{record.label}: value"
    entries = list(record.table("values", what, ENUM_WORDS))
    if "values" in record and not entries and isinstance(record.node("values"), Mapping):
        record.fault("values", "is empty; an attribute has at least one value")
    if len(entries) > MOST_ATTRIBUTE_VALUES:
        record.fault("values", f"{len(entries)} values; at most {MOST_ATTRIBUTE_VALUES}")
    for code, (name, node) in enumerate(entries):
        if isinstance(node, Scalar) and node.text.strip():
            yield AttributeValue(name.text, code, " ".join(node.text.split()))
        else:
            found = describe(node)
            record.log.add(node.place, f"{what} {name.text!r}: expected its meaning, found {found}")


def read_states(top: Record, attributes: tuple[Attribute, ...]) -> tuple[State, ...]:
    """Return the states by code."""
    names = tuple(attribute.name for attribute in attributes)
    base = RECORDS["state"]
    keys = Keys(base.required + names, base.optional)
    states = []
    for name, node in top.table("states", "state", ENUM_WORDS):
        record = named_record(top.log, "state", name, node, keys)
        if record:
            states.append(_state(record, name, attributes))
    _check_codes(top, states)
    return tuple(sorted(states, key=lambda state: state.code))


def _state(record: Record, name: Scalar, attributes: tuple[Attribute, ...]) -> State:
    terminal = record.boolean("terminal")
    least = record.integer("min_epochs", 0, INT16_MAX)
    most = _max_epochs(record, terminal, least)
    if terminal and "min_epochs" in record:
        record.fault("min_epochs", "a terminal state is not left; drop the key")
    chosen = [(a, record.choice(a.name, [v.name for v in a.values])) for a in attributes]
    return State(
        name=name.text,
        code=record.integer("code", 0, MOST_STATE_CODE, default=-1),
        meaning=record.text("meaning"),
        terminal=terminal,
        min_epochs=least,
        max_epochs=most,
        attributes=tuple((attribute.name, value or "") for attribute, value in chosen),
        place=name.place,
    )


def _max_epochs(record: Record, terminal: bool, least: int) -> int | None:
    if terminal:
        if "max_epochs" in record:
            record.fault("max_epochs", "a terminal state is not left; drop the key")
        return None
    if "max_epochs" not in record:
        if record.has_fault("terminal"):
            return INT16_MAX
        what = f"key 'max_epochs' is missing; give a number of epochs or '{UNBOUNDED}'"
        record.log.add(record.at, f"{record.label}: {what}, or 'terminal: true'")
        return INT16_MAX
    node = record.node("max_epochs")
    if isinstance(node, Scalar) and node.text == UNBOUNDED:
        return None
    most = record.integer("max_epochs", 0, INT16_MAX, default=-1)
    if 0 <= most < least:
        record.fault("max_epochs", f"{most} is less than min_epochs {least}")
    return most if most >= 0 else INT16_MAX


def _check_codes(top: Record, states: list[State]) -> None:
    seen: dict[int, str] = {}
    for state in states:
        if state.code in seen:
            what = f"state {state.name!r}: code {state.code} is that of {seen[state.code]!r}"
            top.log.add(state.place, what)
        if state.code >= 0:
            seen.setdefault(state.code, state.name)


def read_events(top: Record) -> tuple[Event, ...]:
    """Return the events by bit."""
    events = []
    taken = ENUM_WORDS | {RECYCLE}
    for bit, (name, node) in enumerate(top.table("events", "event", taken)):
        record = named_record(top.log, "event", name, node, RECORDS["event"])
        if record:
            events.append(_event(record, name, bit))
    if len(events) > MOST_EVENTS:
        top.fault("events", f"{len(events)} events; at most {MOST_EVENTS}, one bit each")
    return tuple(events)


def _event(record: Record, name: Scalar, bit: int) -> Event:
    return Event(
        name=name.text,
        bit=bit,
        kind=record.choice("kind", _KINDS) or "command",
        urgent=record.boolean("urgent"),
        priority=read_priority(record, DEFAULT_PRIORITY),
        meaning=record.text("meaning"),
        place=name.place,
    )


_KINDS: tuple[EventKind, ...] = ("command", "automatic")


def read_priority(record: Record, default: int) -> int:
    """Return how early an edge is tried, 0 first; `default` where nothing is said."""
    return record.integer("priority", 0, INT16_MAX, default=default)


def read_effects(top: Record) -> tuple[Effect, ...]:
    """Return the effects by bit."""
    effects = []
    for bit, (name, node) in enumerate(top.table("effects", "effect", ENUM_WORDS)):
        record = named_record(top.log, "effect", name, node, RECORDS["effect"])
        if record:
            effects.append(Effect(name.text, bit, record.text("meaning"), name.place))
    if len(effects) > MOST_EFFECTS:
        top.fault("effects", f"{len(effects)} effects; at most {MOST_EFFECTS}, one bit each")
    return tuple(effects)
