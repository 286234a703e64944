"""The file of stored columns: what is read, and exactly what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import read_spec
from tests.generator.specs import DOOR, changes, faults, read, spoil

STATE = """\
schema: kasmina/state@1
name: door_state
meaning: What is kept of a door.
columns:
  where: {dtype: int8, role: state, meaning: Its state.}
  ticks: {dtype: int16, role: epochs, meaning: For how long.}
  before: {dtype: int8, role: parent, default: -1, meaning: The state before.}
  path: {dtype: int8, length: 4, role: history, meaning: States left.}
  moves: {dtype: int32, role: history_count, meaning: How many.}
  paint: {dtype: float32, length: 3, fields: [red, green, blue], default: 0.1, meaning: Colour.}
  oak: {dtype: bool, default: true, meaning: Its wood.}
"""
WITH_STATE = spoil(DOOR, "initial: SHUT", "state: state.yaml\ninitial: OPEN")


def said(folder: Path, text: str) -> list[str]:
    """Return what is said of the door with this state file."""
    (folder / "state.yaml").write_text(text)
    return faults(folder, WITH_STATE)


def test_what_is_read(tmp_path: Path) -> None:
    """Roles know their defaults; the others say theirs, stored in the column's dtype."""
    assert said(tmp_path, STATE) == []
    schema = read(tmp_path, WITH_STATE).columns
    assert schema is not None
    assert [(c.name, c.default, c.length, c.role) for c in schema.columns] == [
        ("where", 1, 1, "state"),  # the code of the initial state
        ("ticks", 0, 1, "epochs"),
        ("before", -1, 1, "parent"),
        ("path", -1, 4, "history"),
        ("moves", 0, 1, "history_count"),
        ("paint", 0.10000000149011612, 3, None),
        ("oak", True, 1, None),
    ]
    assert schema.columns[5].fields == ("red", "green", "blue")
    assert schema.columns[5].place.file == "state.yaml"


def test_the_default_row_is_small() -> None:
    """At most 150 bytes a seed."""
    widths = {"int8": 1, "int16": 2, "int32": 4, "float32": 4}
    schema = read_spec(kasmina_spec.LIFECYCLE).columns
    assert schema is not None
    assert sum(widths[column.dtype] * column.length for column in schema.columns) <= 150


@pytest.mark.parametrize(("old", "new", "messages"), list(changes("bad_state_files.txt")))
def test_a_wrong_state_file_is_refused(
    tmp_path: Path, old: str, new: str, messages: list[str]
) -> None:
    """One change, and every line that is said about it."""
    assert said(tmp_path, spoil(STATE, old, new)) == messages


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "state.yaml:1:1: expected a mapping, found a list of 1"),
        ("", "state.yaml:1:1: holds no document; `kasmina spec init DIR` writes one to start from"),
    ],
)
def test_a_state_file_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    """Both files are read alike."""
    assert said(tmp_path, text) == [message]


def test_faults_of_both_files_come_together(tmp_path: Path) -> None:
    """One run tells all, sorted by file."""
    (tmp_path / "state.yaml").write_text(spoil(STATE, "dtype: bool", "dtype: bit"))
    messages = faults(tmp_path, spoil(WITH_STATE, "code: 2", "code: two"))
    assert [message.split(":")[0] for message in messages][:2] == ["door.yaml", "state.yaml"]


def test_unsigned_and_wide_columns(tmp_path: Path) -> None:
    """Each dtype holds its own range."""
    extra = (
        "  small: {dtype: uint8, default: 255, meaning: Small.}\n"
        "  wide: {dtype: float64, default: 1e300, meaning: Wide.}\n"
    )
    assert said(tmp_path, STATE + extra) == []
    assert said(tmp_path, STATE + extra.replace("255", "256")) == [
        "state.yaml:12:34: column 'small': default: '256' is no uint8"
    ]
    assert said(tmp_path, STATE + extra.replace("1e300", "1e400")) == [
        "state.yaml:13:35: column 'wide': default: '1e400' is no float64"
    ]
