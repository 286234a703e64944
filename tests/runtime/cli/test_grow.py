"""`kasmina grow`: what a user types, and what is left after it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from kasmina import cli
from kasmina.grafting import known_strategies
from kasmina.observe.folder import CHECKPOINTS, FILES
from kasmina.observe.log import read_log
from tests.helpers import ROOT, run_cli

KEYS = {
    "task",
    "seed",
    "status",
    "validation_metric",
    "test_metric",
    "params_start",
    "params_final",
    "train_flops",
    "wall_s",
    "states",
    "comparisons",
}
USER = """
import torch
from torch import nn

def loss(output, target):
    return nn.functional.mse_loss(output, target)

def batches(n):
    torch.manual_seed(0)
    x = torch.randn(n, 8, 3)
    return [(each, each.sum(1, keepdim=True)) for each in x]

def line():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    return {"model": model, "loaders": (batches(6), batches(2)), "loss": loss, "epochs": 2}

def spoilt():
    return {**line(), "loaders": ([*batches(3), (torch.full((8, 3), torch.nan), torch.zeros(8, 1))],
                                  batches(2))}

def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 1))
    model[2].weight = model[0].weight
    return {**line(), "model": model}

def exploding():
    return {**line(), "loss": lambda output, target: loss(output, target) / 0.0}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, with a user's module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "growtask.py").write_text(USER)
    monkeypatch.delitem(sys.modules, "growtask", raising=False)
    return tmp_path


def test_a_run_leaves_all_its_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Log, result, report, network, marker; and a table for the reader."""
    assert cli.main(["grow", "--task", "digits", "--epochs", "2", "--compare"]) == 0
    folder = here / "runs" / "digits-0"
    assert {path.name for path in folder.iterdir()} == {*FILES, CHECKPOINTS}
    records = read_log(folder / "events.jsonl")
    assert (records[0].kind, records[-1].kind) == ("run_started", "run_finished")
    assert (
        next(record["name"] for record in records if record.kind == "comparison") == "static start"
    )
    assert (
        sum(values.size for values in load_file(folder / "model.safetensors").values())
        == (records[-1]["parameters"])
    )
    out = capsys.readouterr().out
    assert "static start" in out
    assert "report: runs/digits-0/report.html" in out


def test_json_is_one_object_on_standard_output(here: Path) -> None:
    """Everything else goes to standard error; the object is also `result.json`."""
    done = run_cli("grow", "--task", "digits", "--epochs", "1", "--seed", "3", "--json", cwd=here)
    assert done.returncode == 0
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert set(result) >= KEYS
    assert (result["task"], result["seed"], result["params_start"]) == ("digits", 3, 330)
    assert result["comparisons"] == []
    assert json.loads((here / "runs" / "digits-3" / "result.json").read_text()) == result
    assert "epoch    1  loss" in done.stderr


def test_runs_do_not_overwrite_one_another(here: Path) -> None:
    """Without --out each takes the next free name."""
    for _ in range(2):
        assert cli.main(["grow", "--task", "growtask:line"]) == 0
    assert sorted(path.name for path in (here / "runs").iterdir()) == [
        "growtask-line-0",
        "growtask-line-0-2",
    ]


def test_a_users_task_has_no_test_figure(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was not measured is null."""
    assert cli.main(["grow", "--task", "growtask:line", "--json", "--out", "r"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["test_metric"] is None
    assert "the task has no test split, so nothing was measured on one" in captured.err


def test_tied_parameters_are_written_by_both_names(here: Path) -> None:
    """The file of a network that shares memory; one architecture is trained for comparison."""
    run = ("grow", "--task", "growtask:tied", "--compare", "--json", "--out", "r")
    assert cli.main(run) == 0
    found = load_file(here / "r" / "model.safetensors")
    assert (found["0.weight"] == found["2.weight"]).all()


def test_limits_and_size_reach_the_run(here: Path) -> None:
    """--set, --width and --budget stand in the log."""
    words = "--task digits --epochs 1 --width 5 --budget 900 --set min_stability=0.5 --out r"
    assert cli.main(["grow", *words.split(), "--set", "max_cohort=3"]) == 0
    start = read_log(here / "r" / "events.jsonl")[0]
    assert start["config"]["width"] == 5
    assert start["budget"] == 900
    assert start["config"]["limits"]["min_stability"] == 0.5
    assert start["config"]["limits"]["max_cohort"] == 3


def test_a_learned_strategy_reaches_the_run(here: Path) -> None:
    """The first graft has one of the registered ones, which the log tells."""
    words = "--task digits --epochs 28 --strategy learned --set training_patience=1 --out r"
    assert cli.main(["grow", *words.split()]) == 0
    chosen = [
        event["strategy"]
        for event in read_log(here / "r" / "events.jsonl")
        if event.kind == "strategy"
    ]
    assert chosen
    assert set(chosen) <= set(known_strategies())


def test_another_lifecycle_reaches_the_run(here: Path) -> None:
    """--lifecycle takes a generated package from anywhere; replay needs it again."""
    shutil.copytree(ROOT / "generated" / "kasmina_generated", here / "mine")
    words = "--task growtask:line --lifecycle mine --out r"
    assert cli.main(["grow", *words.split()]) == 0
    assert cli.main(["replay", "r", "--lifecycle", "mine"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            "--task digit",
            2,
            (
                "unknown task 'digit' (did you mean 'digits'?); built in are digits, mnist1d, chars; "
                "your own is named package.module:function"
            ),
        ),
        ("--task digits --epochs 0", 2, "--epochs is 0; it must be 1 or more"),
        ("--task digits --width 0", 2, "--width is 0; it must be 1 or more"),
        ("--task digits --budget 0", 2, "--budget is 0; it must be 1 or more"),
        ("--task digits --seed -1", 2, "--seed is -1; it must be 0 or more"),
        (
            "--task digits --set speed",
            2,
            "--set speed is not of the form limit=number; write e.g. --set min_stability=0.8",
        ),
        (
            "--task digits --set a=b",
            2,
            "--set a=b is not of the form limit=number; write e.g. --set min_stability=0.8",
        ),
        (
            "--task digits --set a=1 --set a=2",
            2,
            "--set a=2 is given twice; write e.g. --set min_stability=0.8",
        ),
        (
            "--task growtask:line --width 3",
            2,
            "--width 3: task 'growtask:line' builds one width only; leave it out",
        ),
        (
            "--task digits --set min_stability=5",
            1,
            "limit 'min_stability' cannot be 5; legal: float32 from 0.0 to 1.0",
        ),
        (
            "--task digits --budget 10",
            1,
            (
                "the budget of 10 parameters is below the start network's 330; give --budget 330 or "
                "more, or a smaller --width"
            ),
        ),
        (
            "--task digits --out growtask.py",
            1,
            "growtask.py: this is a file; a run needs a directory",
        ),
        (
            "--task digits --out .",
            1,
            ".: this directory exists and is not a run; choose a new or an empty one with --out",
        ),
    ],
)
def test_what_cannot_be_is_told(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, code: int, message: str
) -> None:
    """One message, the right exit code, and no run is left."""
    assert cli.main(["grow", *words.split()]) == code
    captured = capsys.readouterr()
    assert captured.err == f"{message}\n"
    assert captured.out == ""
    assert not list((here / "runs").glob("*"))


def test_a_strategy_that_is_not_there_is_told(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With those that are and the near one, before any run begins."""
    assert cli.main(["grow", "--task", "digits", "--strategy", "cosin"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("--strategy: unknown grafting strategy 'cosin'; known: linear, cosine, ")
    assert told.endswith(", or 'learned'; did you mean 'cosine'?\n")
    assert not (here / "runs").exists()


def test_a_limit_that_is_not_there_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the near one, before any run begins."""
    assert cli.main(["grow", "--task", "digits", "--set", "min_stabilty=0.5"]) == 1
    assert "did you mean 'min_stability'?" in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_a_run_is_replaced_by_force_only(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And then whole."""
    words = ["grow", "--task", "growtask:line", "--out", "r"]
    assert cli.main(words) == 0
    before = (here / "r" / "events.jsonl").read_bytes()
    capsys.readouterr()
    assert cli.main(words) == 1
    assert capsys.readouterr().err == (
        "r: this directory holds a run of task 'growtask:line' with seed 0; choose another one "
        "with --out, or replace the run with --force\n"
    )
    assert (here / "r" / "events.jsonl").read_bytes() == before
    assert cli.main([*words, "--force", "--seed", "1"]) == 0
    assert read_log(here / "r" / "events.jsonl")[0]["seed"] == 1


def test_a_read_only_directory_is_told(here: Path) -> None:
    """Root may write anywhere, so it gives that power up for this."""
    (here / "locked").mkdir(mode=0o555)
    command = [sys.executable, "-c", "import sys; from kasmina.cli import main; sys.exit(main())"]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override", *command]
    done = subprocess.run(
        [*command, "grow", "--task", "growtask:line", "--out", "locked/run"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "locked/run: this directory cannot be made: Permission denied; choose another one with "
        "--out\n"
    )


def test_a_full_disk_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log ends whole with the event before the one that found no room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        words = "--task growtask:line --out r --checkpoint-every 0"
        assert cli.main(["grow", *words.split()]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    records = read_log(here / "r" / "events.jsonl")
    assert records
    assert capsys.readouterr().err == (
        f"r/events.jsonl: event {len(records)} cannot be written: File too large; the log ends "
        "whole with the event before it: make room and run again\n"
    )


def test_nan_in_the_data_ends_the_run_with_a_report(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epoch, batch and sample are named; what was logged stays."""
    (here / "growtask.py").write_text(USER.replace("*batches(3), (", "*batches(3)][1:] + [("))
    assert cli.main(["grow", "--task", "growtask:spoilt", "--out", "r"]) == 1
    message = capsys.readouterr().err
    assert message == (
        "task 'growtask:spoilt': train data, epoch 0, batch 2: sample 0, element [0] is nan; every "
        "value must be finite: mend or drop that sample\n"
    )
    assert ">failed<" in (here / "r" / "report.html").read_text()
    assert read_log(here / "r" / "events.jsonl")[-1]["status"] == "failed"


def test_a_loss_that_is_not_finite_ends_the_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No seed is to blame, and the message says where to look."""
    assert cli.main(["grow", "--task", "growtask:exploding", "--out", "r"]) == 1
    assert "look for NaN in the data, a learning rate that is too high" in capsys.readouterr().err
    assert ">failed<" in (here / "r" / "report.html").read_text()


def started(here: Path, *words: str) -> subprocess.Popen[str]:
    """A long run in a process of its own, once its first epoch is in the log."""
    command = [sys.executable, "-c", "import sys; from kasmina.cli import main; sys.exit(main())"]
    process = subprocess.Popen(
        [*command, "grow", "--out", "r", "--epochs", "100000", *words],
        cwd=here,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    log = here / "r" / "events.jsonl"
    while not (log.exists() and b'"kind":"epoch"' in log.read_bytes()):
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_ctrl_c_ends_in_order(here: Path) -> None:
    """The step is finished; log, result, report and network are written; exit code 130."""
    process = started(here, "--task", "digits", "--compare", "--json")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert json.loads(out)["status"] == "interrupted"
    assert "ending after this step; Ctrl-C again ends at once" in err
    assert "Traceback" not in err
    last = read_log(here / "r" / "events.jsonl")[-1]
    assert (last.kind, last["status"]) == ("run_finished", "interrupted")
    assert {path.name for path in (here / "r").iterdir()} == {*FILES, CHECKPOINTS}
    assert "The run was interrupted" in (here / "r" / "report.html").read_text()


SLOW = """
import time
from growtask import *

class Slow(nn.Sequential):
    def forward(self, x):
        if self.training:
            time.sleep(0.2 if getattr(self, "quick", 0) < 6 else 60)
            self.quick = getattr(self, "quick", 0) + 1
        return super().forward(x)

def slow():
    made = line()
    return {**made, "model": Slow(*made["model"])}
"""


def test_a_second_ctrl_c_ends_at_once(here: Path) -> None:
    """Even in the middle of a step; the log is whole and a report is left."""
    (here / "slowtask.py").write_text(SLOW)
    process = started(here, "--task", "slowtask:slow")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, err = process.communicate(timeout=120)
    assert time.monotonic() - begun < 30
    assert process.returncode == 130
    assert err.endswith("interrupted\n")
    assert read_log(here / "r" / "events.jsonl")[-1].kind != "run_finished"
    assert "cut short" in (here / "r" / "report.html").read_text()


@pytest.mark.parametrize("option", ["--epochs", "--width", "--budget", "--seed"])
def test_a_broken_number_is_wrong_usage(
    here: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """1.5 epochs are neither 1 nor 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["grow", "--task", "digits", option, "1.5"])
    assert caught.value.code == 2
    assert "'1.5' is no whole number" in capsys.readouterr().err
