"""Kill -9 by strace at the system calls themselves: what the seam of `Disk` cannot show."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kasmina.checkpoint import CheckpointManager
from tests.faults.killing import OPERATIONS
from tests.helpers import ROOT

CALLS = ("write", "fsync", "rename", "unlink")
SHORT = "save and prune"  # holds all kinds of calls
PROGRAM = """
import sys
sys.dont_write_bytecode = True
from pathlib import Path
from tests.faults.killing import OPERATIONS, PIECE
from kasmina.checkpoint import CheckpointManager, memory
memory.PIECE = PIECE
OPERATIONS[sys.argv[1]][0](CheckpointManager(Path(sys.argv[2])))
"""


def killed_at(call: str, nth: int, operation: str, directory: Path) -> bool:
    """Whether the process was killed when it entered the n-th call of a kind."""
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}",
         "-e", f"inject={call}:signal=KILL:when={nth}",
         sys.executable, "-c", PROGRAM, operation, str(directory)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -9, 137), done.stderr
    return done.returncode != 0


LONG = [pytest.param(name, marks=pytest.mark.long) for name in OPERATIONS if name != SHORT]


if shutil.which("strace"):  # CI installs it

    @pytest.mark.parametrize("operation", [SHORT, *LONG])
    def test_killed_at_every_system_call(
        operation: str, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """The outcome is the old or the new state, as with kills inside of the process."""
        _, prepare, oracle = OPERATIONS[operation]
        prepare(tmp_path / "template")
        outcomes, kills = Counter[str](), Counter[str]()
        for call in CALLS:
            for nth in range(1, 60):
                directory = tmp_path / "at"
                shutil.copytree(tmp_path / "template", directory)
                killed = killed_at(call, nth, operation, directory)
                outcomes[oracle(directory, CheckpointManager(directory))] += 1
                shutil.rmtree(directory)
                if not killed:
                    break
                kills[call] += 1
        assert kills["fsync"] >= 1 or operation == "prune"
        assert (kills["unlink"] > 0) == ("prune" in operation or operation == "migrate")
        record_property("counted", f"{sum(kills.values())} kills, {dict(kills)}: {dict(outcomes)}")
