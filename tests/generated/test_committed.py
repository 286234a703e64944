"""What is committed is what the build makes, as the formatter and the type checker like it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kasmina_generator.build import built_in_targets, planned_changes
from tests.generated.packages import SPECS, built
from tests.helpers import PACKAGES, ROOT, run_python

GENERATED = PACKAGES["kasmina_generated"]
CORE = [path.name for path in GENERATED.glob("*.py")]


def test_the_committed_package_is_what_the_specs_give() -> None:
    """No drift, no orphan, no hand edit."""
    assert [str(change) for change in planned_changes(built_in_targets(GENERATED))] == []


def tool(*command: str | Path) -> str:
    """Run a development tool from the repository's root; return what it says if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, check=False
    )
    return (done.stdout + done.stderr).decode() if done.returncode else ""


def test_the_templates_give_formatted_text() -> None:
    """`ruff format` and `ruff check` have nothing to say about the built-in packages."""
    assert tool("ruff", "format", "--check", GENERATED) == ""
    assert tool("ruff", "check", GENERATED) == ""


MYPY = """\
[mypy]
strict = True
exclude = testing/
[mypy-torch.*,numpy.*,transitions.*,triton.*,hypothesis.*]
follow_imports = skip
ignore_missing_imports = True
"""


@pytest.mark.parametrize("name", ["orders", "traffic_light"])
def test_other_machines_are_linted_and_typed(name: str, tmp_path: Path) -> None:
    """So is what comes out for a machine that is no seed.

    Torch, numpy and hypothesis are not followed here; what rests on them is left to the check of
    the whole project.
    """
    built(SPECS[name], tmp_path / "package")
    assert tool("ruff", "check", "--config", ROOT / "pyproject.toml", tmp_path) == ""
    (tmp_path / "mypy.ini").write_text(MYPY)
    settings = ("--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path / "cache")
    assert tool("mypy", *settings, tmp_path / "package") == ""


ALONE = """
import sys
import seedlings.machine, seedlings.state, seedlings.vector
import torch
from seedlings.lifecycle import Event, State
from seedlings.vector import VectorContext, VectorLimits, step
from seedlings.lifecycle import Context, Limits
from dataclasses import astuple

n = 3
zero = torch.zeros(n, dtype=torch.int32)
context = VectorContext(*(torch.full((n,), value) for value in astuple(Context())))
limits = VectorLimits(*map(torch.tensor, astuple(Limits())))
asked = torch.full((n,), 1 << Event.request_germination, dtype=torch.int32)
decision = step(zero.to(torch.int8), zero, asked, context, limits, False)
assert decision.state.tolist() == [State.GERMINATED] * n
ours = [name for name in sys.modules if name.startswith("kasmina")]
assert not ours, ours
"""


def test_the_core_works_where_kasmina_is_not_installed(tmp_path: Path) -> None:
    """Under another name, with nothing but its directory, torch, numpy and transitions."""
    (tmp_path / "seedlings").mkdir()
    for name in CORE:
        shutil.copy(GENERATED / name, tmp_path / "seedlings" / name)
    done = run_python(ALONE, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_enums_and_guards_do_not_load_torch() -> None:
    """Whoever only reads names and guards waits for nothing."""
    code = """
import sys
import kasmina_generated.guards, kasmina_generated.tables, kasmina_generated.machine
sys.exit("torch" in sys.modules)
"""
    assert run_python(code).returncode == 0
