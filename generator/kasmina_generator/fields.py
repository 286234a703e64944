"""Reading what guards measure and compare with: context fields and limits."""

from __future__ import annotations

import math
from typing import Literal

from kasmina_generator.document import Node, Scalar, Sequence, describe
from kasmina_generator.model import ContextField, InfinityPolicy, Limit, NanPolicy
from kasmina_generator.model import Scalar as Value
from kasmina_generator.number import parse_float
from kasmina_generator.record import Record, as_float, chosen_record
from kasmina_generator.vocabulary import GUARD_WORDS, RECORDS

DTYPES = ("float32", "int32", "bool")


def read_context(top: Record) -> dict[str, ContextField | None]:
    """Return the context fields by name, in order; None for one that is wrong."""
    fields: dict[str, ContextField | None] = {}
    for name, node in top.table("context", "context field", frozenset({*GUARD_WORDS, "slot"})):
        faults = len(top.log)
        record = chosen_record(top.log, "context field", name, node, "dtype", _FIELD_KEYS)
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


def _context_field(record: Record, dtype: str, name: Scalar) -> ContextField:
    bounds = read_bounds(record, dtype)
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
    value = as_float(scalar, "float32")
    if value is None:
        record.expected("nan", "a number, unknown or refuse")
        return None
    _check_inside(record, "nan", value, bounds)
    return value


def read_bounds(record: Record, dtype: str, *, open_ends: bool = False) -> tuple[Value, Value]:
    """Return the least and the largest value; the whole line where they are wrong.

    Args:
        record: What has the key `range`.
        dtype: Of both ends.
        open_ends: Whether an end of an integer's range may be infinite.
    """
    if dtype == "bool":
        return False, True
    whole = (-math.inf, math.inf)
    node = record.node("range")
    if not isinstance(node, Sequence) or len(node.items) != 2:
        record.expected("range", "a list of two numbers, [least, largest]")
        return whole
    values = [_bound(record, item, dtype, open_ends) for item in node.items]
    if values[0] is None or values[1] is None:
        return whole
    if values[0] > values[1]:
        record.fault("range", f"begins at {values[0]!r}, above its end {values[1]!r}")
        return whole
    return values[0], values[1]


def _bound(record: Record, item: Node, dtype: str, open_ends: bool) -> Value | None:
    if isinstance(item, Scalar):
        number = parse_float(item)
        if open_ends and number is not None and math.isinf(number):
            return number
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
            what = f"limit {name.text!r} is the name of a context field; choose another name"
            top.log.add(name.place, what)
        record = chosen_record(top.log, "limit", name, node, "dtype", _LIMIT_KEYS)
        read = _limit(*record, name) if record else None
        limits[name.text] = read if len(top.log) == faults else None
    return limits


def _limit(record: Record, dtype: str, name: Scalar) -> Limit:
    low, high = read_bounds(record, dtype)
    default = _default(record, dtype, (low, high))
    return Limit(name.text, dtype, default, low, high, record.text("meaning"), name.place)
