"""Kill -9 in growing runs, and `kasmina grow --resume` after it; run as a program of its own.

Torch is loaded once. Each command is then a process that is forked, so that a run that is killed
ten times takes hardly longer than one that is not. Counts are printed as JSON.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kasmina import cli
from kasmina.checkpoint import CheckpointManager
from kasmina.growth import Gardener
from kasmina.lifecycle import Lifecycle
from kasmina.observe.folder import LOG, MODEL
from kasmina.observe.log import EventLog, Record, canonical, read_log

Fault = Callable[[], None]  # arms the process that will be killed
TASKS = """
from dataclasses import replace
import torch
from kasmina.tasks import find

def rewinding():
    digits = find("digits")

    def loss(output, target):
        value = digits.loss(output, target)
        # batches have 64 samples; validation is left alone, and so is the host without its seed
        return value * torch.nan if len(target) == 64 and value < 0.04 else value

    return replace(digits, name="rewinding", loss=loss)
"""
RUNS = {
    "withdrawing": "--task digits --epochs 44 --seed 1 --set min_evaluation_score=10",
    "rewinding": "--task killtasks:rewinding --epochs 44 --seed 1",
}


def die() -> None:
    """As a power cut ends a process."""
    for manager in SETTLED:
        manager.flush()
    os.kill(os.getpid(), signal.SIGKILL)


SETTLED: list[CheckpointManager] = []  # those whose saves must be done before the process dies


def settled(fault: Fault) -> Fault:
    """The same, but what is being saved in the background then is durable.

    Else it depends on the machine whether the last checkpoint, or the one before it, is what a
    resume finds: both are right, and only `anywhere` may leave it open.
    """

    def arm() -> None:
        inner = CheckpointManager.save

        def watched(self: CheckpointManager, *args: Any, **kwargs: Any) -> str:
            SETTLED[:] = [self]
            return inner(self, *args, **kwargs)

        CheckpointManager.save = watched  # type: ignore[method-assign]
        fault()

    return arm


def at_step(step: int) -> Fault:
    """Die when the run has made so many steps."""

    def arm() -> None:
        inner = Gardener.step

        def deadly(self: Gardener, loss: torch.Tensor) -> bool:
            counted = inner(self, loss)
            if self.clock.step == step:
                die()
            return counted

        Gardener.step = deadly  # type: ignore[method-assign]

    return arm


def at_event(seq: int, share: float) -> Fault:
    """Die when a share of the event's line is written: 0 before it, 1 after it, 0.5 tears it."""

    def arm() -> None:
        inner = EventLog._write

        def deadly(self: EventLog, line: bytes) -> None:
            if self._seq != seq:
                inner(self, line)
                return
            inner(self, line[: int(len(line) * share)])
            die()

        EventLog._write = deadly  # type: ignore[method-assign]

    return arm


def command(words: list[str], fault: Fault | None = None) -> int:
    """Run `kasmina WORDS` in a process of its own; returns its exit status as `waitpid` does."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    if fault is not None:
        fault()
    try:
        os._exit(cli.main(words))
    except BaseException as error:  # noqa: BLE001  told, and ended here: the parent goes on
        sys.stderr.write(f"{error!r}\n")
        os._exit(70)


def killed(words: list[str], fault: Fault) -> None:
    """Run a command that must die of its fault."""
    status = command(words, fault)
    assert os.WIFSIGNALED(status), f"{words}: ended with {status} and was not killed"
    assert os.WTERMSIG(status) == signal.SIGKILL


def lines(run: Path) -> list[str]:
    """The canonical log."""
    return [canonical(line) for line in (run / LOG).read_bytes().splitlines()]


def assert_equal(run: Path, reference: Path) -> None:
    """The same events and the same weights, bit for bit."""
    for number, (one, other) in enumerate(zip(lines(run), lines(reference), strict=True)):
        assert one == other, f"event {number}:\n{one}\n{other}"
    assert (run / MODEL).read_bytes() == (reference / MODEL).read_bytes()


def standing(run: Path) -> dict[str, Any]:
    """In what a resume would go on: states with alpha on its way, and snapshots held."""
    manager = CheckpointManager(run / "checkpoints", sweep=False)
    contents = manager.restore().contents()
    assert contents.state is not None
    columns, lifecycle = contents.state["columns"], Lifecycle.default()
    (code,) = [c.name for c in lifecycle.columns if c.role == "state"]
    alpha = columns["alpha"]
    moving = columns[code][(alpha > 0) & (alpha < 1)]
    return {
        "moving": {lifecycle.State(int(c)).name for c in moving},
        "snapshots": len(contents.parts["others"]["kasmina.effects"]["snapshots"]),
        "step": contents.metadata["step"],
    }


def step_into(records: list[Record], state: str, source: str) -> int:
    """The step at which a seed first enters a state from another one."""
    moves = (r for r in records if r.kind == "transition")
    return next(r.step for r in moves if (r["from"], r["to"]) == (source, state))


def chain(name: str, folder: Path) -> Counter[str]:
    """Kill one run again and again, wherever it hurts, and resume it each time."""
    run, reference = folder / f"{name}-chain", folder / name
    records = read_log(reference / LOG)
    resume = ["grow", "--resume", str(run)]
    words = begin(name, run)
    counts: Counter[str] = Counter()
    graft = step_into(records, "GRAFTING", "TRAINING")
    killed(words, at_event(0, 0.5))
    killed(resume, at_step(3))
    killed(resume, settled(at_step(graft + 30)))  # ramps take 60 steps, epochs have 19
    found = standing(run)
    assert found["moving"] == {"GRAFTING"}, found
    assert found["snapshots"] == 1, found
    counts["mid-graft"] += 1
    if name == "rewinding":
        (rewind,) = [r for r in records if r.kind == "rewind"]
        for share in (0.0, 0.5, 1.0):
            killed(resume, settled(at_event(rewind.seq, share)))
            assert standing(run)["snapshots"] == 1
            counts["mid-rewind"] += 1
        killed(resume, at_event(rewind.seq + 6, 0.5))
    else:
        leaving = step_into(records, "CULLED", "EVALUATING")
        killed(resume, settled(at_step(leaving + 30)))
        found = standing(run)
        assert found["moving"] == {"CULLED"}, found
        counts["mid-withdrawal"] += 1
    killed(resume, at_event(len(records) - 1, 0.5))
    counts["elsewhere"] += 3 + (name == "rewinding")
    assert command(resume) == 0
    assert_equal(run, reference)
    return counts


def anywhere(name: str, folder: Path, times: int, draw: random.Random) -> Counter[str]:
    """Kill a fresh run once, at a random step or inside of a random event, and resume it."""
    records = read_log(folder / name / LOG)
    for number in range(times):
        run = folder / f"{name}-{number}"
        if draw.random() < 0.5:
            fault = at_step(draw.randrange(1, records[-1].step + 1))
        else:
            fault = at_event(draw.randrange(len(records)), draw.choice([0.0, 0.5, 1.0]))
        killed(begin(name, run), fault)
        assert command(["grow", "--resume", str(run)]) == 0
        assert_equal(run, folder / name)
        shutil.rmtree(run)
    return Counter(random=times)


def begin(name: str, run: Path) -> list[str]:
    """The command that starts a run with a checkpoint an epoch."""
    return ["grow", *RUNS[name].split(), "--checkpoint-every", "1", "--out", str(run)]


def main(folder: Path, times: int, seed: int) -> None:
    """Chains for both runs, or `times` kills anywhere."""
    (folder / "killtasks.py").write_text(TASKS)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    draw = random.Random(seed)
    for name in RUNS:
        assert command(begin(name, folder / name)) == 0
        counts += anywhere(name, folder, times // len(RUNS), draw) if times else chain(name, folder)
    print(json.dumps(counts))  # noqa: T201  for the test that started it


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
