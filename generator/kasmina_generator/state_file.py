"""Reading `state.yaml`: the columns that are stored of each entity."""

from __future__ import annotations

from pathlib import Path

from kasmina_generator.document import Mapping, Scalar, Unusable, describe, load_document
from kasmina_generator.finding import Log
from kasmina_generator.model import Column, Place, StateSchema
from kasmina_generator.model import Scalar as Value
from kasmina_generator.record import Record, named_record
from kasmina_generator.vocabulary import RECORDS, STATE_SCHEMA, fault_of_name

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")
MOST_LENGTH = 4096

# A role is a column that the generated step owns: its dtypes and the only default it may have.
_COUNTERS = ("int16", "int32", "int64")
ROLES: dict[str, tuple[tuple[str, ...], int | None]] = {
    "state": (("int8",), None),  # None: the initial state's code
    "epochs": (("int16",), 0),
    "parent": (("int8",), -1),
    "generation": (_COUNTERS, 0),
    "history": (("int8",), -1),
    "history_count": (_COUNTERS, 0),
}


def read_state_file(path: Path, initial_code: int, log: Log) -> StateSchema | None:
    """Return the columns in the file at `path`; None, with faults in `log`, if it has none."""
    node = load_document(path, log)
    if not isinstance(node, Mapping):
        if not isinstance(node, Unusable):
            log.add(node.place, f"expected a mapping, found {describe(node)}")
        return None
    top = Record(log, "state file", node, RECORDS["state_file"])
    if not check_schema(top, STATE_SCHEMA):
        return None
    columns = tuple(
        _column(record, name, initial_code)
        for name, entry in top.table("columns", "column")
        if (record := named_record(log, "column", name, entry, RECORDS["column"]))
    )
    _check_roles(top, columns)
    return StateSchema(read_name(top), top.text("meaning"), columns, node.place)


def check_schema(top: Record, supported: str) -> bool:
    """Say whether the file is written for this reader; records why not."""
    scalar = top.scalar("schema", repr(supported))
    if scalar is not None and scalar.text != supported:
        what = f"unknown schema version {scalar.text!r}"
        top.fault("schema", what, allowed=[supported], given=scalar.text)
    return scalar is not None and scalar.text == supported


def read_name(top: Record) -> str:
    """Return the file's own `name`, which becomes part of Python names."""
    scalar = top.scalar("name", "a name")
    if scalar is None:
        return ""
    fault = fault_of_name(scalar.text, scalar.plain, frozenset())
    if fault:
        top.fault("name", f"{scalar.text!r} {fault}")
    return scalar.text


def _column(record: Record, name: Scalar, initial_code: int) -> Column:
    dtype = record.choice("dtype", DTYPES)
    role = record.choice("role", tuple(ROLES)) if "role" in record else None
    length = record.integer("length", 1, MOST_LENGTH, default=1)
    fields = tuple(item.text for item in record.names("fields"))
    _check_fields(record, fields, length)
    default = _default(record, dtype, role, initial_code) if dtype else 0
    if role and dtype and dtype not in ROLES[role][0]:
        record.fault("dtype", f"role '{role}' is stored as {' or '.join(ROLES[role][0])}")
    if role and role != "history" and length != 1:
        record.fault("length", f"role '{role}' is one value; drop the key")
    return Column(
        name.text, dtype or "", length, default, role, fields, record.text("meaning"), name.place
    )


def _check_fields(record: Record, fields: tuple[str, ...], length: int) -> None:
    if "fields" not in record:
        return
    for item in record.names("fields"):
        fault = fault_of_name(item.text, item.plain, frozenset())
        if fault:
            record.log.add(item.place, f"{record.label}: field {item.text!r} {fault}")
    if fields and len(fields) != length:
        record.fault("fields", f"{len(fields)} names for length {length}; give one for each entry")


def _default(record: Record, dtype: str, role: str | None, initial_code: int) -> Value:
    given = record.value("default", dtype) if "default" in record else None
    if role is None:
        if "default" not in record:
            what = f"{record.label}: key 'default' is missing; required without a role"
            record.log.add(record.at, what)
        return 0 if given is None else given
    if role == "state":
        if "default" in record:
            record.fault("default", "is the initial state's code; drop the key")
        return initial_code
    fixed = ROLES[role][1]
    assert fixed is not None
    if given is not None and given != fixed:
        record.fault("default", f"role '{role}' begins at {fixed}; drop the key")
    return fixed


def _check_roles(top: Record, columns: tuple[Column, ...]) -> None:
    seen: dict[str, Place] = {}
    for column in columns:
        if column.role in seen:
            line = seen[column.role].line
            what = f"column {column.name!r}: role '{column.role}' is taken in line {line}"
            top.log.add(column.place, what)
        elif column.role:
            seen[column.role] = column.place
    for role in ("state", "epochs"):
        if role not in seen:
            top.fault("columns", f"no column has role '{role}'; the generated step needs one")
    if ("history" in seen) != ("history_count" in seen):
        top.fault("columns", "roles 'history' and 'history_count' need each other; add the other")
