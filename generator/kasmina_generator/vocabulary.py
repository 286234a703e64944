"""Which keys each record of a spec has, and which names a spec may use.

The JSON Schemas in `kasmina_spec/schema` hold the same keys; a test compares them.
"""

from __future__ import annotations

import enum
import keyword
import re
from dataclasses import dataclass

LIFECYCLE_SCHEMA = "kasmina/lifecycle@1"
STATE_SCHEMA = "kasmina/state@1"
RECORDS_SCHEMA = "kasmina/records@1"
KERNELS_SCHEMA = "kasmina/kernels@1"
MESSAGES_SCHEMA = "kasmina/messages@1"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one kind of record."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Return every key, the required ones first."""
        return self.required + self.optional


RECORDS = {
    "lifecycle": Keys(
        ("schema", "name", "version", "meaning", "initial", "states", "events", "transitions"),
        (
            "state",
            "attributes",
            "groups",
            "context",
            "limits",
            "guards",
            "effects",
            "capacities",
            "recycle",
            "properties",
            "migrations",
            "records",
            "kernels",
            "messages",
        ),
    ),
    "attribute": Keys(("meaning", "values")),
    "state": Keys(("code", "meaning"), ("terminal", "min_epochs", "max_epochs")),
    "event": Keys(("kind", "meaning"), ("urgent", "priority")),
    "float_field": Keys(("dtype", "unit", "range", "default", "nan", "infinity", "meaning")),
    "integer_field": Keys(("dtype", "unit", "range", "default", "meaning")),
    "bool_field": Keys(("dtype", "default", "meaning")),
    "number_limit": Keys(("dtype", "range", "default", "meaning")),
    "bool_limit": Keys(("dtype", "default", "meaning")),
    "effect": Keys(("meaning",)),
    "transition": Keys(("from", "on", "to"), ("guard", "priority", "effects", "meaning")),
    "capacity": Keys(("states", "limit", "order", "meaning")),
    "recycle": Keys(("from", "to", "after_epochs"), ("guard", "effects", "meaning")),
    "property": Keys(
        ("name",), ("must_pass", "handles", "absorbing", "reachable", "bounded", "ctl")
    ),
    "must_pass": Keys(("to", "through")),
    "handles": Keys(("event", "in")),
    "bounded": Keys(("from",)),
    "migration": Keys(("from", "states", "meaning"), ("columns",)),
    "migration_from": Keys(("file", "digest")),
    "state_file": Keys(("schema", "name", "meaning", "columns")),
    "column": Keys(("dtype", "meaning"), ("length", "default", "role", "fields")),
    "records_file": Keys(("schema", "name", "version", "meaning", "records"), ("axes",)),
    "record": Keys(("meaning", "fields")),
    "int_item": Keys(("type", "unit", "meaning"), ("range", "none")),
    "float_item": Keys(("type", "unit", "meaning"), ("range", "nan", "none")),
    "bool_item": Keys(("type", "meaning"), ("none",)),
    "str_item": Keys(("type", "meaning"), ("none",)),
    "record_item": Keys(("type", "of", "meaning"), ("none",)),
    "tuple_item": Keys(("type", "of", "meaning")),
    "column_item": Keys(("type", "dtype", "axis", "meaning"), ("unit", "range", "nan")),
    "kernels_file": Keys(
        ("schema", "name", "version", "meaning", "states", "placements", "dtypes", "kinds")
    ),
    "kernel_states": Keys(("mixing", "joint")),
    "state_set": Keys(("attribute", "values", "meaning")),
    "placement": Keys(("files", "modes", "out", "meaning")),
    "map_kind": Keys(("maps", "hidden", "meaning"), ("options",)),
    "element_kind": Keys(("elementwise", "meaning"), ("options",)),
    "messages_file": Keys(
        ("schema", "name", "version", "meaning", "envelope", "groups", "messages"),
        ("axes", "records", "upgrades"),
    ),
    "message_record": Keys(("meaning", "fields")),
    "message_envelope": Keys(("meaning", "fields")),
    "message_group": Keys(("meaning",), ("fields",)),
    "message": Keys(("group", "meaning"), ("fields",)),
    "upgrade": Keys(("from", "meaning"), ("envelope", "messages", "ended")),
    "envelope_change": Keys((), ("rename", "add", "drop")),
    "message_change": Keys((), ("was", "rename", "add", "drop")),
    "int_value": Keys(("type", "unit", "meaning"), ("range", "default", "none")),
    "float_value": Keys(("type", "unit", "meaning"), ("range", "default", "nan", "none")),
    "bool_value": Keys(("type", "meaning"), ("default", "none")),
    "str_value": Keys(("type", "length", "meaning"), ("default", "none")),
    "bytes_value": Keys(("type", "length", "meaning"), ("none",)),
    "choice_value": Keys(("type", "values", "meaning"), ("default", "none")),
    "record_value": Keys(("type", "of", "meaning"), ("none",)),
    "tuple_value": Keys(("type", "of", "length", "meaning")),
    "column_value": Keys(("type", "dtype", "axis", "meaning"), ("unit", "range", "nan")),
}

GUARD_WORDS = ("epochs", "min_epochs", "max_epochs", "timed_out")
BUILT_IN_GROUPS = ("terminal", "non_terminal")
RECYCLE = "recycle"  # the event of the edges that re-arm a slot
CAPACITY_ORDERS = ("slot", "epochs")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
MOST_NAME_LENGTH = 64
YAML_WORDS = frozenset({"on", "off", "yes", "no", "true", "false", "null"})
# Members by these names would hide what an enum or an int has.
ENUM_WORDS = frozenset(dir(enum.IntEnum)) | frozenset(dir(enum.IntFlag)) | {"mro", "name", "value"}
# Classes that the generated modules have anyway; an attribute becomes a class as well.
CLASS_WORDS = frozenset(
    [
        "State",
        "Event",
        "Effect",
        "Edge",
        "Context",
        "Limits",
        "ContextField",
        "LimitField",
        "Column",
        "Migration",
        "StoredColumn",
        "IntEnum",
        "IntFlag",
        "NamedTuple",
        "Final",
    ]
)

# Modules and subpackages of a generated package; a records file becomes a module as well.
MODULE_WORDS = frozenset(
    [
        *(
            "lifecycle",
            "guards",
            "tables",
            "machine",
            "vector",
            "state",
            "migrations",
            "source_map",
        ),
        *("kernels", "messages", "testing", "formal"),
    ]
)
# What the module of a records file has anyway; a record becomes a class in it.
RECORD_WORDS = frozenset(
    [
        *("Record", "Field", "Any", "Collection", "Mapping", "NamedTuple", "NDArray", "Self"),
        *("AXES", "FIELDS", "RECORDS"),
    ]
)
# A field by such a name would hide a method, or a type that the fields after it need.
FIELD_WORDS = frozenset(
    ["to_plain", "from_plain", "int", "float", "bool", "str", "tuple", "np"],
)
# What the module of a messages file has anyway; messages and their parts become classes in it.
MESSAGE_CLASS_WORDS = frozenset(
    [
        *("Envelope", "Body", "Field", "Annotated", "Literal", "Meta", "NamedTuple", "Struct"),
        *("AXES", "FIELDS", "GROUPS", "MESSAGES", "VERSION", "OLDEST", "DIGEST"),
    ]
)
# A field by such a name would hide what tells messages apart, or a type that others need.
MESSAGE_WORDS = frozenset(
    [*("kind", "version", "body"), *("int", "float", "bool", "str", "bytes", "tuple", "math")],
)


def camel(name: str) -> str:
    """Return the class name of an attribute: `lamp_colour` becomes `LampColour`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def fault_of_name(name: str, plain: bool, taken: frozenset[str]) -> str | None:
    """Say why `name` cannot be the name of something; None where it can.

    Args:
        name: As written.
        plain: Whether it stands without quotes, where other YAML readers see `no` as false.
        taken: Names that mean something else there.
    """
    if plain and name.lower() in YAML_WORDS:
        return "is a YAML boolean or null; choose another name or put it in quotes"
    if not _NAME.fullmatch(name):
        return "is no name; use letters, digits and '_', and begin with a letter"
    if keyword.iskeyword(name):
        return "is a Python keyword; choose another name"
    if name in taken:
        return "is reserved; choose another name"
    if len(name) > MOST_NAME_LENGTH:
        return f"is longer than {MOST_NAME_LENGTH} characters"
    return None
