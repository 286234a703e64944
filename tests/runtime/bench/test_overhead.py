"""The benchmark of what the framework costs: both arms do the same."""

from __future__ import annotations

import pytest
import torch

from kasmina.bench import _growth_arms as arms
from kasmina.bench import load
from kasmina.bench._by_hand import ByHand, schedule
from kasmina.control import TamiyoController
from kasmina.control.tamiyo import TamiyoConfig
from kasmina.observe.record import Record

EARLY = TamiyoConfig(first=0.1)


def test_the_same_passes_by_hand_cost_the_same_flops() -> None:
    """To a tenth of a percent over a run that tries all kinds and grafts one; its loss falls too."""
    subject = arms.SUBJECTS["digits"]
    task, epochs = subject.task(1), 24
    grown, seen = arms.grow_seen(task, 1, epochs, subject.budget, TamiyoController(EARLY))
    assert seen.of("snapshot")
    hand = ByHand(task, 1, seen.records, epochs)
    assert hand.run() > 0
    assert hand.meter.total == pytest.approx(grown.train_flops, rel=1e-3)
    with torch.no_grad():
        assert float(hand._loss()) < 1.5  # chance is 2.3 nats


def test_a_run_that_grows_nothing_has_nothing_aside() -> None:
    """Its epochs are plain training."""
    assert not any(epoch.aside or epoch.mixed for epoch in schedule(list[Record](), 3))


def test_both_arms_and_the_static_one_are_told() -> None:
    """In a quick run, without a target."""
    over, wall = load("overhead").run(quick=True)
    assert over.unit == "%"
    assert over.target is None
    assert set(wall.baselines) == {
        "plain PyTorch, the same passes",
        "its architecture, equal FLOPs",
    }
    assert min(wall.value, *wall.baselines.values()) > 0
