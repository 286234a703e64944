"""A log is lived again through the lifecycle, and a log that was changed is found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kasmina.errors import KasminaError
from kasmina.growth import Command, replay
from kasmina.lifecycle import Lifecycle
from kasmina.observe.log import EventLog
from tests.runtime.growth.gardens import Bed, germinate

Line = dict[str, Any]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a fossil, a rewind, a cancelled seed and a recycled slot."""
    path = tmp_path_factory.mktemp("run") / "events.jsonl"
    bed = Bed(germinate(0, 1, 2), together=6, log=EventLog(path, "test"))
    gardener = bed.gardener
    garden = gardener.garden
    gardener.journal.write(
        "run_started",
        task="test",
        seed=0,
        spec={"name": "lifecycle", "digest": Lifecycle.default().digest},
        config={"limits": gardener.limits.as_dict()},
        parameters=gardener.parameters(),
        sites=garden.describe(),
        epochs=None,
        budget=None,
    )
    bed.epoch()
    gardener.request(Command("cancel", 2, "test"))
    bed.until("GRAFTING")
    bed.batch()
    gardener.request(Command("emergency", 0, "test"))
    gardener.tick()
    bed.until("DORMANT")
    gardener.controller = germinate(3, epoch=gardener.clock.epoch + 1)
    bed.until("FOSSILIZED", row=3)
    gardener.journal.write(
        "run_finished",
        status="finished",
        validation_metric=0.5,
        test_metric=0.5,
        parameters=gardener.parameters(),
        train_flops=0,
        states={name: bed.states.count(name) for name in sorted(set(bed.states))},
        architecture=garden.architecture(),
    )
    return path


def _changed(log: Path, to: Path, change: Callable[[list[Line]], None]) -> Path:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    change(lines)
    for seq, line in enumerate(lines):
        line["seq"] = seq
    to.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return to


def _first(lines: list[Line], kind: str, **fields: Any) -> Line:
    return next(
        line
        for line in lines
        if line["kind"] == kind and all(line[name] == value for name, value in fields.items())
    )


def test_a_log_replays_to_the_same_states_and_architecture(log: Path) -> None:
    """Everything that the log says happened, happens again."""
    report = replay(log)
    assert report.mismatches == []
    assert report.states == {"DORMANT": 3, "FOSSILIZED": 1}
    assert [entry["slot"] for entry in report.architecture] == [3]
    assert report.transitions >= 15


def test_a_directory_replays_like_its_log(log: Path) -> None:
    """A run directory holds its log under a fixed name."""
    assert replay(log.parent) == replay(log)


def test_an_edge_that_was_changed_is_found(log: Path, tmp_path: Path) -> None:
    """The message names the event, the edge of the log and that of the replay."""

    def change(lines: list[Line]) -> None:
        _first(lines, "transition", to="TRAINING")["edge"] = 25

    (mismatch,) = replay(_changed(log, tmp_path / "log", change)).mismatches
    assert "the log takes edge 25 (promote) from GERMINATED to TRAINING" in mismatch
    assert mismatch.endswith("the replay takes edge 6")


def test_a_measurement_that_was_changed_is_found(log: Path, tmp_path: Path) -> None:
    """With another validation gain the seed would not have been grafted."""

    def change(lines: list[Line]) -> None:
        grafting = next(i for i, e in enumerate(lines) if e.get("to") == "GRAFTING")
        step = next(e for e in reversed(lines[:grafting]) if e["kind"] == "step")
        for row in step["rows"]:
            row["context"]["validation_gain"] = "-inf"

    report = replay(_changed(log, tmp_path / "log", change))
    assert "(reconstruction_pass) from TRAINING to GRAFTING, the replay" in report.mismatches[0]


def test_a_transition_that_is_missing_is_found(log: Path, tmp_path: Path) -> None:
    """The replay takes an edge that the log does not have."""

    def change(lines: list[Line]) -> None:
        lines.remove(_first(lines, "transition", to="FOSSILIZED"))

    report = replay(_changed(log, tmp_path / "log", change))
    assert any("the log has none" in mismatch for mismatch in report.mismatches)


def test_an_allocation_that_is_missing_changes_the_architecture(log: Path, tmp_path: Path) -> None:
    """What is grown is rebuilt from allocations and releases."""

    def change(lines: list[Line]) -> None:
        lines[:] = [
            e for e in lines if not (e["kind"] == "allocated" and e["address"]["slot"] == 3)
        ]

    report = replay(_changed(log, tmp_path / "log", change))
    assert any("the architecture is []" in mismatch for mismatch in report.mismatches)


def test_a_log_that_was_cut_replays_as_far_as_it_goes(log: Path, tmp_path: Path) -> None:
    """A killed run is no error."""
    whole = log.read_bytes()
    cut = tmp_path / "log"
    cut.write_bytes(whole[: len(whole) // 2])
    report = replay(cut)
    assert report.status == "interrupted"
    assert "the last line is torn after" in report.torn


def test_another_lifecycle_is_refused(log: Path, tmp_path: Path) -> None:
    """The message gives both digests and the way out."""

    def change(lines: list[Line]) -> None:
        lines[0]["spec"]["digest"] = "f" * 64

    with pytest.raises(KasminaError, match=r"digest ffffffffffff.*--lifecycle DIR"):
        replay(_changed(log, tmp_path / "log", change))


def test_a_log_without_a_run_is_refused(log: Path, tmp_path: Path) -> None:
    """A log must begin with the run's start."""

    def change(lines: list[Line]) -> None:
        del lines[0]

    with pytest.raises(KasminaError, match="does not begin with 'run_started'"):
        replay(_changed(log, tmp_path / "log", change))
