"""Reading a records file: what is logged, observed or sent, as named records of typed fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kasmina_generator.digest import digest_of
from kasmina_generator.document import Mapping, Node, Scalar, Unusable, describe, load_document
from kasmina_generator.fields import read_bounds
from kasmina_generator.finding import Log
from kasmina_generator.record import Record, chosen_record, named_record
from kasmina_generator.record_model import Axis, FieldType, RecordField, RecordSchema, RecordType
from kasmina_generator.references import declared
from kasmina_generator.state_file import DTYPES, check_schema, read_name
from kasmina_generator.vocabulary import (
    FIELD_WORDS,
    MODULE_WORDS,
    RECORD_WORDS,
    RECORDS,
    RECORDS_SCHEMA,
)

TYPES: tuple[FieldType, ...] = ("int", "float", "bool", "str", "record", "tuple", "column")
MOST_VERSION = (1 << 31) - 1
TEXT = "str"  # the one type besides records that a tuple may hold

_KEYS = {kind: RECORDS[f"{kind}_item"] for kind in TYPES}
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")


def read_records(top: Record, path: Path) -> tuple[RecordSchema, ...]:
    """Return the records files that a spec names, which lie beside it.

    Args:
        top: The spec's record, which has `records`.
        path: The spec's file.
    """
    found: list[RecordSchema] = []
    for file in top.files_beside("records", path):
        schema = read_records_file(file, top.log)
        if schema and any(schema.name == other.name for other in found):
            other = next(other for other in found if other.name == schema.name)
            what = f"name {schema.name!r} is that of {other.file}; each becomes a module"
            top.log.add(schema.place, what)
        elif schema:
            found.append(schema)
    return tuple(found)


def read_records_file(path: Path, log: Log) -> RecordSchema | None:
    """Return the records in the file at `path`; None, with faults in `log`, if it has none."""
    node = load_document(path, log)
    if not isinstance(node, Mapping):
        if not isinstance(node, Unusable):
            log.add(node.place, f"expected a mapping, found {describe(node)}")
        return None
    top = Record(log, "records file", node, RECORDS["records_file"])
    if not check_schema(top, RECORDS_SCHEMA):
        return None
    schema = RecordSchema(
        name=_module_name(top),
        version=top.integer("version", 1, MOST_VERSION, default=1),
        meaning=top.text("meaning"),
        axes=tuple(_axes(top)),
        records=tuple(_records(top)),
        file=path.name,
        digest="",
        place=top.place("name"),
    )
    return replace(schema, digest=digest_of(schema))


def _module_name(top: Record) -> str:
    name = read_name(top)
    if name != name.lower():
        top.fault("name", f"{name!r} is not in lower case; it becomes a module")
    elif name in MODULE_WORDS:
        top.fault("name", f"{name!r} is a module of the package; choose another name")
    return name


def _axes(top: Record) -> Iterator[Axis]:
    for name, node in top.table("axes", "axis") if "axes" in top else ():
        if isinstance(node, Scalar) and node.text.strip():
            yield Axis(name.text, " ".join(node.text.split()), name.place)
        elif not isinstance(node, Unusable):
            what = f"axis {name.text!r}: expected its meaning, found {describe(node)}"
            top.log.add(node.place, what)


def _records(top: Record) -> Iterator[RecordType]:
    entries = list(top.table("records", "record", RECORD_WORDS))
    names = [name.text for name, _ in entries]
    if not entries and isinstance(top.node("records"), Mapping):
        top.fault("records", "is empty; declare a record")
    for index, (name, node) in enumerate(entries):
        if not _CLASS.fullmatch(name.text):
            what = f"record {name.text!r} becomes a class: begin with a capital, without '_'"
            top.log.add(name.place, what)
        record = named_record(top.log, "record", name, node, RECORDS["record"])
        if record:
            read = _Fields(record, names[:index], names[index:], declared(top, "axes"))
            yield RecordType(name.text, tuple(read.all()), record.text("meaning"), name.place)


class _Fields:
    """Reads the fields of one record; it may hold those `above`, not itself and those `below`."""

    def __init__(
        self, record: Record, above: list[str], below: list[str], axes: Sequence[str]
    ) -> None:
        self._record, self._above, self._below, self._axes = record, above, below, axes

    def all(self) -> Iterator[RecordField]:
        """Yield the fields in their order."""
        record = self._record
        entries = list(record.table("fields", f"{record.label}: field", FIELD_WORDS))
        if not entries and isinstance(record.node("fields"), Mapping):
            record.fault("fields", "is empty; a record has at least one field")
        for name, node in entries:
            label = f"{record.label}: field"
            if name.text != name.text.lower():
                record.log.add(name.place, f"{label} {name.text!r} is not in lower case")
            found = chosen_record(record.log, label, name, node, "type", _KEYS)
            if found:
                yield self._field(name, *found)

    def _field(self, name: Scalar, record: Record, kind: FieldType) -> RecordField:
        low, high = _bounds(record, kind)
        return RecordField(
            name=name.text,
            type=kind,
            of=self._of(record, kind),
            axis=self._axis(record) if kind == "column" else "",
            unit=record.text("unit") if "unit" in record else "",
            low=low,
            high=high,
            nan="nan" in record,
            nan_meaning=record.text("nan") if "nan" in record else "",
            none="none" in record,
            none_meaning=record.text("none") if "none" in record else "",
            meaning=record.text("meaning"),
            place=name.place,
        )

    def _of(self, record: Record, kind: FieldType) -> str:
        if kind == "column":
            dtype = record.choice("dtype", DTYPES) or ""
            _check_column(record, dtype)
            return dtype
        if kind not in ("record", "tuple"):
            return ""
        scalar = record.scalar("of", "the name of a record")
        if scalar and scalar.text == self._below[0]:
            record.fault("of", "a record cannot hold itself; hold its parts in one of their own")
            return ""
        if scalar and scalar.text in self._below:
            record.fault("of", f"{scalar.text!r} is not declared before this record; move it up")
            return ""
        allowed = [*([TEXT] if kind == "tuple" else []), *self._above]
        return record.choice("of", allowed) or "" if scalar else ""

    def _axis(self, record: Record) -> str:
        if not self._axes and record.scalar("axis", "a name"):
            record.fault("axis", "the file has no 'axes'; declare it there, with its meaning")
            return ""
        return record.choice("axis", self._axes) or ""


def _check_column(record: Record, dtype: str) -> None:
    """Hold that numbers have a unit, and that only what a dtype can hold is spoken of."""
    unfit = {"bool": ("unit", "range", "nan"), "int": ("nan",)}
    for key in unfit.get("int" if "int" in dtype else dtype, ()):
        if key in record:
            record.fault(key, f"means nothing for {dtype}; drop the key")
    if dtype not in ("", "bool") and "unit" not in record:
        what = "key 'unit' is missing; a number has one, \"1\" where it counts or compares"
        record.log.add(record.at, f"{record.label}: {what}")


def _bounds(record: Record, kind: FieldType) -> tuple[float, float]:
    dtypes = {"int": "int64", "float": "float64"}
    dtype = dtypes.get(kind) or (_text(record.node("dtype")) if kind == "column" else "")
    if "range" not in record or dtype not in DTYPES or dtype == "bool":
        return -math.inf, math.inf
    return read_bounds(record, dtype, open_ends=True)


def _text(node: Node | None) -> str:
    return node.text if isinstance(node, Scalar) else ""
