"""The benchmark of planted bottlenecks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from kasmina.bench import adaptation
from kasmina.bench.adaptation import Trial, rows, site_around, trial

MENDED = Trial(0.6, 0.4, 0.42, 1, (site_around(1),), 900, 1000)


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
