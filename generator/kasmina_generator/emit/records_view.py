"""What the template of a records file fills in."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kasmina_generator.emit.layout import literal, sentence
from kasmina_generator.emit.wording import plain
from kasmina_generator.number import integer_range
from kasmina_generator.record_model import RecordField, RecordSchema, RecordType


@dataclass(frozen=True, slots=True)
class RecordFieldView:
    """One field: its type in the class, its docstring, and the arguments that tell it as data."""

    name: str
    annotation: str
    doc: str
    data: list[str]


@dataclass(frozen=True, slots=True)
class RecordView:
    """One record; `eq` is ", eq=False" where it holds arrays, which have no one truth value."""

    record: RecordType
    eq: str
    fields: list[RecordFieldView]


@dataclass(frozen=True, slots=True)
class RecordsView:
    """All that the template reads."""

    schema: RecordSchema
    records: list[RecordView]
    columns: bool  # numpy is needed


def view_records(schema: RecordSchema) -> RecordsView:
    """Return what the template fills in."""
    holders = _holders_of_columns(schema)
    return RecordsView(
        schema=schema,
        records=[
            RecordView(
                record=record,
                eq=", eq=False" if record.name in holders else "",
                fields=[_field(field) for field in record.fields],
            )
            for record in schema.records
        ],
        columns=bool(holders),
    )


def _holders_of_columns(schema: RecordSchema) -> set[str]:
    """Return the records that hold a column, themselves or in a record of theirs."""
    holders: set[str] = set()
    for record in schema.records:  # what a record holds stands before it
        if any(field.type == "column" or field.of in holders for field in record.fields):
            holders.add(record.name)
    return holders


def _field(field: RecordField) -> RecordFieldView:
    texts = {
        "name": field.name,
        "type": field.type,
        "meaning": field.meaning,
        "of": field.of,
        "axis": field.axis,
        "unit": field.unit,
        "nan": field.nan_meaning,
        "none": field.none_meaning,
    }
    data = {key: literal(text) for key, text in texts.items() if text}
    data |= {"range": _range(field)} if field.unit else {}  # what has a unit is a number
    return RecordFieldView(
        name=field.name,
        annotation=_annotation(field),
        doc=_doc(field),
        data=[f"{key}={value}" for key, value in data.items()],
    )


def _annotation(field: RecordField) -> str:
    bases = {
        "record": field.of,
        "tuple": f"tuple[{field.of}, ...]",
        "column": f"NDArray[np.{'bool_' if field.of == 'bool' else field.of}]",
    }
    return bases.get(field.type, field.type) + (" | None" if field.none else "")


def _range(field: RecordField) -> str:
    """Return the source of the pair that every number lies in."""
    low, high = field.low, field.high
    if field.type == "column" and "int" in field.of:
        least, most = integer_range(field.of)
        low, high = max(low, least), min(high, most)
    return f"({literal(low)}, {literal(high)})"


def _doc(field: RecordField) -> str:
    """Return the meaning, shape, unit and range, and what is special."""
    shape = f"{field.of} [{field.axis}]" if field.type == "column" else ""
    unit = "" if field.unit == "1" else field.unit
    facts = ", ".join(filter(None, [shape, unit, _span(field)]))
    meaning = field.meaning.removesuffix(".") + (f" ({facts})" if facts else "")
    empty = [("NaN", field.nan_meaning), ("None", field.none_meaning)]
    told = [meaning, *(f"{name}: {text}" for name, text in empty if text)]
    return " ".join(map(sentence, told))


def _span(field: RecordField) -> str:
    low, high = field.low, field.high
    if math.isinf(low) and math.isinf(high):
        return ""
    if math.isinf(high):
        return f"{plain(low)} or more"
    return f"up to {plain(high)}" if math.isinf(low) else f"from {plain(low)} to {plain(high)}"
