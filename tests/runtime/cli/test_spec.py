"""`kasmina spec`: what it prints, what it writes and how it ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kasmina.lifecycle import Lifecycle
from tests.generator.specs import DOOR, MACHINES, spoil, write
from tests.helpers import run_cli, run_python
from tests.runtime.cli.conftest import Kasmina


def test_check_of_the_built_in_specs(kasmina: Kasmina) -> None:
    """Without a file both are checked."""
    code, out, _ = kasmina("spec", "check")
    assert code == 0
    assert re.search(
        r"^lifecycle\.yaml: lifecycle version 2 is sound: 11 states", out, re.MULTILINE
    )
    assert re.search(r"^lifecycle_v1\.yaml: .* is sound: 5 states", out, re.MULTILINE)


def test_check_tells_every_fault_with_its_place(kasmina: Kasmina, tmp_path: Path) -> None:
    """Exit code 1, all faults in one run, and how many."""
    text = spoil(spoil(DOOR, "guard: calm", "guard: clam"), "min_epochs: 1", "min_epoch: 1")
    code, out, err = kasmina("spec", "check", write(tmp_path, text))
    assert (code, out) == (1, "")
    assert re.search(r"^door\.yaml:12:\d+: .*unknown key 'min_epoch'", err, re.MULTILINE)
    assert re.search(r"unknown name 'clam'.* did you mean 'calm'\?", err)
    assert err.endswith("\n2 findings\n")


def test_one_fault_is_one_finding(kasmina: Kasmina, tmp_path: Path) -> None:
    """Grammar."""
    _, _, err = kasmina("spec", "check", write(tmp_path, spoil(DOOR, "guard: calm", "guard: clam")))
    assert err.endswith("\n1 finding\n")


@pytest.mark.parametrize("command", [("check",), ("show",), ("build", "--out", "x")])
def test_a_file_that_is_not_there(kasmina: Kasmina, command: tuple[str, ...]) -> None:
    """Wrong usage, by its name."""
    code, _, err = kasmina("spec", command[0], "nowhere.yaml", *command[1:])
    assert (code, err) == (2, "nowhere.yaml: there is no such file; a spec is a YAML file\n")


def test_build_and_check_of_a_file(kasmina: Kasmina, tmp_path: Path) -> None:
    """What is written is listed; then there is nothing to do; a hand edit is told with its diff."""
    spec, out = write(tmp_path, DOOR), tmp_path / "door"
    code, said, _ = kasmina("spec", "build", spec, "--out", out, "--check")
    assert code == 1
    assert f"{out / 'guards.py'}: missing; the build makes it" in said
    assert not out.exists()

    code, said, _ = kasmina("spec", "build", spec, "--out", out)
    made = [path for path in out.rglob("*") if path.is_file()]
    assert (code, said.count("wrote ")) == (0, len(made))
    assert kasmina("spec", "build", spec, "--out", out, "--check")[:2] == (
        0,
        "nothing to do: every file is as the spec says\n",
    )

    guards = out / "guards.py"
    guards.write_text(guards.read_text().replace("epochs >= 9", "epochs >= 8"))
    code, said, _ = kasmina("spec", "build", spec, "--out", out, "--check")
    assert code == 1
    assert f"{guards}: was edited by hand" in said
    assert "epochs >= 8\n" in said


def test_a_build_removes_what_it_no_longer_makes(kasmina: Kasmina, tmp_path: Path) -> None:
    """And says so."""
    spec, out = write(tmp_path, DOOR), tmp_path / "door"
    kasmina("spec", "build", spec, "--out", out)
    (out / "old.py").write_text((out / "guards.py").read_text())
    assert kasmina("spec", "build", spec, "--out", out)[1] == f"removed {out / 'old.py'}\n"


def test_a_file_needs_a_place(kasmina: Kasmina, tmp_path: Path) -> None:
    """The message is the command to give."""
    spec = write(tmp_path, DOOR)
    code, _, err = kasmina("spec", "build", spec)
    assert (code, err) == (
        2,
        f"{spec}: say where to build it: kasmina spec build {spec} --out DIR\n",
    )


def test_a_place_that_is_a_file(kasmina: Kasmina, tmp_path: Path) -> None:
    """Wrong usage, by its name."""
    spec = write(tmp_path, DOOR)
    code, _, err = kasmina("spec", "build", spec, "--out", spec)
    assert (code, err) == (
        2,
        f"{spec}: is a file; --out takes a directory, new or built before\n",
    )


def test_the_built_in_package_is_up_to_date(kasmina: Kasmina) -> None:
    """`kasmina spec build --check` is what continuous integration runs."""
    assert kasmina("spec", "build", "--check")[0] == 0


def test_the_built_in_specs_somewhere_else(kasmina: Kasmina, tmp_path: Path) -> None:
    """--out without a file takes both built-in packages."""
    assert kasmina("spec", "build", "--out", tmp_path / "copy")[0] == 0
    assert (tmp_path / "copy" / "lifecycle_v1" / "vector.py").exists()


@pytest.mark.parametrize(
    ("format", "said"),
    [
        ("mermaid", "stateDiagram-v2\n    [*] --> SHUT\n"),
        ("dot", 'digraph "door" {\n'),
    ],
)
def test_show_as_a_diagram(kasmina: Kasmina, tmp_path: Path, format: str, said: str) -> None:
    """The source goes to standard output as it is."""
    code, out, _ = kasmina("spec", "show", write(tmp_path, DOOR), "--format", format)
    assert code == 0
    assert out.startswith(said)


def test_show_as_a_table(kasmina: Kasmina) -> None:
    """One row an edge, names never cut."""
    code, out, _ = kasmina("spec", "show")
    assert code == 0
    row = next(line for line in out.splitlines() if "request_germination" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][:4] == [
        "DORMANT",
        "request_germination",
        "GERMINATED",
        "On command, at any time.",
    ]


def test_show_of_an_unknown_format(kasmina: Kasmina) -> None:
    """Wrong usage lists the formats."""
    done = run_cli("spec", "show", "--format", "png")
    assert done.returncode == 2
    for format in ("mermaid", "dot", "table"):
        assert format in done.stderr + done.stdout


def test_init_copies_what_can_be_edited_and_built(kasmina: Kasmina, tmp_path: Path) -> None:
    """The spec, the files that it names, and schemas; the copy builds to the package that Kasmina uses."""
    folder = tmp_path / "mine"
    code, out, _ = kasmina("spec", "init", folder)
    assert code == 0
    assert f"kasmina spec build {folder / 'lifecycle.yaml'} --out DIR" in out
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")) == [
        "kernels.yaml",
        "lifecycle.yaml",
        "lifecycle_v1.yaml",
        "messages.yaml",
        "observation.yaml",
        "schema/kernels.schema.json",
        "schema/lifecycle.schema.json",
        "schema/messages.schema.json",
        "schema/records.schema.json",
        "schema/state.schema.json",
        "state.yaml",
        "state_v1.yaml",
    ]
    kasmina("spec", "build", folder / "lifecycle.yaml", "--out", folder / "built")
    assert Lifecycle.from_directory(folder / "built").digest == Lifecycle.default().digest


def test_init_overwrites_nothing(kasmina: Kasmina, tmp_path: Path) -> None:
    """What is there is named, and left."""
    (tmp_path / "state.yaml").write_text("mine")
    code, _, err = kasmina("spec", "init", tmp_path)
    assert (code, err) == (
        2,
        f"{tmp_path / 'state.yaml'}: exists already; choose an empty or new directory\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["state.yaml"]


def test_init_into_a_file(kasmina: Kasmina, tmp_path: Path) -> None:
    """Wrong usage, by its name."""
    place = tmp_path / "file"
    place.write_text("")
    code, _, err = kasmina("spec", "init", place)
    assert code == 2
    assert err == f"{place}: cannot be written: File exists\n"


def test_other_machines_are_checked_and_shown(kasmina: Kasmina) -> None:
    """Nothing here knows what a seed is."""
    for name in ("orders", "traffic_light"):
        assert kasmina("spec", "check", MACHINES / f"{name}.yaml")[0] == 0
        assert kasmina("spec", "show", MACHINES / f"{name}.yaml", "--format", "dot")[0] == 0


def test_the_command_does_not_load_torch() -> None:
    """Building needs none of it."""
    code = "import sys, kasmina.cli.spec; sys.exit('torch' in sys.modules)"
    assert run_python(code).returncode == 0
