"""The digest moves with behaviour and tables, and with nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kasmina_generator import read_spec
from kasmina_generator.model import Spec
from tests.generator.specs import DOOR, MACHINES, read, spoil


@pytest.fixture
def digest(tmp_path: Path) -> str:
    """Return the digest of the door."""
    return read(tmp_path, DOOR).digest


def test_it_is_a_sha256(digest: str) -> None:
    """64 hexadecimal digits."""
    assert re.fullmatch("[0-9a-f]{64}", digest)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("initial: SHUT", "initial: SHUT # where else"),
        ("meaning: A door with a spring.", "meaning: A door."),
        ("meaning: Room to pass.", "meaning: Space."),
        ("{code: 1, lamp: lit,", "{lamp: lit, code: 1,"),
        ("guard: calm,", "guard: (wind<gale),"),
        ("can be locked", "may be locked"),
        ("urgent: true, ", "urgent: true,   "),
        ("usable: [SHUT, OPEN]", "usable: [SHUT, OPEN]\n"),
        ("default: 20, range: [5, 40]", "default: 20.0, range: [5.0, 4e1]"),
        ("calm: wind < gale", "calm: not wind >= gale"),
        ("kind: command, meaning: Somebody", "kind: command, priority: 100, meaning: Somebody"),
        ("on: close, to: SHUT, guard: timed_out", "on: close, to: SHUT, guard: epochs >= 9"),
    ],
)
def test_it_stays(tmp_path: Path, digest: str, old: str, new: str) -> None:
    """Comments, prose, white space, the order of keys and another spelling change nothing."""
    assert read(tmp_path, spoil(DOOR, old, new)).digest == digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: door", "name: gate"),
        ("version: 1", "version: 2"),
        ("initial: SHUT", "initial: OPEN"),
        ("code: 2", "code: 3"),
        ("lamp: lit,", "lamp: dark,"),
        ("{dark: off, lit: shines}", "{lit: shines, dark: off}"),
        ("min_epochs: 1", "min_epochs: 2"),
        ("max_epochs: 9", "max_epochs: 10"),
        ("  usable: [SHUT, OPEN]\n", "  usable: [SHUT, OPEN]\n  one: [OPEN]\n"),
        ("urgent: true, ", ""),
        ("priority: 0", "priority: 1"),
        ("kind: automatic", "kind: command"),
        ("unit: m/s", "unit: km/h"),
        ("range: [0, 50]", "range: [0, 51]"),
        ("default: 0, nan: 50", "default: 1, nan: 50"),
        ("nan: 50", "nan: unknown"),
        ("infinity: allowed", "infinity: refuse"),
        ("default: 20", "default: 21"),
        ("default: false", "default: true"),
        ("calm: wind < gale", "calm: wind <= gale"),
        (", effects: [ring]", ""),
        ("order: visitors", "order: slot"),
        ("limit: crowd", "limit: crowd2"),
        ("after_epochs: 3", "after_epochs: 4"),
        ("{from: SHUT, on: push, to: OPEN, guard", "{from: SHUT, on: push, to: OPEN, priority: 7, guard"),
    ],
)  # fmt: skip
def test_it_moves(tmp_path: Path, digest: str, old: str, new: str) -> None:
    """Whatever a table or a step would show."""
    text = spoil(DOOR, old, new)
    if new == "limit: crowd2":
        text = text.replace("  crowd: {", "  crowd2: {")
    assert read(tmp_path, text).digest != digest


def test_it_covers_the_columns(tmp_path: Path) -> None:
    """What is stored belongs to the machine."""

    def digest_of(state: str) -> str:
        (tmp_path / "orders_state.yaml").write_text(state)
        return read(tmp_path, (MACHINES / "orders.yaml").read_text()).digest

    state = (MACHINES / "orders_state.yaml").read_text()
    assert digest_of(state) == digest_of(state.replace("Days in the state", "Days"))
    assert digest_of(state) != digest_of(state.replace("length: 6", "length: 7"))


def test_nothing_depends_on_where_the_file_lies(tmp_path: Path) -> None:
    """The spec knows its file by its short name only."""

    def moved(folder: str, name: str) -> Spec:
        path = tmp_path / folder
        path.mkdir()
        (path / name).write_text(DOOR)
        return read_spec(path / name)

    one, two = moved("a", "door.yaml"), moved("b", "door.yaml")
    assert one == two
    assert str(tmp_path) not in repr(one)
    assert moved("c", "gate.yaml").digest == one.digest
