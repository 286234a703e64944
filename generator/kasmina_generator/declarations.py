"""The records of a spec that stand for themselves: attributes, states, events, fields, limits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from kasmina_generator.document import Mapping, Node, Scalar, Sequence, describe
from kasmina_generator.model import (
    Attribute,
    AttributeValue,
    ContextField,
    Effect,
    Event,
    EventKind,
    InfinityPolicy,
    Limit,
    NanPolicy,
    State,
)
from kasmina_generator.model import Scalar as Value
from kasmina_generator.number import INT16_MAX
from kasmina_generator.record import Record, named_record
from kasmina_generator.vocabulary import (
    CLASS_WORDS,
    ENUM_WORDS,
    GUARD_WORDS,
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
    label = f"attribute {name.text!r}: the name"
    if name.text != name.text.lower():
        top.log.add(name.place, f"{label} must be in lower case; the class gets the capitals")
    elif camel(name.text) in CLASS_WORDS:
        what = f"{label} gives class '{camel(name.text)}', which exists; choose another name"
        top.log.add(name.place, what)
    elif camel(name.text) in classes:
        other = classes[camel(name.text)]
        what = f"{label} gives class '{camel(name.text)}', as {other!r} does; choose another name"
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
        what = f"key 'max_epochs' is missing; give a number of epochs or '{UNBOUNDED}'"
        record.log.add(record.at, f"{record.label}: {what}, or 'terminal: true'")
        return None
    node = record.node("max_epochs")
    if isinstance(node, Scalar) and node.text == UNBOUNDED:
        return None
    most = record.integer("max_epochs", 0, INT16_MAX, default=-1)
    if 0 <= most < least:
        record.fault("max_epochs", f"{most} is less than min_epochs {least}")
    return max(most, 0)


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


def read_context(top: Record) -> dict[str, ContextField | None]:
    """Return the context fields by name, in order; None for one that is wrong."""
    fields: dict[str, ContextField | None] = {}
    for name, node in top.table("context", "context field", frozenset({*GUARD_WORDS, "slot"})):
        faults = len(top.log)
        record = _typed_record(top, "context field", name, node, _FIELD_KEYS)
        read = _context_field(*record, name) if record else None
        fields[name.text] = read if len(top.log) == faults else None
    return fields


_FIELD_KEYS = {
    "float32": RECORDS["float_field"],
    "int32": RECORDS["integer_field"],
    "bool": RECORDS["bool_field"],
}
_LIMIT_KEYS = {
    "float32": RECORDS["number_limit"],
    "int32": RECORDS["number_limit"],
    "bool": RECORDS["bool_limit"],
}


def _typed_record(
    top: Record, what: str, name: Scalar, node: Node, keys: dict[str, Keys]
) -> tuple[Record, str] | None:
    """Return a record with the keys that its dtype asks for, and the dtype."""
    dtype = _dtype_of(node)
    if dtype is not None:
        record = named_record(top.log, what, name, node, keys[dtype])
        return (record, dtype) if record else None
    every = tuple(dict.fromkeys(key for one in keys.values() for key in one.all))
    record = named_record(top.log, what, name, node, Keys(("dtype",), every))
    if record:
        record.choice("dtype", _DTYPES)
    return None


def _dtype_of(node: Node) -> str | None:
    entries = node.entries if isinstance(node, Mapping) else ()
    for key, value in entries:
        if key.text == "dtype" and isinstance(value, Scalar) and value.text in _DTYPES:
            return value.text
    return None


def _context_field(record: Record, dtype: str, name: Scalar) -> ContextField:
    bounds = _bounds(record, dtype)
    is_float = dtype == "float32"
    infinity = record.choice("infinity", _INFINITY_POLICIES) if is_float else None
    nan = _nan_policy(record, bounds) if is_float else None
    default = _default(record, dtype, bounds)
    if is_float and infinity in ("unknown", "refuse"):
        _refuse_infinite(record, {"default": default, "nan": nan}, infinity)
    return ContextField(
        name=name.text,
        dtype=dtype,
        unit=record.text("unit") if dtype != "bool" else "",
        low=bounds[0],
        high=bounds[1],
        default=default,
        nan=nan,
        infinity=infinity,
        meaning=record.text("meaning"),
        place=name.place,
    )


_INFINITY_POLICIES: tuple[InfinityPolicy, ...] = ("allowed", "unknown", "refuse")
_NAN_POLICIES: tuple[Literal["unknown", "refuse"], ...] = ("unknown", "refuse")


def _refuse_infinite(record: Record, values: dict[str, Value | str | None], policy: str) -> None:
    for key, value in values.items():
        if isinstance(value, float) and math.isinf(value):
            record.fault(key, f"is infinite, but 'infinity: {policy}' does not let it stay so")


def _nan_policy(record: Record, bounds: tuple[Value, Value]) -> NanPolicy | None:
    scalar = record.scalar("nan", "a number, unknown or refuse")
    if scalar is None:
        return None
    for policy in _NAN_POLICIES:
        if scalar.text == policy:
            return policy
    value = record.typed("nan", scalar, "float32")
    if value is not None:
        _check_inside(record, "nan", value, bounds)
    return None if value is None else float(value)


def _bounds(record: Record, dtype: str) -> tuple[Value, Value]:
    """Return the least and the largest value; the whole line where they are wrong."""
    if dtype == "bool":
        return False, True
    whole = (-math.inf, math.inf)
    node = record.node("range")
    if not isinstance(node, Sequence) or len(node.items) != 2:
        record.expected("range", "two numbers [least, largest]")
        return whole
    values = [_bound(record, item, dtype) for item in node.items]
    if values[0] is None or values[1] is None:
        return whole
    if values[0] > values[1]:
        record.fault("range", f"begins at {values[0]!r}, above its end {values[1]!r}")
        return whole
    return values[0], values[1]


def _bound(record: Record, item: Node, dtype: str) -> Value | None:
    if isinstance(item, Scalar):
        return record.typed("range", item, dtype)
    record.log.add(item.place, f"{record.label}: range: expected a {dtype}, found {describe(item)}")
    return None


def _default(record: Record, dtype: str, bounds: tuple[Value, Value]) -> Value:
    value = record.value("default", dtype)
    if value is None:
        return bounds[0]
    _check_inside(record, "default", value, bounds)
    return value


def _check_inside(record: Record, key: str, value: Value, bounds: tuple[Value, Value]) -> None:
    if not bounds[0] <= value <= bounds[1]:
        record.fault(key, f"{value!r} is outside the range [{bounds[0]!r}, {bounds[1]!r}]")


def read_limits(top: Record, context: dict[str, ContextField | None]) -> dict[str, Limit | None]:
    """Return the limits by name, in order; None for one that is wrong."""
    limits: dict[str, Limit | None] = {}
    for name, node in top.table("limits", "limit", frozenset(GUARD_WORDS)):
        faults = len(top.log)
        if name.text in context:
            what = f"limit {name.text!r}: a context field has this name; guards need two names"
            top.log.add(name.place, what)
        record = _typed_record(top, "limit", name, node, _LIMIT_KEYS)
        read = _limit(*record, name) if record else None
        limits[name.text] = read if len(top.log) == faults else None
    return limits


def _limit(record: Record, dtype: str, name: Scalar) -> Limit:
    low, high = _bounds(record, dtype)
    default = _default(record, dtype, (low, high))
    return Limit(name.text, dtype, default, low, high, record.text("meaning"), name.place)
