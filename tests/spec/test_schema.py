"""The JSON Schemas say what the reader accepts, and every YAML in the repository follows them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

import kasmina_spec
from kasmina_generator import SpecErrors, read_spec
from kasmina_generator.declarations import (
    DEFAULT_PRIORITY,
    MOST_ATTRIBUTE_VALUES,
    MOST_EFFECTS,
    MOST_EVENTS,
    MOST_STATE_CODE,
)
from kasmina_generator.fields import DTYPES as FIELD_DTYPES
from kasmina_generator.guard import MOST_CHARACTERS
from kasmina_generator.kernels.functions import FUNCTIONS
from kasmina_generator.kernels.kernels_file import BIASES, FILES, MODES, PLACEMENTS
from kasmina_generator.kernels.kernels_file import DTYPES as KERNEL_DTYPES
from kasmina_generator.kernels.kind import MOST_CHOICES, MOST_MAPS
from kasmina_generator.kernels.model import INPUT, OUT
from kasmina_generator.messages.fields import DTYPES as MESSAGE_DTYPES
from kasmina_generator.messages.fields import MOST_LENGTH as MOST_MESSAGE_LENGTH
from kasmina_generator.messages.fields import TYPES as MESSAGE_TYPES
from kasmina_generator.number import INT16_MAX
from kasmina_generator.records_file import MOST_VERSION, TYPES
from kasmina_generator.state_file import DTYPES as COLUMN_DTYPES
from kasmina_generator.state_file import MOST_LENGTH, ROLES
from kasmina_generator.vocabulary import (
    KERNELS_SCHEMA,
    LIFECYCLE_SCHEMA,
    MESSAGES_SCHEMA,
    MOST_NAME_LENGTH,
    RECORDS,
    RECORDS_SCHEMA,
    STATE_SCHEMA,
    fault_of_name,
)

ROOT = Path(__file__).resolve().parents[2]
STATE_RECORDS = {"state_file", "column"}
KERNEL_RECORDS = {"kernels_file", "kernel_states", "state_set", "placement"}
KERNEL_RECORDS |= {"map_kind", "element_kind"}
RECORD_RECORDS = {"records_file", "record", *(f"{kind}_item" for kind in TYPES)}
MESSAGE_RECORDS = {"messages_file", "message_record", "message_envelope", "message_group"}
MESSAGE_RECORDS |= {"message", "upgrade", "envelope_change", "message_change"}
MESSAGE_RECORDS |= {f"{kind}_value" for kind in MESSAGE_TYPES}
MACHINES = ROOT / "tests" / "generator" / "machines"

Json = dict[str, Any]


def load(path: Path) -> Json:
    """Return a schema."""
    schema: Json = json.loads(path.read_text())
    return schema


LIFECYCLE = load(kasmina_spec.LIFECYCLE_SCHEMA)
STATE = load(kasmina_spec.STATE_SCHEMA)
OBSERVED = load(kasmina_spec.RECORDS_SCHEMA)
KERNELS = load(kasmina_spec.KERNELS_SCHEMA)
MESSAGES = load(kasmina_spec.MESSAGES_SCHEMA)
SCHEMAS = {"lifecycle": LIFECYCLE, "state": STATE, "records": OBSERVED, "kernels": KERNELS}
SCHEMAS |= {"messages": MESSAGES}


def specs() -> list[Path]:
    """Return every YAML file of the repository that calls itself one of ours."""
    folders = [ROOT / "spec", ROOT / "tests", ROOT / "docs"]
    files = sorted(path for folder in folders for path in folder.rglob("*.yaml"))
    return [path for path in files if "schema: kasmina/" in path.read_text()]


def definition(record: str) -> Json:
    """Return what the schemas say of one kind of record."""
    schema = OBSERVED if record in RECORD_RECORDS else LIFECYCLE
    schema = STATE if record in STATE_RECORDS else schema
    schema = KERNELS if record in KERNEL_RECORDS else schema
    schema = MESSAGES if record in MESSAGE_RECORDS else schema
    found: Json = schema["$defs"][record]
    return found


@pytest.mark.parametrize("record", RECORDS)
def test_parser_and_schema_have_the_same_keys(record: str) -> None:
    """For each record: all keys, the required ones, and nothing beside them."""
    schema = definition(record)
    assert set(schema["properties"]) == set(RECORDS[record].all)
    assert set(schema["required"]) == set(RECORDS[record].required)
    own = {"type": "string"} if record == "state" else False  # a state has its attributes as well
    assert schema["additionalProperties"] == own


def test_the_schemas_have_no_other_records() -> None:
    """Every record of a schema is one that the parser knows."""
    helpers = {"name", "lower", "text", "range"}
    elsewhere = STATE_RECORDS | RECORD_RECORDS | KERNEL_RECORDS | MESSAGE_RECORDS
    assert set(LIFECYCLE["$defs"]) - helpers == set(RECORDS) - elsewhere
    assert set(KERNELS["$defs"]) - helpers == KERNEL_RECORDS
    assert set(MESSAGES["$defs"]) - helpers - {"length"} == MESSAGE_RECORDS
    assert set(OBSERVED["$defs"]) - helpers == RECORD_RECORDS
    assert set(STATE["$defs"]) - helpers == STATE_RECORDS


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_the_schemas_are_schemas(schema: Json) -> None:
    """Of draft 2020-12."""
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_bounds_and_choices_are_those_of_the_parser() -> None:
    """Numbers and lists of names that both sides state."""
    state, event, column = definition("state"), definition("event"), definition("column")
    top = definition("lifecycle")["properties"]
    assert top["schema"] == {"const": LIFECYCLE_SCHEMA}
    assert definition("state_file")["properties"]["schema"] == {"const": STATE_SCHEMA}
    assert state["properties"]["code"]["maximum"] == MOST_STATE_CODE
    assert state["properties"]["min_epochs"]["maximum"] == INT16_MAX
    assert event["properties"]["priority"]["maximum"] == INT16_MAX
    assert event["properties"]["priority"]["default"] == DEFAULT_PRIORITY
    assert top["events"]["maxProperties"] == MOST_EVENTS
    assert top["effects"]["maxProperties"] == MOST_EFFECTS
    assert top["guards"]["additionalProperties"]["maxLength"] == MOST_CHARACTERS
    values = definition("attribute")["properties"]["values"]
    assert values["maxProperties"] == MOST_ATTRIBUTE_VALUES
    assert set(column["properties"]["dtype"]["enum"]) == set(COLUMN_DTYPES)
    assert set(column["properties"]["role"]["enum"]) == set(ROLES)
    assert column["properties"]["length"]["maximum"] == MOST_LENGTH
    records, field = definition("records_file")["properties"], definition("column_item")
    assert records["schema"] == {"const": RECORDS_SCHEMA}
    assert records["version"]["maximum"] == MOST_VERSION
    assert set(field["properties"]["dtype"]["enum"]) == set(COLUMN_DTYPES)
    types = {definition(f"{kind}_item")["properties"]["type"]["const"] for kind in TYPES}
    assert types == set(TYPES)
    check_kernels()
    check_messages()
    kinds = ("float_field", "integer_field", "bool_field")
    dtypes = {definition(kind)["properties"]["dtype"]["const"] for kind in kinds}
    assert dtypes == set(FIELD_DTYPES)


def check_kernels() -> None:
    """Hold the numbers and names of a kernels file."""
    top, maps = definition("kernels_file")["properties"], definition("map_kind")["properties"]
    placement, element = definition("placement")["properties"], definition("element_kind")
    assert top["schema"] == {"const": KERNELS_SCHEMA}
    assert top["version"]["maximum"] == MOST_VERSION
    assert set(top["placements"]["propertyNames"]["enum"]) == set(PLACEMENTS)
    assert [each["enum"] for each in choices(top["dtypes"])] == [list(KERNEL_DTYPES)] * 2
    assert [each["enum"] for each in choices(placement["modes"])] == [list(MODES)] * 2
    assert set(placement["files"]["enum"]) == set(FILES)
    assert set(placement["out"]["enum"]) == set(BIASES)
    assert set(maps["maps"]["additionalProperties"]["enum"]) == set(BIASES)
    assert maps["maps"]["maxProperties"] == MOST_MAPS
    refused = maps["maps"]["propertyNames"]["allOf"][1]["not"]["enum"]
    assert set(refused) == {INPUT, OUT, *FUNCTIONS}
    options = maps["options"]["additionalProperties"]
    assert options["items"]["enum"] == list(FUNCTIONS)
    assert options["maxItems"] == MOST_CHOICES
    for formula in (maps["hidden"], element["properties"]["elementwise"]):
        assert formula["maxLength"] == MOST_CHARACTERS


def check_messages() -> None:
    """Hold the numbers and names of a messages file."""
    top = definition("messages_file")["properties"]
    assert top["schema"] == {"const": MESSAGES_SCHEMA}
    assert top["version"]["maximum"] == MOST_VERSION
    assert definition("upgrade")["properties"]["from"]["maximum"] == MOST_VERSION
    assert MESSAGES["$defs"]["length"]["items"]["maximum"] == MOST_MESSAGE_LENGTH
    types = {definition(f"{kind}_value")["properties"]["type"]["const"] for kind in MESSAGE_TYPES}
    assert types == set(MESSAGE_TYPES)
    column = definition("column_value")["properties"]
    assert column["dtype"]["enum"] == list(MESSAGE_DTYPES)


def choices(schema: Json) -> list[Json]:
    """Return what one name, and each of a list, may be."""
    one, many = schema["oneOf"]
    return [one, many["items"]]


@pytest.mark.parametrize("name", ["a", "A_1", "1a", "_a", "a-b", "", "a" * MOST_NAME_LENGTH,
                                  "a" * (MOST_NAME_LENGTH + 1)])  # fmt: skip
def test_names_are_the_same_on_both_sides(name: str) -> None:
    """The pattern of the schema and the parser's rule."""
    validator = jsonschema.Draft202012Validator(LIFECYCLE["$defs"]["name"])
    assert validator.is_valid(name) is (fault_of_name(name, False, frozenset()) is None)


def test_there_are_specs_to_validate() -> None:
    """The built-in machines with their columns and records, and the foreign ones."""
    names = {path.name for path in specs()}
    assert names >= {"lifecycle.yaml", "lifecycle_v1.yaml", "state.yaml", "state_v1.yaml"}
    assert names >= {"traffic_light.yaml", "orders.yaml", "orders_state.yaml", "observation.yaml"}
    assert names >= {"kernels.yaml", "messages.yaml"}


@pytest.mark.parametrize("path", specs(), ids=lambda path: path.name)
def test_every_spec_of_the_repository_is_valid(path: Path) -> None:
    """What the reader takes, an editor takes as well."""
    document = YAML(typ="safe", pure=True).load(path)
    schema = SCHEMAS[document["schema"].removeprefix("kasmina/").removesuffix("@1")]
    errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("states", "GREEN", "code"), 128),
        (("states", "GREEN", "code"), "5"),
        (("states", "GREEN", "min_epochs"), -1),
        (("states", "GREEN", "max_epochs"), "soon"),
        (("states", "GREEN", "terminal"), "yes"),
        (("states", "GREEN", "lamp"), 3),
        (("events", "change", "kind"), "auto"),
        (("context", "waiting", "unit"), 1),
        (("context", "waiting", "nan"), 0),
        (("context", "waiting", "dtype"), "int64"),
        (("limits", "long_queue", "range"), [1]),
        (("transitions",), {}),
        (("groups", "working"), []),
        (("properties",), [{"name": "nothing"}]),
        (("version",), 0),
        (("schema",), "kasmina/lifecycle@9"),
        (("surprise",), 1),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(path: tuple[str, ...], value: object) -> None:
    """An editor underlines these before the reader does."""
    document = YAML(typ="safe", pure=True).load(MACHINES / "traffic_light.yaml")
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert not jsonschema.Draft202012Validator(LIFECYCLE).is_valid(document)


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        ("KindOffer", "name", {"type": "text", "meaning": "A name."}),
        ("KindOffer", "flops", {"type": "int", "meaning": "Without a unit."}),
        ("KindOffer", "flops", {"type": "int", "unit": "1", "nan": "None.", "meaning": "One."}),
        ("KindOffer", "flops", {"type": "int", "unit": "1", "range": [0], "meaning": "One."}),
        ("KindOffer", "Flops", {"type": "int", "unit": "1", "meaning": "A capital."}),
        ("SeedTable", "mean", {"type": "column", "dtype": "float16", "axis": "seeds", "unit": "1",
                               "meaning": "Unknown dtype."}),
        ("SeedTable", "mean", {"type": "column", "dtype": "int8", "axis": "seeds",
                               "meaning": "Without a unit."}),
        ("SeedTable", "mean", {"type": "column", "dtype": "int8", "axis": "seeds", "unit": "1",
                               "nan": "There is none.", "meaning": "An integer."}),
        ("SeedTable", "mean", {"type": "column", "dtype": "bool", "axis": "seeds", "unit": "1",
                               "meaning": "A bool."}),
        ("lower_case", "a", {"type": "bool", "meaning": "One."}),
    ],
)  # fmt: skip
def test_the_records_schema_refuses_what_the_reader_refuses(
    record: str, field: str, value: Json
) -> None:
    """An editor underlines these as well."""
    document = YAML(typ="safe", pure=True).load(kasmina_spec.OBSERVATION)
    entry = document["records"].setdefault(record, {"meaning": "New.", "fields": {}})
    entry["fields"][field] = value
    assert not jsonschema.Draft202012Validator(OBSERVED).is_valid(document)


@pytest.mark.parametrize(
    ("kind", "entry"),
    [
        ("upper", {"maps": {"Up": "bias"}, "hidden": "up", "meaning": "A capital."}),
        ("taken", {"maps": {"out": "bias"}, "hidden": "out", "meaning": "The last map."}),
        ("bare", {"maps": {"up": "weight"}, "hidden": "up", "meaning": "No such map."}),
        ("empty", {"maps": {}, "hidden": "1", "meaning": "No map."}),
        ("both", {"maps": {"up": "bias"}, "elementwise": "x * up", "meaning": "Both."}),
        ("silent", {"elementwise": "x * scale"}),
        ("lost", {"maps": {"up": "bias"}, "meaning": "No formula."}),
        ("Capital", {"elementwise": "x * scale", "meaning": "A capital."}),
        ("odd", {"maps": {"up": "bias"}, "hidden": "f(up)", "options": {"f": ["sinh"]},
                 "meaning": "No such function."}),
        ("none", {"maps": {"up": "bias"}, "hidden": "f(up)", "options": {"f": []},
                  "meaning": "No choice."}),
    ],
)  # fmt: skip
def test_the_kernels_schema_refuses_what_the_reader_refuses(
    tmp_path: Path, kind: str, entry: Json
) -> None:
    """Of kinds; and so does the reader."""
    document = YAML(typ="safe", pure=True).load(kasmina_spec.KERNELS)
    document["kinds"][kind] = entry
    assert not jsonschema.Draft202012Validator(KERNELS).is_valid(document)
    for source in kasmina_spec.FOLDER.glob("*.yaml"):
        shutil.copy(source, tmp_path)
    YAML(typ="safe", pure=True).dump(document, tmp_path / "kernels.yaml")
    with pytest.raises(SpecErrors, match=r"^kernels.yaml:\d+:\d+: "):
        read_spec(tmp_path / "lifecycle.yaml")
