"""`kasmina spec prove`, `where` and `show`, as one types them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator.build import build, user_target
from tests.generator.specs import DOOR, MACHINES, spoil, write
from tests.helpers import PACKAGES, run_cli
from tests.runtime.cli.conftest import Kasmina

GENERATED = PACKAGES["kasmina_generated"]


@dataclass(frozen=True)
class Told:
    """How a command ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def told(kasmina: Kasmina, *arguments: str) -> Told:
    """Run the command in this process."""
    return Told(*kasmina(*arguments))


@pytest.mark.parametrize("form", ["mermaid", "dot", "svg", "scxml", "promela", "json", "table"])
def test_show(kasmina: Kasmina, form: str) -> None:
    """Every form goes to standard output, alone."""
    done = told(kasmina, "spec", "show", str(MACHINES / "orders.yaml"), "--format", form)
    assert (done.returncode, done.stderr) == (0, "")
    assert "DELIVERED" in done.stdout


def test_show_json_is_one_object(kasmina: Kasmina) -> None:
    """For other programs."""
    model = json.loads(kasmina("spec", "show", "--format", "json")[1])
    assert (model["name"], len(model["states"])) == ("lifecycle", 11)


def test_show_an_unknown_form(kasmina: Kasmina) -> None:
    """Exit code 2; the legal ones are named."""
    done = told(kasmina, "spec", "show", "--format", "png")
    assert done.returncode == 2
    assert "svg" in done.stdout + done.stderr


def test_where_names_the_line_and_shows_it(kasmina: Kasmina) -> None:
    """Of a spec that Kasmina ships its text too."""
    guards = GENERATED / "guards.py"
    lines = guards.read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if "context.alpha >= 1.0" in line)
    done = told(kasmina, "spec", "where", f"{guards}:{number}")
    assert (done.returncode, done.stderr) == (0, "")
    place, text = done.stdout.splitlines()
    found = re.fullmatch(r"lifecycle\.yaml:(\d+):5", place)
    assert found is not None
    declared = kasmina_spec.LIFECYCLE.read_text().splitlines()[int(found[1]) - 1]
    assert text.strip() == declared.strip()
    assert "on: complete" in text


def test_where_of_a_users_machine(kasmina: Kasmina, tmp_path: Path) -> None:
    """Only the place: where its file is, nobody knows."""
    build([user_target(write(tmp_path, DOOR), tmp_path / "door")])
    guards = tmp_path / "door" / "guards.py"
    number = guards.read_text().splitlines().index("        return context.wind < limits.gale") + 1
    done = told(kasmina, "spec", "where", f"{guards}:{number}")
    assert (done.returncode, done.stdout) == (0, "door.yaml:34:5\n")


def test_where_of_the_templates_own_line(kasmina: Kasmina) -> None:
    """Exit code 1."""
    done = told(kasmina, "spec", "where", f"{GENERATED / 'vector.py'}:1")
    assert done.returncode == 1
    assert done.stdout.endswith(
        "vector.py:1: comes from the template, not from a line of the spec\n"
    )


def test_where_of_an_edited_file(kasmina: Kasmina, tmp_path: Path) -> None:
    """It says that lines may have moved."""
    build([user_target(write(tmp_path, DOOR), tmp_path / "door")])
    guards = tmp_path / "door" / "guards.py"
    guards.write_text(guards.read_text() + "# mine\n")
    done = told(kasmina, "spec", "where", f"{guards}:1")
    assert done.stdout.startswith(f"{guards}: was edited by hand since it was built; lines may")


@pytest.mark.parametrize("line", ["guards.py", "guards.py:x", ":3"])
def test_where_wants_a_file_and_a_line(kasmina: Kasmina, line: str) -> None:
    """Exit code 2."""
    done = told(kasmina, "spec", "where", line)
    assert done.returncode == 2
    assert done.stderr == f"{line}: give a generated file and a line: FILE:LINE\n"


def test_prove_tells_every_statement(kasmina: Kasmina) -> None:
    """Without SPIN it needs nothing but Python."""
    done = told(kasmina, "spec", "prove", str(MACHINES / "berths.yaml"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("berths.yaml: berths version 1\n")
    assert "ctl: comes to the harbour (product)" in done.stdout


def test_prove_by_spin(kasmina: Kasmina) -> None:
    """Each property with its verdict, its place and how much was searched."""
    done = told(kasmina, "spec", "prove", str(kasmina_spec.LIFECYCLE_V1), "--spin")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(
        r"  holds   a germinated seed ends  lifecycle_v1\.yaml:114:5  \([\d,]+ states, [\d.]+ s\)\n"
        r"  SPIN: 5 hold, 0 broken, 0 not asked\n$",
        done.stdout,
    )


def test_prove_by_spin_shows_a_run_that_breaks_a_property(kasmina: Kasmina, tmp_path: Path) -> None:
    """Exit code 1; states, values and YAML lines, and what was not asked."""
    text = spoil(
        DOOR,
        "  - {name: can be locked, handles: {event: lock, in: usable}}\n",
        "  - {name: shut before locked, must_pass: {to: LOCKED, through: OPEN}}\n"
        '  - {name: may open, ctl: "AG(SHUT -> EF OPEN)"}\n',
    )
    done = told(kasmina, "spec", "prove", str(write(tmp_path, text)), "--spin")
    assert (done.returncode, done.stderr) == (1, "")
    found = done.stdout[done.stdout.index("  by SPIN, 2 entities:") :]
    assert re.search(r"  broken  shut before locked  door\.yaml:41:5  \(", found)
    assert "a run that breaks it; * marks the entity that the property speaks of:" in found
    assert re.search(r"   1 \w+: .*[01]\*: SHUT@0 \(told lock\).* --lock--> LOCKED  door", found)
    assert "  not asked may open  door.yaml:42:5: it asks for some run in between" in found
    assert "the prover says otherwise" not in found


def test_prove_by_spin_says_where_it_differs(kasmina: Kasmina, tmp_path: Path) -> None:
    """Exit code 1, for somebody has to look."""
    text = (MACHINES / "berths.yaml").read_text(encoding="utf-8")
    text += '  - {name: moors, ctl: "AG(WAITING -> AF UNLOADING)"}\n'
    done = told(kasmina, "spec", "prove", str(write(tmp_path, text)), "--spin")
    assert done.returncode == 1
    assert re.search(
        r"  holds   moors .*\n +the prover says otherwise: to it a capaci", done.stdout
    )


def test_prove_without_spin_installed(tmp_path: Path) -> None:
    """Exit code 1; what to install."""
    done = run_cli("spec", "prove", "--spin", environment={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == (
        "'spin' is not installed, and --spin needs it; on Debian or Ubuntu: "
        "apt install spin gcc libc6-dev; elsewhere: https://spinroot.com\n"
    )


def test_prove_refuses_numbers_out_of_range(kasmina: Kasmina) -> None:
    """Exit code 2."""
    done = told(kasmina, "spec", "prove", "--spin", "--entities", "10")
    assert done.returncode == 2
