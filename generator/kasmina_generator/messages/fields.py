"""Reading the fields of a message, of a part, of a group and of the envelope."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kasmina_generator.document import Node, Scalar, describe
from kasmina_generator.document import Sequence as SequenceNode
from kasmina_generator.fields import read_bounds
from kasmina_generator.messages.model import MessageField, ValueType
from kasmina_generator.model import Scalar as Value
from kasmina_generator.number import integer_range, parse_integer
from kasmina_generator.record import Record, chosen_record
from kasmina_generator.vocabulary import MESSAGE_WORDS, RECORDS, YAML_WORDS

TYPES: tuple[ValueType, ...] = (
    *("int", "float", "bool", "str", "bytes", "choice", "record", "tuple", "column"),
)
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")  # of columns
MOST_LENGTH = (1 << 31) - 1
TEXT = "str"  # the one type besides records that a tuple may hold

_KEYS = {kind: RECORDS[f"{kind}_value"] for kind in TYPES}
_NUMBERS = {"int": "int64", "float": "float64"}


@dataclass(frozen=True, slots=True)
class Around:
    """What a record's fields may refer to: the parts above it, those from it on, and the axes."""

    above: Sequence[str]
    below: Sequence[str]
    axes: Sequence[str]
    taken: frozenset[str] = frozenset()  # names of fields that it has already


def read_fields(record: Record, around: Around) -> tuple[MessageField, ...]:
    """Return the fields under `fields`, in their order."""
    return tuple(_fields(record, around))


def _fields(record: Record, around: Around) -> Iterator[MessageField]:
    label = f"{record.label}: field"
    for name, node in record.table("fields", label, MESSAGE_WORDS):
        if name.text != name.text.lower():
            record.log.add(name.place, f"{label} {name.text!r} is not in lower case")
        if name.text in around.taken:
            record.log.add(name.place, f"{label} {name.text!r} is a field of its group already")
        found = chosen_record(record.log, label, name, node, "type", _KEYS)
        if found:
            yield _field(name, *found, around)


def _field(name: Scalar, record: Record, kind: ValueType, around: Around) -> MessageField:
    low, high = _bounds(record, kind)
    keys = RECORDS[f"{kind}_value"].all
    least, most = read_length(record) if "length" in keys else (0, 0)
    field = MessageField(
        name=name.text,
        type=kind,
        of=_of(record, kind, around),
        axis=_axis(record, around) if kind == "column" else "",
        unit=record.text("unit") if "unit" in record else "",
        low=low,
        high=high,
        least=least,
        most=most,
        values=_values(record) if kind == "choice" else (),
        default=None,
        has_default="default" in record,
        nan="nan" in record,
        nan_meaning=record.text("nan") if "nan" in record else "",
        none="none" in record,
        none_meaning=record.text("none") if "none" in record else "",
        meaning=record.text("meaning"),
        place=name.place,
    )
    return _with_default(record, field) if "default" in record and "default" in keys else field


def _with_default(record: Record, field: MessageField) -> MessageField:
    if field.none:
        record.fault("default", "where None means something it is the default; drop one of both")
        return field
    scalar = record.scalar("default", f"a {field.type}")
    value = value_of(record, "default", scalar, field) if scalar else None
    return replace(field, default=value)


def value_of(record: Record, key: str, scalar: Scalar, field: MessageField) -> Value | str | None:
    """Return what is written at `key` as a value of the field; None, with a fault, if it is none."""
    if field.none and scalar.plain and scalar.text in ("null", "~"):
        return None
    fault = ""
    value: Value | str | None
    if field.type in ("str", "choice"):
        value = scalar.text
        if field.type == "choice" and value not in field.values:
            record.log.add(
                scalar.place,
                f"{record.label}: {key}: {field.name}: unknown {value!r}",
                allowed=field.values,
                given=value,
            )
            return None
        if field.type == "str" and not field.least <= len(value) <= field.most:
            fault = f"has {len(value)} characters; allowed: {field.least} to {field.most}"
    elif field.type in ("int", "float", "bool"):
        value = record.typed(key, scalar, _NUMBERS.get(field.type, field.type))
        if value is None:
            return None
        if field.type != "bool" and not (field.low <= value <= field.high):
            fault = f"is out of range; allowed: {field.low:g} to {field.high:g}"
            fault = "" if field.nan and math.isnan(value) else fault
    else:
        value, fault = None, f"cannot be that of a field of type {field.type}; only None can"
    if fault:
        record.log.add(
            scalar.place, f"{record.label}: {key}: {field.name}: {scalar.text!r} {fault}"
        )
        return None
    return value


def read_length(record: Record) -> tuple[int, int]:
    """Return the least and the largest length; 0 and the most that there is where it is wrong."""
    node = record.node("length")
    if not isinstance(node, SequenceNode) or len(node.items) != 2:
        record.expected("length", "a list of two integers, [least, most]")
        return 0, MOST_LENGTH
    ends = [_end(record, item) for item in node.items]
    if ends[0] is None or ends[1] is None:
        return 0, MOST_LENGTH
    if ends[0] > ends[1]:
        record.fault("length", f"begins at {ends[0]}, above its end {ends[1]}")
    return ends[0], ends[1]


def _end(record: Record, item: Node) -> int | None:
    value = parse_integer(item) if isinstance(item, Scalar) else None
    if value is None or not 0 <= value <= MOST_LENGTH:
        found = item.text if isinstance(item, Scalar) else describe(item)
        what = f"expected an integer from 0 to {MOST_LENGTH}, found {found}"
        record.log.add(item.place, f"{record.label}: length: {what}")
        return None
    return value


def _values(record: Record) -> tuple[str, ...]:
    """Return the texts that a choice has, two or more."""
    found = record.names("values")
    for item in found:
        if not item.text.isprintable():
            record.log.add(item.place, f"{record.label}: values: {item.text!r} cannot be printed")
        if item.plain and item.text.lower() in YAML_WORDS:
            what = f"{item.text!r} is a YAML boolean or null; put it in quotes"
            record.log.add(item.place, f"{record.label}: values: {what}")
    if len(found) == 1 or ("values" in record and not found and not record.has_fault("values")):
        record.fault("values", "a choice is between two texts or more")
    return tuple(item.text for item in found)


def _of(record: Record, kind: ValueType, around: Around) -> str:
    if kind == "column":
        dtype = record.choice("dtype", DTYPES) or ""
        _check_column(record, dtype)
        return dtype
    if kind not in ("record", "tuple"):
        return ""
    scalar = record.scalar("of", "the name of a record")
    if scalar and scalar.text in around.below[:1]:
        record.fault("of", "a record cannot hold itself; hold its parts in one of their own")
        return ""
    if scalar and scalar.text in around.below:
        record.fault("of", f"{scalar.text!r} is not declared before this record; move it up")
        return ""
    allowed = [*([TEXT] if kind == "tuple" else []), *around.above]
    if scalar and not allowed:
        record.fault("of", "the file has no 'records'; declare it there")
        return ""
    return record.choice("of", allowed) or "" if scalar else ""


def _axis(record: Record, around: Around) -> str:
    if not around.axes and record.scalar("axis", "a name"):
        record.fault("axis", "the file has no 'axes'; declare it there, with its meaning")
        return ""
    return record.choice("axis", around.axes) or ""


def _check_column(record: Record, dtype: str) -> None:
    """Hold that numbers have a unit, and that only what a dtype can hold is spoken of."""
    unfit = {"bool": ("unit", "range", "nan"), "int": ("nan",)}
    for key in unfit.get("int" if "int" in dtype else dtype, ()):
        if key in record:
            record.fault(key, f"means nothing for {dtype}; drop the key")
    if dtype not in ("", "bool") and "unit" not in record:
        what = "key 'unit' is missing; a number has one, \"1\" where it counts or compares"
        record.log.add(record.at, f"{record.label}: {what}")


def _bounds(record: Record, kind: ValueType) -> tuple[float, float]:
    node = record.node("dtype")
    written = node.text if isinstance(node, Scalar) and kind == "column" else ""
    dtype = _NUMBERS.get(kind) or written
    if dtype not in DTYPES or dtype == "bool":
        return -math.inf, math.inf
    low, high = read_bounds(record, dtype, open_ends=True) if "range" in record else _line()
    if "int" not in dtype:
        return low, high
    least, most = integer_range(dtype)
    return max(low, least), min(high, most)


def _line() -> tuple[float, float]:
    return -math.inf, math.inf
