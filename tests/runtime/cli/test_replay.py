"""`kasmina replay`: a log is lived again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kasmina import cli
from kasmina.tasks.growing import SEEDS, SIZES


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which seeds have moved."""
    folder = tmp_path_factory.mktemp("replay") / "r"
    assert cli.main(["grow", "--task", "digits", "--epochs", "50", "--out", str(folder)]) == 0
    return folder


def test_a_replay_equals_its_log(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """States in a table, exit code 0; the log file itself can be named too."""
    assert cli.main(["replay", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("digits-0 (finished): 50 steps, ")
    assert out.endswith("the replay equals the log\n")
    assert cli.main(["replay", str(run / "events.jsonl")]) == 0


def test_json_is_one_object(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the states, the architecture and no mismatches."""
    assert cli.main(["replay", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mismatches"] == []
    assert report["architecture"][0]["blueprint"] in SIZES  # whichever kind won
    assert sum(report["states"].values()) == SEEDS


def test_a_log_that_was_changed_is_found_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and each difference is named."""
    text = (run / "events.jsonl").read_text()
    assert '"to":"TRAINING"' in text
    lines = [line for line in text.splitlines() if '"to":"TRAINING"' not in line]
    renumbered = []
    for seq, line in enumerate(lines):
        record = json.loads(line)
        record["seq"] = seq
        renumbered.append(json.dumps(record))
    (tmp_path / "events.jsonl").write_text("\n".join(renumbered) + "\n")
    assert cli.main(["replay", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "differs: event " in out
    assert out.endswith("the log differs from its replay\n")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (False, "{path}: there is no such run directory or log"),
        (True, "{path}: this directory is not a run: it has no events.jsonl"),
    ],
)
def test_what_is_no_run_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: bool, message: str
) -> None:
    """Wrong usage."""
    path = tmp_path / "x"
    if make:
        path.mkdir()
    assert cli.main(["replay", str(path)]) == 2
    assert capsys.readouterr().err == f"{message.format(path=path)}\n"


def test_a_broken_log_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With file and line."""
    (tmp_path / "events.jsonl").write_text("{}\n")
    assert cli.main(["replay", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"{tmp_path}/events.jsonl:1: schema version None;")
