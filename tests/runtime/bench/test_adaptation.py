"""The benchmark of planted bottlenecks, and trials that go on where they were ended."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from kasmina.bench import adaptation
from kasmina.bench._trials import trials
from kasmina.bench.adaptation import Trial, rows, site_around, trial

MENDED = Trial(0.6, 0.4, 0.42, 1, (site_around(1),), 900, 1000)


def square(seed: int) -> int:
    """A trial that processes can import."""
    return seed * seed


def test_the_share_of_the_gap_is_from_the_control_to_the_oracle() -> None:
    """1 at the oracle, 0 at the control; without a gap there is none."""
    assert MENDED.closed == pytest.approx(0.9)
    assert replace(MENDED, grown=0.6).closed == 0
    assert math.isnan(replace(MENDED, oracle=0.7).closed)


def test_a_trial_without_a_gap_has_not_succeeded() -> None:
    """It counts among all."""
    found = [MENDED, replace(MENDED, grown=0.5), replace(MENDED, oracle=0.7)]
    first, at, *losses = rows(found)
    assert first.value == pytest.approx(100 / 3)
    assert first.met is False
    assert first.baselines["without a gap"] == 1
    assert at.value == 100
    assert [row.value for row in losses] == pytest.approx([0.6, 0.5, 1.34 / 3])


def test_one_layer_is_narrow_and_the_oracles_is_not() -> None:
    """Everything else is alike, data included."""
    narrow, oracle = (adaptation.planted_task(3, planted) for planted in (1, None))
    shapes = [
        [tuple(p.shape) for p in task.build_model(3).parameters() if p.dim() == 2]
        for task in (narrow, oracle)
    ]
    assert shapes == [
        [(24, 16), (2, 24), (24, 2), (5, 24)],
        [(24, 16), (24, 24), (24, 24), (5, 24)],
    ]
    (x, y), (z, w) = (task.build_data(3).train.next_batch() for task in (narrow, oracle))
    assert x.equal(z)
    assert y.equal(w)


def test_a_trial_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short one: three networks, of which the wide one is best."""
    monkeypatch.setattr(adaptation, "EPOCHS", 4)
    found = trial(1)
    assert found.oracle < found.narrow
    assert found.grown < 1.7
    assert found == trial(1)


def test_trials_go_on(tmp_path: Path) -> None:
    """What the file holds is not made again; the order is that of the seeds."""
    file = tmp_path / "new" / "trials.jsonl"
    assert trials(square, [3, 1], int, file=file) == [9, 1]
    file.write_bytes(file.read_bytes().replace(b"9]", b"8]"))
    assert trials(square, [1, 2, 3], int, file=file) == [1, 4, 8]
    assert len(file.read_bytes().splitlines()) == 3


def test_trials_are_spread_over_processes(tmp_path: Path) -> None:
    """With the same results."""
    assert trials(square, [3, 1, 2], int, jobs=2, file=tmp_path / "trials.jsonl") == [9, 1, 4]
