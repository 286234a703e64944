"""`kasmina grow --resume`: what goes on, what does not, and what is said."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from kasmina.checkpoint import CheckpointManager, Contents
from kasmina.growth import Gardener
from kasmina.observe.folder import LOG, MODEL, REPORT, RunFolder
from kasmina.observe.log import canonical
from tests.runtime.cli.conftest import Kasmina
from tests.runtime.cli.test_grow import USER

WORDS = ["--task", "resumetask:line", "--epochs", "4", "--checkpoint-every", "1", "--out", "r"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, with a user's module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "resumetask.py").write_text(USER)
    monkeypatch.delitem(sys.modules, "resumetask", raising=False)
    return tmp_path


def outcome(run: Path) -> tuple[list[str], bytes]:
    """The canonical log and the weights."""
    log = [canonical(line) for line in (run / LOG).read_bytes().splitlines()]
    return log, (run / MODEL).read_bytes()


def unfinished(kasmina: Kasmina, *words: str) -> tuple[Path, tuple[list[str], bytes]]:
    """A run that was killed before its report, its last act; and what it had come to."""
    assert kasmina("grow", *WORDS, *words)[0] == 0
    run = Path("r")
    (run / REPORT).unlink()
    return run, outcome(run)


def newest(run: Path) -> Path:
    """The file of the newest checkpoint."""
    return max((run / "checkpoints").glob("*.ckpt"))


def test_a_finished_run_says_so(here: Path, kasmina: Kasmina) -> None:
    """There is nothing to do."""
    kasmina("grow", *WORDS)
    assert kasmina("grow", "--resume", "r") == (
        1,
        "",
        "r: this run is finished, there is nothing left to do; its report is r/report.html\n",
    )


def test_a_directory_without_a_run_is_told(here: Path, kasmina: Kasmina) -> None:
    """Missing, empty, a file, and a run that kept no checkpoints."""
    (here / "empty").mkdir()
    hint = "--resume takes the directory of a run, as runs/..."
    for name, what in {
        "missing": "there is no such directory",
        "resumetask.py": "this is a file",
        "empty": "this directory holds no run: it has no readable kasmina-run.json",
    }.items():
        assert kasmina("grow", "--resume", name) == (1, "", f"{name}: {what}; {hint}\n")
    kasmina("grow", *["--task", "resumetask:line", "--checkpoint-every", "0", "--out", "r"])
    assert kasmina("grow", "--resume", "r")[2] == (
        "r: this run was made without checkpoints, so it cannot go on; start it again with "
        "--force\n"
    )
    assert not (here / "r" / "checkpoints").exists()


def test_options_that_differ_are_told(here: Path, kasmina: Kasmina) -> None:
    """By name and value; those that are equal may stand there."""
    unfinished(kasmina)
    end = "; a run goes on as it was started, so leave the option out\n"
    for words, message in {
        "--epochs 5": f"--epochs is 5, but the run in r was started with 4{end}",
        "--budget 900": f"--budget is 900, but the run in r was started with none{end}",
        "--task digits": f"--task is digits, but the run in r was started with resumetask:line{end}",
        "--strategy cosine": f"--strategy is cosine, but the run in r was started with linear{end}",
        "--compare": f"--compare is True, but the run in r was started with False{end}",
        "--out q": "--resume goes on in the run's own directory: leave --out and --force out\n",
    }.items():
        assert kasmina("grow", "--resume", "r", *words.split()) == (2, "", message)
    assert kasmina("grow", "--resume", "r", "--epochs", "4", "--seed", "0")[0] == 0
    assert kasmina("grow")[2] == "give --task, or --resume RUN to go on with a run\n"


def test_a_task_that_has_changed_is_refused(
    here: Path, kasmina: Kasmina, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model and other data, each difference in a line; the run stays as it is."""
    run, before = unfinished(kasmina)
    (here / "resumetask.py").write_text(
        USER.replace("Linear(3, 4)", "Linear(3, 5)").replace("Linear(4, 1)", "Linear(5, 1)")
    )
    monkeypatch.delitem(sys.modules, "resumetask")
    code, _, said = kasmina("grow", "--resume", "r")
    assert code == 1
    assert "is of another run than this one would be, so nothing was resumed:\n" in said
    assert "- parameters.0.weight: (4, 3) was saved, here it is (5, 3)\n" in said
    assert outcome(run) == before


def test_a_damaged_checkpoint_is_passed_over(here: Path, kasmina: Kasmina) -> None:
    """The one before is taken, it is said why, and the result is the same; a second time as well."""
    run, before = unfinished(kasmina)
    damaged = newest(run)
    content = bytearray(damaged.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    code, said, _ = kasmina("grow", "--resume", "r")
    assert code == 0
    assert f"because:\n- {damaged.absolute()}: " in said
    assert "goes on at epoch 4, step 24, from checkpoint" in said
    assert outcome(run) == before


def test_without_an_intact_checkpoint_nothing_is_done(here: Path, kasmina: Kasmina) -> None:
    """Each is named with what is wrong with it."""
    run, before = unfinished(kasmina)
    for file in (run / "checkpoints").glob("*.ckpt"):
        file.write_bytes(file.read_bytes()[:-1])
    code, _, said = kasmina("grow", "--resume", "r")
    assert code == 1
    assert "r/checkpoints: none of its " in said
    assert outcome(run) == before


def test_without_its_log_a_run_is_not_said_to_be_damaged(here: Path, kasmina: Kasmina) -> None:
    """The checkpoints are intact; what is missing is named, and nothing is written."""
    run, _ = unfinished(kasmina)
    (run / LOG).unlink()
    before = sorted(path.name for path in run.iterdir())
    code, _, said = kasmina("grow", "--resume", "r")
    lines = said.splitlines()
    place = here / "r" / "checkpoints"
    files = sorted(place.glob("*.ckpt"), reverse=True)
    assert code == 1
    assert lines[0] == f"{place}: no run can go on from its {len(files)} checkpoints:"
    assert lines[1:-1] == [
        f"- {file}: is intact, but its log is not there: r/{LOG}: the log cannot be read: No such "
        "file or directory"
        for file in files
    ]
    assert lines[-1] == "Nothing was changed; restore the run's directory from a backup"
    assert sorted(path.name for path in run.iterdir()) == before


def test_somebody_elses_checkpoint_is_passed_over(here: Path, kasmina: Kasmina) -> None:
    """An intact file that another program has put there, whatever its metadata look like."""
    run, before = unfinished(kasmina)
    for metadata in ({"log": [0, 0]}, {"log": 1}, [1], None):
        CheckpointManager(run / "checkpoints").save(Contents(metadata=metadata))
    code, said, _ = kasmina("grow", "--resume", "r")
    assert code == 0
    assert said.count(": is intact, but no checkpoint of kasmina grow\n") == 4
    assert outcome(run) == before


def test_a_log_that_is_longer_is_cut_back(here: Path, kasmina: Kasmina) -> None:
    """Also where what stands behind the checkpoint is no log at all."""
    run, before = unfinished(kasmina)
    with (run / LOG).open("ab") as log:
        log.write(b"{torn\n\0\n")
    assert kasmina("grow", "--resume", "r")[0] == 0
    assert outcome(run) == before


def test_a_log_that_is_shorter_takes_an_older_checkpoint(here: Path, kasmina: Kasmina) -> None:
    """A power cut may leave less of a log than of a checkpoint; here an event is cut as well."""
    run, before = unfinished(kasmina)
    lines = (run / LOG).read_bytes().splitlines(keepends=True)
    (run / LOG).write_bytes(b"".join(lines[:-4])[:-5])
    code, said, _ = kasmina("grow", "--resume", "r")
    assert code == 0
    assert "its log is not there: r/events.jsonl: " in said
    assert outcome(run) == before


def test_a_run_without_a_checkpoint_begins_anew(here: Path, kasmina: Kasmina) -> None:
    """It was killed before the first one."""
    run, before = unfinished(kasmina)
    for file in (run / "checkpoints").glob("*.ckpt"):
        file.unlink()
    code, said, _ = kasmina("grow", "--resume", "r")
    assert (code, said.splitlines()[0]) == (0, "no checkpoint was saved yet: begins anew")
    assert outcome(run) == before


def test_ctrl_c_and_then_resume(
    here: Path, kasmina: Kasmina, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on at the very step, in the middle of an epoch."""
    _, whole = unfinished(kasmina)
    kept = Gardener.step
    fired: list[int] = []

    def interrupted(self: Gardener, loss: torch.Tensor) -> bool:
        if self.clock.step == 8 and not fired:
            fired.append(self.clock.step)
            os.kill(os.getpid(), signal.SIGINT)
        return kept(self, loss)

    monkeypatch.setattr(Gardener, "step", interrupted)
    assert kasmina("grow", *WORDS, "--force")[0] == 130
    assert fired == [8]
    code, said, _ = kasmina("grow", "--resume", "r")
    assert code == 0
    assert "goes on at epoch 1, step 9, from checkpoint" in said
    assert outcome(Path("r")) == whole


def test_a_run_that_is_at_work_is_left_alone(here: Path, kasmina: Kasmina) -> None:
    """Two processes must not write one log."""
    unfinished(kasmina)
    with RunFolder(Path("r")).held():
        for words in (["--resume", "r"], [*WORDS, "--force"]):
            assert kasmina("grow", *words) == (
                1,
                "",
                "r: another process is at work on this run; wait for it, or end it\n",
            )


def test_what_no_checkpoint_can_keep_is_told(
    here: Path, kasmina: Kasmina, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the very beginning, with its place and the way out."""
    (here / "resumetask.py").write_text(
        USER
        + """

class Odd(torch.optim.Adam):
    def state_dict(self):
        return {**super().state_dict(), "odd": object()}

def odd():
    from dataclasses import replace
    from kasmina.tasks import find
    from torch.optim.lr_scheduler import ConstantLR
    def optimizer(parameters, steps):
        made = Odd(parameters)
        return made, ConstantLR(made)
    return replace(find("resumetask:line"), optimizer=optimizer)
"""
    )
    words = ["--task", "resumetask:odd", "--epochs", "1", "--out", "r"]
    code, _, said = kasmina("grow", *words)
    assert code == 1
    assert said == (
        "this run cannot be saved: optimizer['odd']: a builtins.object cannot be kept; legal are "
        "numbers, text, bytes, None, list, tuple, set, dict, numpy arrays and torch tensors; "
        "nothing was written; keep plain values in the state dicts of your optimizer and "
        "scheduler, or run without checkpoints by --checkpoint-every 0\n"
    )
    assert kasmina("grow", *words, "--force", "--checkpoint-every", "0")[0] == 0
