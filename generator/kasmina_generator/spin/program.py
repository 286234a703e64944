"""SPIN and the C compiler as programs: from a model to a verifier, from a verifier to its words."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FIRST_DEPTH = 100_000  # steps; the stack takes 53 bytes for each
MORE_DEPTH = 10
SHORT_DEPTHS = (50, 75, 110, 160, 240, 360, 540, 800, 1200, 1800, 2700, 4000, 6000)
SHORTEN_S = 10.0  # for each try to find a shorter trail
_OPTIONS = ("-n", "-w20")  # no list of unreached lines; a small table to begin with, it grows
_BROKEN = ("assertion violated  !(", "acceptance cycle", "claim violated")
_INSTALL = "on Debian or Ubuntu: apt install spin gcc libc6-dev; elsewhere: https://spinroot.com"


class SpinError(Exception):
    """SPIN cannot be run, or it gave up: nothing is proved then."""


@dataclass(frozen=True, slots=True)
class Search:
    """What one search came to; `errors` counts runs that break the formula."""

    errors: int
    states: int
    depth: int
    depths: tuple[int, ...]  # the depths that were tried, the last one was enough


@dataclass(frozen=True, slots=True)
class Verifier:
    """A compiled model in a folder of its own."""

    folder: Path
    memory_mb: int
    flags: tuple[str, ...]  # of the compiler

    def search(self, claim: str, *, safety: bool, first_depth: int = FIRST_DEPTH) -> Search:
        """Search all runs for one that breaks a formula, deeper and deeper until it is enough.

        Raises:
            SpinError: It ran out of memory before it had seen all runs.
        """
        depths = [first_depth]
        while True:
            text = self._run(claim, depths[-1], safety)
            errors = _number(r"errors: (\d+)", text)
            if errors or "max search depth too small" not in text:
                break
            depths.append(depths[-1] * MORE_DEPTH)
        self._check(text, claim, depths[-1], errors)
        states = _number(r"(\d+) states, stored", text)
        return Search(errors, states, _number(r"depth reached (\d+)", text), tuple(depths))

    def _run(self, claim: str, depth: int, safety: bool, limit_s: float | None = None) -> str:
        mode = [] if safety else ["-a", "-f"]
        return _run(["./pan", *mode, *_OPTIONS, f"-m{depth}", "-N", claim], self.folder, limit_s)

    def _check(self, text: str, claim: str, depth: int, errors: int) -> None:
        """Raise where a search ended for another reason than that it has its answer."""
        if errors and any(mark in text for mark in _BROKEN):
            return
        states = _number(r"(\d+) states, stored", text)
        if "out of memory" in text or "MEMLIM" in text:
            what = f"ran out of memory at {self.memory_mb} MB, search depth {depth}"
        elif errors or "Search not completed" in text or "pan: elapsed" not in text:
            what = f"stopped: {_fault(text)}"
        else:
            return
        raise SpinError(
            f"SPIN {what}, after {states} states of claim {claim} without an answer; that proves "
            f"nothing. Give it more memory (--memory MB), or ask for fewer entities or shorter bounds"
        )

    def shorten(self, claim: str, *, safety: bool, below: int) -> None:
        """Replace the trail of a broken formula by a shorter one, if one is found quickly.

        Breadth first finds a shortest run to a state; a run that goes on for ever is looked for
        at small depths.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            if safety:
                self._compile("pan_wide", "-DBFS", "-DSAFETY")
                _run(["./pan_wide", *_OPTIONS, "-N", claim], self.folder, SHORTEN_S)
                return
            for depth in filter(below.__gt__, SHORT_DEPTHS):
                if _number(r"errors: (\d+)", self._run(claim, depth, safety, SHORTEN_S)):
                    return

    def _compile(self, name: str, *more: str) -> None:
        if not (self.folder / name).exists():
            _tool(["gcc", *self.flags, *more, "-o", name, "pan.c"], self.folder)

    def replay(self, claim: str) -> str:
        """Return what the model prints along the trail of the last error."""
        return _run(["./pan", *_OPTIONS, "-N", claim, "-r"], self.folder)


def compiled(
    model: str, folder: Path, *, entities: int, memory_mb: int, optimise: bool = False
) -> Verifier:
    """Return the verifier of a Promela model.

    Args:
        model: Its text.
        folder: An empty folder to work in.
        entities: How many entities it has.
        memory_mb: What a search may take; more ends it with an error.
        optimise: Compile for long searches.

    Raises:
        SpinError: SPIN or the C compiler is missing or refuses the model.
    """
    for name in ("spin", "gcc"):
        if shutil.which(name) is None:
            raise SpinError(f"'{name}' is not installed, and --spin needs it; {_INSTALL}")
    (folder / "model.pml").write_text(model, encoding="utf-8")
    _tool(["spin", "-a", f"-DENTITIES={entities}", "model.pml"], folder)
    flags = ("-O2" if optimise else "-O1", "-w", "-DNOREDUCE", "-DNFAIR=3", f"-DMEMLIM={memory_mb}")
    verifier = Verifier(folder, memory_mb, flags)
    verifier._compile("pan")
    return verifier


def _tool(command: Sequence[str], folder: Path) -> None:
    """Run a program that makes files; SPIN tells of a formula it refuses only in its words."""
    done = _completed(command, folder)
    if done.returncode or "Error: " in done.stdout:
        raise SpinError(f"'{command[0]}' did not take the model: {_fault(done.stdout)}")


def _run(command: Sequence[str], folder: Path, limit_s: float | None = None) -> str:
    return _completed(command, folder, limit_s).stdout


def _completed(
    command: Sequence[str], folder: Path, limit_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
        check=False,
    )


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def _fault(text: str) -> str:
    """Return the first line that speaks of an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in lines if "rror" in line or "violated" in line), lines[-1])
