"""Kill -9 at any moment of a growing run: resumed, it gives the same log and the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT


def counts(folder: Path, times: int) -> dict[str, int]:
    """Run the killing program; its last line tells how often which fault fired."""
    # Who is killed leaves no measurement of its coverage, and runs quicker without one.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.growing", str(folder), str(times), "20"],
        cwd=ROOT,
        env=inherited | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # noqa: T201  the counts are part of what is claimed
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_kills_where_it_hurts(tmp_path: Path) -> None:
    """Mid-graft, mid-rewind, mid-withdrawal, in torn lines and before the first checkpoint."""
    assert counts(tmp_path, 0) == {
        "mid-graft": 2,
        "mid-rewind": 3,
        "mid-withdrawal": 1,
        "elsewhere": 7,
    }


@pytest.mark.long
def test_kills_anywhere(tmp_path: Path) -> None:
    """At random steps and events of two runs, both with grafts."""
    assert counts(tmp_path, 20) == {"random": 20}
