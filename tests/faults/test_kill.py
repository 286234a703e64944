"""Kill -9 at every call to the disk leaves the old state or the new one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import ROOT

LEAST = {"save": 10, "save and prune": 14, "prune": 4, "archive": 30, "migrate": 24, "convert": 30}


@pytest.mark.parametrize("operation", LEAST)
def test_killed_before_and_after_every_call(
    operation: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The directory opens, nothing in it is damaged, and the order of outcomes is old, then new."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.faults.killing", operation, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # a process with threads should not fork
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    record_property("counted", f"{sum(outcomes.values())} kill points survived: {outcomes}")
    assert sum(outcomes.values()) >= LEAST[operation]
    assert {"old", "new"} <= outcomes.keys()
