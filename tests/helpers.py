"""What tests of several rooms share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "kasmina_spec": ROOT / "spec" / "kasmina_spec",
    "kasmina_generator": ROOT / "generator" / "kasmina_generator",
    "kasmina_generated": ROOT / "generated" / "kasmina_generated",
    "kasmina": ROOT / "runtime" / "kasmina",
}


def run_python(
    code: str,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, with warnings as errors; the caller checks the exit code."""
    return _run([sys.executable, "-W", "error", "-c", code], cwd, environment, timeout_s)


def run_cli(
    *arguments: str,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 300.0,
) -> subprocess.CompletedProcess[str]:
    """Run `kasmina ARGUMENTS` as a user does, 200 columns wide and without colours."""
    call = "import sys; from kasmina.cli import main; sys.exit(main())"
    return _run([sys.executable, "-c", call, *arguments], cwd, environment, timeout_s)


def _run(
    command: list[str], cwd: Path | None, environment: Mapping[str, str] | None, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    plain = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | plain | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
