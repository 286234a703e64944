"""The live view: lines in a file, a view in a terminal."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from kasmina.observe.live import BAR_CELLS, LiveView, follow, plain, sparkline, told
from kasmina.observe.log import EventLog, read_log
from tests.runtime.observe.runs import FakeRun, grown


@pytest.fixture(autouse=True)
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says nothing about terminals."""
    for name in ("NO_COLOR", "TERM", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def console(terminal: bool, width: int = 100) -> Console:
    """A console that keeps what is written."""
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, legacy_windows=False, _environ={}
    )


def written(target: Console) -> str:
    """What it was given."""
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def shown(log: Path, width: int = 100) -> str:
    """The view after all events of a log, without colours."""
    view, target = LiveView(), Console(file=io.StringIO(), width=width, color_system=None)
    for record in read_log(log):
        view.take(record)
    target.print(view.render())
    return written(target)


def test_a_file_gets_a_line_an_epoch_and_a_transition(tmp_path: Path) -> None:
    """No control characters, and nothing is wrapped."""
    run, target = FakeRun(tmp_path, epochs=2), console(terminal=False, width=40)
    with follow(run.log, target):
        run.decide([1], "plateau")
        run.end_epoch(0.5, 1.0)
        run.finish(0.75)
    lines = written(target).splitlines()
    assert lines[0] == (
        "epoch    0  features[1]#0  DORMANT -> GERMINATED  request_germination  (gradient ratio "
        "0.31)"
    )
    assert lines[1] == (
        "epoch    1  loss 0.9280  validation 1.0420 / 49.80%  330 parameters  DORMANT 7  "
        "GERMINATED 1"
    )
    assert lines[2] == "static start: 330 parameters, test 77.20%"
    assert lines[-1] == "finished: test 75.00% with 330 parameters"


def test_the_start_and_a_rewind_are_told(tmp_path: Path) -> None:
    """What a reader of a plain log wants to know; what only a program reads is left out."""
    lines = [told(record) for record in read_log(grown(tmp_path) / "events.jsonl")]
    assert lines[0] == "digits, seed 0: 330 parameters, budget 3,466, 8 seeds, 60 epochs"
    assert "epoch   12  rewound from step 323 to 228" in lines
    assert None in lines


def test_a_terminal_gets_a_view_that_is_redrawn(tmp_path: Path) -> None:
    """The figures of the last epoch stand at the end; what was before it follows is not known."""
    run, target = FakeRun(tmp_path, epochs=5), console(terminal=True)
    with follow(run.log, target):
        for _ in range(3):
            run.end_epoch(0.5, 1.0)
    assert "\x1b[" in written(target)
    assert "3 of 0" in written(target)


@pytest.mark.parametrize(
    ("terminal", "variable"), [(False, None), (True, "NO_COLOR"), (True, "TERM")]
)
def test_lines_where_a_view_does_not_suit(
    terminal: bool, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file, with NO_COLOR, and in a dumb terminal."""
    if variable:
        monkeypatch.setenv(variable, "dumb")
    assert plain(Console(file=io.StringIO(), force_terminal=terminal))
    assert not plain(console(terminal=True)) or variable == "NO_COLOR"


def test_the_view_shows_the_state_of_the_run(tmp_path: Path) -> None:
    """Epoch, metric, loss, parameters against the budget, seeds, last events."""
    text = shown(grown(tmp_path, finished=False) / "events.jsonl")
    assert text.startswith("digits, seed 0  330 parameters, budget 3,466, 8 seeds, 60 epochs\n")
    for part in ("60 of 60", "accuracy", "1,114 of 3,466", "fossilized 4", "rolled back 1"):
        assert part in text
    assert text.rstrip().splitlines()[-1].startswith("epoch   43  features[5]#0  FINE_TUNING ->")


def test_the_view_before_the_first_epoch(tmp_path: Path) -> None:
    """Nothing is known yet, and nothing breaks."""
    run = FakeRun(tmp_path, budget=None)
    run.log.close()
    text = shown(tmp_path / "events.jsonl")
    assert "0 of 60" in text
    view, target = LiveView(), console(terminal=False)
    target.print(view.render())
    assert "epoch" in written(target)


@pytest.mark.parametrize("width", [20, 60])
def test_a_narrow_terminal(tmp_path: Path, width: int) -> None:
    """Lines are cut, not wrapped."""
    text = shown(grown(tmp_path, finished=False) / "events.jsonl", width)
    assert max(map(len, text.splitlines())) <= width


def test_hundreds_of_seeds_fit(tmp_path: Path) -> None:
    """The bar of the seeds has a fixed width."""
    text = shown(grown(tmp_path, seeds=300, finished=False) / "events.jsonl")
    assert max(line.count("━") for line in text.splitlines()) <= BAR_CELLS + 3


def test_the_sparkline() -> None:
    """Lowest to highest; flat, empty and not finite ones too."""
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([1.0, math.nan, 1.0, math.inf]) == "▁ ▁ "
    assert sparkline([math.nan]) == " "
    assert sparkline([]) == ""
    assert len(sparkline([1.0] * 500)) == BAR_CELLS


def test_markup_in_a_name_is_text(tmp_path: Path) -> None:
    """Square brackets of a site are no colours of rich."""
    with EventLog(tmp_path / "log", "r") as log:
        target = console(terminal=False)
        with follow(log, target):
            log.append(
                "rewind", epoch=0, step=0, number=0, from_step=3, to_step=2, to="A", addresses=[]
            )
            log.append("comparison", epoch=0, step=0, name="[red]x", parameters=1, test_metric="nan",
                       train_flops=0, curve=[])  # fmt: skip
    assert written(target).splitlines()[1] == "[red]x: 1 parameters, test nan%"
