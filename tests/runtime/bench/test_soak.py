"""Seeds that come and go; `kasmina bench soak` lets them for ten minutes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from kasmina.bench import single_thread, soak
from kasmina.bench.soak import Soaked, rows


def test_a_short_soak_sees_lives_and_nothing_that_is_not_finite() -> None:
    """Seeds graft, are taken back and end, in two gardens."""
    with pytest.MonkeyPatch.context() as patch, single_thread():
        patch.setattr(soak, "LIFE", 24)
        found = soak.soak(lambda found: len(found.memory) >= 26, seeds=16)
    assert found.gardens == 2
    assert found.steps == 26 * soak.STEPS
    assert found.micro_steps > found.steps
    assert found.not_finite == 0
    assert found.milestones > 0
    assert {"TRAINING", "GRAFTING", "CANCELLED"} <= set(found.states)


def test_what_is_not_finite_is_counted() -> None:
    """A parameter, a buffer and a moment."""
    gardener, x, y = soak._garden(8, 0)
    found = Soaked()
    soak._epoch(gardener, x, y, found)
    assert found.not_finite == 0
    with torch.no_grad():
        gardener.model.get_buffer("1.running_mean")[0] = torch.inf  # which training does not read
    soak._epoch(gardener, x, y, found)
    assert found.not_finite > 0


def test_growth_of_memory_is_by_medians_of_late_epochs() -> None:
    """The first fifth does not count, nor does a peak."""
    flat = [1.0, *[9.0] * 4, *[10.0] * 19, 99.0]
    assert Soaked(memory=flat).growth == 0
    assert Soaked(memory=[float(n) for n in range(100)]).growth == 60
    told = list(rows(Soaked(5, 50, 0, 2, 1, Counter({"TRAINING": 3}), flat)))
    assert [row.met for row in told if row.target is not None] == [True, True]


@pytest.mark.long
def test_ten_million_micro_steps() -> None:
    """Steps of single seeds: none is not finite, and memory does not grow."""
    with single_thread():
        found = soak.soak(lambda found: found.micro_steps >= 10_000_000)
    assert found.not_finite == 0
    assert found.growth <= soak.MOST_MIB
