"""Records files: what is read, and exactly what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kasmina_generator.build import build, checked_spec, user_target
from kasmina_generator.emit.render import MODULES
from kasmina_generator.record_model import RecordSchema
from kasmina_generator.vocabulary import MODULE_WORDS
from tests.generator.specs import DOOR, changes, faults, read, spoil

VISITS = """\
schema: kasmina/records@1
name: visits
version: 3
meaning: Who came through the door on a day.
axes:
  hours: One entry an hour.
records:
  Visitor:
    meaning: Somebody.
    fields:
      name: {type: str, meaning: How they are called.}
      age: {type: int, unit: years, range: [0, .inf], none: Nobody asked., meaning: Since birth.}
      height: {type: float, unit: m, range: [0, 3], nan: Not measured., meaning: With shoes.}
      known: {type: bool, meaning: They came before.}
  Traffic:
    meaning: What was counted.
    fields:
      people: {type: column, dtype: int16, axis: hours, unit: "1", range: [0, .inf], meaning: Them.}
      wind: {type: column, dtype: float32, axis: hours, unit: m/s, range: [0, 0.1], nan: Still.,
             meaning: Draught.}
      rain: {type: column, dtype: bool, axis: hours, meaning: It rained.}
  Day:
    meaning: A day at the door.
    fields:
      number: {type: int, unit: days, meaning: Since it was hung.}
      weather: {type: str, none: Nobody looked., meaning: Outside.}
      visitors: {type: tuple, of: Visitor, meaning: As they came.}
      remarks: {type: tuple, of: str, meaning: Of the doorman.}
      guest: {type: record, of: Visitor, none: There was none., meaning: Of honour.}
      traffic: {type: record, of: Traffic, meaning: All day.}
"""
WITH_RECORDS = f"{DOOR}records: visits.yaml\n"


def said(folder: Path, text: str, spec: str = WITH_RECORDS) -> list[str]:
    """Return what is said of the door with this records file."""
    (folder / "visits.yaml").write_text(text)
    return faults(folder, spec)


def schema(folder: Path, text: str = VISITS) -> RecordSchema:
    """Return what is read of a records file that is right."""
    assert said(folder, text) == []
    (found,) = read(folder, WITH_RECORDS).record_files
    return found


def test_what_is_read(tmp_path: Path) -> None:
    """Types, what they hold, and ranges in the field's own dtype."""
    found = schema(tmp_path)
    assert (found.name, found.version, found.file) == ("visits", 3, "visits.yaml")
    assert [(axis.name, axis.meaning) for axis in found.axes] == [("hours", "One entry an hour.")]
    fields = {f"{r.name}.{f.name}": f for r in found.records for f in r.fields}
    assert {name: (f.type, f.of) for name, f in fields.items()} == {
        "Visitor.name": ("str", ""),
        "Visitor.age": ("int", ""),
        "Visitor.height": ("float", ""),
        "Visitor.known": ("bool", ""),
        "Traffic.people": ("column", "int16"),
        "Traffic.wind": ("column", "float32"),
        "Traffic.rain": ("column", "bool"),
        "Day.number": ("int", ""),
        "Day.weather": ("str", ""),
        "Day.visitors": ("tuple", "Visitor"),
        "Day.remarks": ("tuple", "str"),
        "Day.guest": ("record", "Visitor"),
        "Day.traffic": ("record", "Traffic"),
    }
    age, wind = fields["Visitor.age"], fields["Traffic.wind"]
    assert (age.low, age.high, age.none_meaning) == (0, math.inf, "Nobody asked.")
    assert (wind.low, wind.high, wind.nan_meaning) == (0.0, 0.10000000149011612, "Still.")
    assert wind.axis == "hours"
    assert wind.place.line == 19


@pytest.mark.parametrize(("old", "new", "messages"), list(changes("bad_records.txt")))
def test_a_wrong_records_file_is_refused(
    tmp_path: Path, old: str, new: str, messages: list[str]
) -> None:
    """One change, and every line that is said about it."""
    assert said(tmp_path, spoil(VISITS, old, new)) == messages


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("guests.yaml", "door.yaml:42:10: spec: records: no file 'guests.yaml' lies beside the spec"),
        ("{a: b}", "door.yaml:42:10: spec: records: expected a name or a list of names, found a mapping"),
        ("[visits.yaml, visits.yaml]", "door.yaml:42:24: spec: records: 'visits.yaml' is named twice"),
        ("[visits.yaml, copy.yaml]", "copy.yaml:2:7: name 'visits' is that of visits.yaml; each becomes a module"),
    ],
)  # fmt: skip
def test_files_that_a_spec_cannot_name(tmp_path: Path, named: str, message: str) -> None:
    """They lie beside the spec, and each is a module of its own."""
    (tmp_path / "copy.yaml").write_text(VISITS)
    assert said(tmp_path, VISITS, f"{DOOR}records: {named}\n") == [message]


def test_a_records_file_that_is_none(tmp_path: Path) -> None:
    """It is read as the other files are."""
    assert said(tmp_path, "- a") == ["visits.yaml:1:1: expected a mapping, found a list of 1"]


def test_the_digest_covers_all_but_the_prose(tmp_path: Path) -> None:
    """What a reader of old lines must know; and the machine's own digest covers none of it."""
    before = schema(tmp_path).digest
    machine = read(tmp_path, WITH_RECORDS).digest
    assert machine == read(tmp_path, DOOR).digest
    for old, new in [
        ("With shoes.", "Barefoot."),
        ("Nobody asked.", "Secret."),
        ("an hour", "each"),
    ]:
        assert schema(tmp_path, spoil(VISITS, old, new)).digest == before
    for old, new in [
        ("version: 3", "version: 4"),
        ("range: [0, 3]", "range: [0, 4]"),
        ("unit: m,", "unit: cm,"),
        ("none: Nobody looked., ", ""),
        ("int16", "int32"),
        ("of: str", "of: Visitor"),
    ]:
        assert schema(tmp_path, spoil(VISITS, old, new)).digest != before, new


def test_a_build_keeps_the_modules_up_to_date(tmp_path: Path) -> None:
    """They are written, found to have drifted, and removed with the line that names them."""
    schema(tmp_path)
    target = user_target(tmp_path / "door.yaml", tmp_path / "built")
    build([target])
    module = tmp_path / "built" / "visits.py"
    lines = module.read_text().splitlines()
    assert lines[1] == "# spec: visits version 3, from visits.yaml"
    assert lines[2] == f"# digest: {checked_spec(target.spec).record_files[0].digest}"
    (tmp_path / "visits.yaml").write_text(spoil(VISITS, "With", "Without"))
    assert [(c.path.name, c.kind) for c in build([target])] == [("visits.py", "drift")]
    target.spec.write_text(DOOR)
    assert ("visits.py", "orphan") in [(c.path.name, c.kind) for c in build([target])]
    assert not module.exists()


def test_no_module_of_the_package_can_be_taken() -> None:
    """A records file by such a name would overwrite it."""
    assert {*MODULES} - {"__init__"} | {"state"} <= MODULE_WORDS
