"""Someone edits the YAML and builds; the package then behaves by the new spec."""

from __future__ import annotations

from pathlib import Path

import torch

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.build import build, user_target
from tests.generated.packages import Package, imported


def edited(folder: Path, *replacements: tuple[str, str]) -> Package:
    """Copy the default spec with each text replaced once, prove, build and import it."""
    text = kasmina_spec.LIFECYCLE.read_text()
    for old, new in replacements:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    folder.mkdir()
    for file in kasmina_spec.FOLDER.glob("*.yaml"):
        (folder / file.name).write_text(file.read_text())
    spec = folder / "lifecycle.yaml"
    spec.write_text(text)
    build([user_target(spec, folder / "package")])
    return imported(read_spec(spec), folder / "package")


def target(package: Package, state: str, **columns: float) -> str:
    """Where a row that has been three epochs in a state goes at a tick."""
    State = package.lifecycle.State
    decision = package.vector.step(
        torch.tensor([State[state]], dtype=torch.int8),
        torch.tensor([3], dtype=torch.int16),
        torch.zeros(1, dtype=torch.int32),
        package.context(1, **{name: [value] for name, value in columns.items()}),
        package.limits(),
        True,
    )
    return str(State(int(decision.state[0])).name)


def test_a_limit(tmp_path: Path) -> None:
    """A lower bar lets a seed settle that waited before."""
    default = edited(tmp_path / "default")
    easier = edited(
        tmp_path / "easier",
        (
            "min_stability: {dtype: float32, default: 0.9",
            "min_stability: {dtype: float32, default: 0.4",
        ),
    )
    assert target(default, "STABILIZATION", stability=0.5) == "STABILIZATION"
    assert target(easier, "STABILIZATION", stability=0.5) == "EVALUATING"
    assert default.lifecycle.SPEC_DIGEST != easier.lifecycle.SPEC_DIGEST


def test_a_plane(tmp_path: Path) -> None:
    """The data path reads the plane from the table."""
    changed = edited(
        tmp_path / "changed",
        ("{code: 4, plane: full, trains: host", "{code: 4, plane: blend, trains: host"),
    )
    state = changed.lifecycle.State.STABILIZATION
    assert changed.tables.STATE_PLANE[state] == changed.lifecycle.Plane.blend


RESTING = """\
  RESTING:
    {code: 11, plane: full, trains: host, blueprint: required, max_epochs: 2, meaning: A pause.}
"""
RESTED = """\
  - {from: RESTING, on: settle, to: FINE_TUNING, guard: timed_out}
"""


def test_a_state_with_edges(tmp_path: Path) -> None:
    """A pause between evaluating and fine-tuning."""
    changed = edited(
        tmp_path / "changed",
        (
            "groups:\n",
            f"{RESTING}\ngroups:\n",
        ),
        ("grafted: [GRAFTING,", "grafted: [RESTING, GRAFTING,"),
        ("on: positive, to: FINE_TUNING", "on: positive, to: RESTING"),
        (
            "  - {from: FINE_TUNING, on: improve",
            f"{RESTED}  - {{from: FINE_TUNING, on: improve",
        ),
    )
    assert target(changed, "EVALUATING", evaluation_score=0.1) == "RESTING"
    assert target(changed, "RESTING") == "FINE_TUNING"
    assert changed.tables.N_STATES == 12
    machine = changed.machine.build_machine()
    assert "RESTING" in machine.states
