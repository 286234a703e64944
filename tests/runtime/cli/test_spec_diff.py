"""`kasmina spec diff`: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kasmina_spec
from tests.generator.specs import DOOR, spoil, write
from tests.helpers import run_cli
from tests.runtime.cli.conftest import Kasmina

EDITS = {
    "source": ("A door with a spring.", "A door."),
    "table": ("version: 1", "version: 2"),
    "stored": ("code: 2,", "code: 3,"),
    "behaviour": ("default: 20", "default: 21"),
}
CLASSES = list(EDITS)


def doors(folder: Path, kind: str) -> tuple[Path, Path]:
    """A door, and one with an edit of a class."""
    new = spoil(DOOR, *EDITS[kind])
    return write(folder, DOOR, "old.yaml"), write(folder, new, "new.yaml")


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("fail_on", CLASSES)
def test_the_exit_code_says_whether_the_class_is_reached(
    kasmina: Kasmina, tmp_path: Path, kind: str, fail_on: str
) -> None:
    """1 for the named class and those that are worse, else 0."""
    code, out, err = kasmina("spec", "diff", *doors(tmp_path, kind), "--fail-on", fail_on)
    assert (code, err) == (int(CLASSES.index(kind) >= CLASSES.index(fail_on)), "")
    assert f"\n{kind}: " in f"\n{out}"


def test_without_fail_on_it_ends_well(kasmina: Kasmina, tmp_path: Path) -> None:
    """A difference is no failure by itself."""
    code, out, _ = kasmina("spec", "diff", *doors(tmp_path, "behaviour"))
    assert code == 0
    assert out.startswith(
        "behaviour: limit_default: limit 'gale'\n"
        "    old.yaml:26:3 -> new.yaml:26:3\n"
        "    default was 20, is 21\n"
        "    so runs that do not set it decide otherwise\n"
        "\n"
    )


def test_json_is_one_object(kasmina: Kasmina, tmp_path: Path) -> None:
    """And nothing beside it; the exit code is the same."""
    code, out, err = kasmina("spec", "diff", *doors(tmp_path, "stored"), "--json", "--fail-on", "stored")  # fmt: skip
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert found["worst"] == "stored"
    assert [change["rule"] for change in found["changes"]] == ["state_code", "file"]


def test_the_built_in_lifecycles(kasmina: Kasmina) -> None:
    """From five states to eleven, by the migration that is declared."""
    code, out, _ = kasmina("spec", "diff", kasmina_spec.LIFECYCLE_V1, kasmina_spec.LIFECYCLE)
    assert code == 0
    assert "\nstored rows: the new spec declares a migration from " in out
    assert "stored: code_recycled" not in out


def test_a_file_that_is_missing_is_wrong_usage(kasmina: Kasmina, tmp_path: Path) -> None:
    """By its name; a directory is no file."""
    door = write(tmp_path, DOOR)
    code, out, err = kasmina("spec", "diff", door, tmp_path / "gate.yaml")
    assert (code, out) == (2, "")
    assert err == f"{tmp_path / 'gate.yaml'}: there is no such file; a spec is a YAML file\n"
    assert kasmina("spec", "diff", tmp_path, door)[0] == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no document"),
        ("[", "is not YAML"),
        ("\x00", "is not YAML"),
        ("a: &x 1\n", "anchor '&x' is not allowed"),
        ("- 1\n", "expected a mapping, found a list of 1"),
        (DOOR.replace("guard: calm", "guard: clam"), "did you mean 'calm'?"),
        (DOOR.replace("kasmina/lifecycle@1", "kasmina/lifecycle@9"), "unknown schema version"),
    ],
)
def test_a_file_that_is_no_spec_is_wrong_usage(
    kasmina: Kasmina, tmp_path: Path, text: str, message: str
) -> None:
    """Exit code 2, so that 1 always means a difference; file and faults are told."""
    door, bad = write(tmp_path, DOOR), write(tmp_path, text, "bad.yaml")
    for order in ((door, bad), (bad, door)):
        code, out, err = kasmina("spec", "diff", *order, "--fail-on", "source")
        assert (code, out) == (2, "")
        assert err.startswith(f"{bad} is no spec that can be compared:\nbad.yaml:")
        assert message in err


def test_a_spec_that_is_not_sound_can_be_compared(kasmina: Kasmina, tmp_path: Path) -> None:
    """An old one with a trap is what the new one mends."""
    trap = DOOR.replace("  - {from: OPEN, on: close, to: SHUT, guard: timed_out}\n", "")
    code, out, _ = kasmina("spec", "diff", write(tmp_path, trap, "old.yaml"), write(tmp_path, DOOR))
    assert code == 0
    assert "behaviour: edge_added: edge OPEN --close--> SHUT" in out
    assert "    is new, with guard 'timed_out'\n" in out


def test_an_unknown_class_is_wrong_usage(tmp_path: Path) -> None:
    """The classes are listed."""
    done = run_cli("spec", "diff", *map(str, doors(tmp_path, "table")), "--fail-on", "colour")
    assert done.returncode == 2
    for name in CLASSES:
        assert name in done.stderr + done.stdout
