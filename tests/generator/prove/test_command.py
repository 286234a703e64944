"""`kasmina spec check` as a user meets it."""

from __future__ import annotations

import os
from pathlib import Path

import kasmina_spec
from kasmina_generator.prove import declared, lifetimes, logic, product, regions, segment, smt
from tests.generator.prove.machines import HEAD
from tests.generator.specs import MACHINES, write
from tests.helpers import ROOT, run_cli


def test_bounds_are_printed() -> None:
    """The shipped specs are sound, and their bounds are told."""
    done = run_cli("spec", "check", "--strict")
    assert done.returncode == 0, done.stderr
    assert "lifecycle version 2 is sound: 11 states" in done.stdout
    assert "bound: what enters GERMINATED ends within" in done.stdout
    assert "not proved" not in done.stdout


def test_everything_is_told_on_demand() -> None:
    """Each statement says what proved it; notes and times follow."""
    done = run_cli("spec", "check", str(MACHINES / "orders.yaml"), "--verbose")
    assert done.returncode == 0, done.stderr
    assert "    total: time-outs fire (product)\n" in done.stdout
    assert "    state PACKING: regions of its guards (z3)\n" in done.stdout
    assert "  note: it may arrive: with limits [open_for_business=false" in done.stdout
    assert "  process time in ms: product " in done.stdout


def test_strict_without_z3(tmp_path: Path) -> None:
    """What was not proved is said, and counts where one asks for it."""
    (tmp_path / "z3.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    hidden = {"PYTHONPATH": path}
    file = str(write(tmp_path, HEAD))
    loose = run_cli("spec", "check", file, environment=hidden)
    assert loose.returncode == 0, loose.stderr
    assert "not proved: limits edge: comparing in float32 and in double" in loose.stdout
    strict = run_cli("spec", "check", file, "--strict", environment=hidden)
    assert strict.returncode == 1


def test_nothing_is_built_of_what_fails(tmp_path: Path) -> None:
    """A fault that only the product sees keeps every file from being written."""
    text = HEAD.replace("guard: x >= edge", "guard: x >= edge and epochs > 3")
    out = tmp_path / "out"
    done = run_cli("spec", "build", str(write(tmp_path, text)), "--out", str(out))
    assert done.returncode == 1
    assert "can never be taken" in done.stdout + done.stderr
    assert not out.exists()


def test_the_documented_sample_is_what_is_printed() -> None:
    """The command in docs/verification.md prints those lines; `...` stands for others."""
    text = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    sample = text.split("```\n")[1].splitlines()
    assert sample[0] == "$ kasmina spec check --verbose lifecycle.yaml"
    done = run_cli("spec", "check", "--verbose", str(kasmina_spec.LIFECYCLE))
    printed = iter(done.stdout.splitlines())
    for line in sample[1:]:
        assert line.strip() == "..." or line in printed, line


def test_the_documented_bounds_are_those_of_the_prover() -> None:
    """Where enumeration ends is a number in the code."""
    text = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    table = text[text.index("| beyond | what happens |") :]
    bounds = [
        (regions.MOST_SAMPLES, "rows for one group"),
        (regions.MOST_COMBINATIONS, "combinations in a state"),
        (smt.MOST_VIEWS, "such combinations of one state"),
        (lifetimes.MOST_GUARDS, "guards in the states of one circle"),
        (segment.MOST_COMPUTED, "epochs ("),
        (segment.MOST_TURNS, "where only orders are compared"),
        (product.MOST_PLACES, "places"),
        (logic.MOST_NODES, "nodes"),
    ]
    for number, words in bounds:
        assert f"{number:,} {words}" in table, words
    assert f"more than {regions.MOST_CHOICES:,} orders of limits" in text
    assert f"up to {declared.MOST_CORNERS} choices of limits" in text
    assert f"tried on up to {regions.MOST_TRIED:,} rows" in text
