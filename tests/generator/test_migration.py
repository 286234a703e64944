"""Migrations as the reader takes them, and exactly what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.digest import digest_of
from kasmina_generator.model import Migration, Spec
from tests.generator.specs import DOOR, changes, faults, read, spoil

OLD_STATE = """\
schema: kasmina/state@1
name: old_state
meaning: What was kept.
columns:
  where: {dtype: int8, role: state, meaning: Its state.}
  ticks: {dtype: int16, role: epochs, meaning: For how long.}
  paint: {dtype: float32, length: 3, default: 0, meaning: Colour.}
  shade: {dtype: float32, length: 2, fields: [top, side], default: 0, meaning: Colour.}
  oak: {dtype: bool, default: true, meaning: Its wood.}
  keys: {dtype: int16, default: 0, meaning: How many.}
"""
STATE = """\
schema: kasmina/state@1
name: door_state
meaning: What is kept.
columns:
  code: {dtype: int8, role: state, meaning: Its state.}
  ticks: {dtype: int16, role: epochs, meaning: For how long.}
  paint: {dtype: float32, length: 3, default: 0, meaning: Colour.}
  shade: {dtype: float64, length: 3, fields: [side, front, top], default: 0, meaning: Colour.}
  pine: {dtype: bool, default: true, meaning: Its wood.}
  locks: {dtype: int8, default: 0, meaning: How many.}
"""
WITH_STATE = spoil(DOOR, "initial: SHUT", "state: door_state.yaml\ninitial: SHUT")
GIVEN = """\
migrations:
  - from: {file: old.yaml, digest: DIGEST}
    states: {SHUT: SHUT, OPEN: OPEN, LOCKED: LOCKED}
    columns: {oak: pine, keys: locks}
    meaning: The wood changed.
"""
LINE = (WITH_STATE + GIVEN).count("\n") - 3  # of `from`


def files(folder: Path) -> str:
    """Write everything but the new spec; return the old one's digest."""
    (folder / "old_state.yaml").write_text(OLD_STATE)
    (folder / "door_state.yaml").write_text(STATE)
    old = WITH_STATE.replace("door_state.yaml", "old_state.yaml").replace(
        "name: door", "name: gate"
    )
    (folder / "old.yaml").write_text(old)
    return read_spec(folder / "old.yaml").digest


def said(folder: Path, given: str) -> list[str]:
    """What is said of a spec with these migrations."""
    digest = files(folder)
    return [m.replace(digest, "DIGEST") for m in faults(folder, WITH_STATE + given.replace("DIGEST", digest))]  # fmt: skip


def test_what_is_read(tmp_path: Path) -> None:
    """Old states with their codes, old columns and where they go: declared, by role, by name."""
    digest = files(tmp_path)
    (migration,) = read(tmp_path, WITH_STATE + GIVEN.replace("DIGEST", digest)).migrations
    assert (migration.spec, migration.version, migration.digest) == ("gate", 1, digest)
    assert (migration.file, migration.meaning) == ("old.yaml", "The wood changed.")
    assert [(s.old, s.code, s.new) for s in migration.states] == [
        ("SHUT", 0, "SHUT"), ("OPEN", 1, "OPEN"), ("LOCKED", 2, "LOCKED"),
    ]  # fmt: skip
    assert [(c.column.name, c.new) for c in migration.columns] == [
        ("where", "code"), ("ticks", "ticks"), ("paint", "paint"), ("shade", "shade"),
        ("oak", "pine"), ("keys", "locks"),
    ]  # fmt: skip


def test_what_no_column_takes_is_dropped(tmp_path: Path) -> None:
    """It goes nowhere."""
    digest = files(tmp_path)
    given = spoil(GIVEN.replace("DIGEST", digest), "    columns: {oak: pine, keys: locks}\n", "")
    (migration,) = read(tmp_path, WITH_STATE + given).migrations
    assert [c.column.name for c in migration.columns if c.new is None] == ["oak", "keys"]


def test_the_digest_does_not_move(tmp_path: Path) -> None:
    """What this spec has stored stays readable when a migration to it is declared."""
    digest = files(tmp_path)
    plain = read(tmp_path, WITH_STATE)
    with_migration = read(tmp_path, WITH_STATE + GIVEN.replace("DIGEST", digest))
    assert plain.digest == with_migration.digest == digest_of(with_migration)


def test_the_old_spec_may_name_specs_that_are_gone(tmp_path: Path) -> None:
    """Its own migrations are no matter of the new one's."""
    gone = "migrations:\n  - from: {file: gone.yaml, digest: x}\n    states: {}\n    meaning: x\n"
    digest = files(tmp_path)
    with (tmp_path / "old.yaml").open("a") as file:
        file.write(gone)
    assert read(tmp_path, WITH_STATE + GIVEN.replace("DIGEST", digest)).migrations


def test_the_shipped_migration_is_total() -> None:
    """Five old states, four old columns."""

    def names(spec: Spec) -> list[str]:
        return [state.name for state in spec.states]

    old, new = read_spec(kasmina_spec.LIFECYCLE_V1), read_spec(kasmina_spec.LIFECYCLE)
    migration: Migration
    (migration,) = new.migrations
    assert migration.digest == old.digest
    assert [move.old for move in migration.states] == names(old)
    assert {move.new for move in migration.states} <= set(names(new))
    assert all(move.new for move in migration.columns)


@pytest.mark.parametrize(("old", "new", "messages"), list(changes("bad_migrations.txt")))
def test_a_wrong_migration_is_refused(
    tmp_path: Path, old: str, new: str, messages: list[str]
) -> None:
    """One change, and what is said about it."""
    assert said(tmp_path, spoil(GIVEN, old, new)) == messages


def test_all_faults_come_in_one_run(tmp_path: Path) -> None:
    """States, columns and the digest."""
    given = spoil(spoil(GIVEN, "DIGEST", "cafe"), "OPEN: OPEN, ", "")
    places = [message.split(": ")[0] for message in said(tmp_path, spoil(given, "pine", "fir"))]
    assert places == [
        f"door.yaml:{LINE}:36",
        f"door.yaml:{LINE + 1}:13",
        f"door.yaml:{LINE + 2}:20",
    ]


def test_a_length_changes_by_the_names_of_the_entries_only(tmp_path: Path) -> None:
    """Where either column does not name them, nobody knows which is which."""
    files(tmp_path)
    (tmp_path / "door_state.yaml").write_text(spoil(STATE, "length: 3, fields: [side, front, top]", "length: 3"))  # fmt: skip
    digest = read_spec(tmp_path / "old.yaml").digest
    (message,) = faults(tmp_path, WITH_STATE + GIVEN.replace("DIGEST", digest))
    assert message == (
        f"door.yaml:{LINE + 2}:14: migration 1: column 'shade' to 'shade': length 2 does not become "
        "3; name the entries under 'fields', or give the new column another name"
    )


def test_the_same_machine_needs_no_migration(tmp_path: Path) -> None:
    """An equal digest stores the same."""
    (tmp_path / "old.yaml").write_text(DOOR.replace("A door with a spring.", "A door."))
    digest = read_spec(tmp_path / "old.yaml").digest
    given = spoil(GIVEN, "    columns: {oak: pine, keys: locks}\n", "").replace("DIGEST", digest)
    (message,) = faults(tmp_path, DOOR + given)
    assert message.endswith(
        "from: digest: old.yaml stores what this spec stores, under the same digest; drop the "
        "migration"
    )


def test_one_migration_a_digest(tmp_path: Path) -> None:
    """A second one from the same spec is refused."""
    again = GIVEN.removeprefix("migrations:\n")
    (message,) = said(tmp_path, GIVEN + again)
    assert "migration 2: a second migration from digest " in message


def test_a_faulty_state_file_is_told_once(tmp_path: Path) -> None:
    """No fault of a column follows from columns that are not known."""
    digest = files(tmp_path)
    (tmp_path / "door_state.yaml").write_text(spoil(STATE, "dtype: bool", "dtype: bit"))
    (message, *rest) = faults(tmp_path, WITH_STATE + GIVEN.replace("DIGEST", digest))
    assert message.startswith("door_state.yaml:")
    assert rest == []


def test_migrations_are_no_mapping(tmp_path: Path) -> None:
    """They are a list."""
    (message,) = faults(tmp_path, DOOR + f"migrations: {json.dumps({'from': 1})}\n")
    assert message.endswith("migrations: expected a list, found a mapping")
