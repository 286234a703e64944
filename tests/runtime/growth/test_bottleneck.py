"""Where a network is narrow, and when nothing is known of it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from kasmina.bench import single_thread
from kasmina.bench.where import SIGNALS, planted
from kasmina.growth.bottleneck import bottleneck, explained
from kasmina.sites import Garden, Passage, Recorder, Site, morph


def test_a_planted_narrow_layer_comes_first() -> None:
    """In 5 of 8 networks or more, and more often than by the gradient.

    Its share is 90%, so that less than 5 have a chance of 0.5% on a machine that rounds otherwise;
    by lot 5 or more have one of 1%. Threads would round differently from run to run.
    """
    with single_thread():
        found = [planted(seed) for seed in range(200, 208)]
    first = {name: sum(each[name] for each in found) for name in SIGNALS}
    assert first["bottleneck"] >= 5
    assert first["bottleneck"] > first["gradient ratio"]


def test_what_units_can_explain_is_found_and_noise_is_not() -> None:
    """On examples that were not fitted to."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 6, generator=draw, dtype=torch.float64)
    units = torch.relu(x @ torch.randn(6, 3, generator=draw, dtype=torch.float64))
    assert explained(x, units) > 0.5
    assert explained(x, torch.randn(1000, 3, generator=draw, dtype=torch.float64)) < 0.02
    assert explained(x, torch.zeros(1000, 3, dtype=torch.float64)) == 0.0


def site_of(model: nn.Module, site: Site) -> tuple[Garden, Recorder]:
    """A morphed model and what records its only site."""
    morph(model, [site], run="test", seed=0, example=torch.zeros(1, 3, 9))
    garden = Garden.of(model)
    return garden, Recorder(next(iter(garden.sites.values())))


@pytest.mark.parametrize("placement", ["inline", "parallel"])
def test_channels_and_chunks_have_a_score_as_well(placement: str) -> None:
    """A site of channels, from which both placements read other parts."""
    model = nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 2))
    seeds = 2 if placement == "inline" else 1
    kind = "affine" if placement == "inline" else "mlp"
    garden, recorder = site_of(
        model,
        Site("0", placement=placement, seeds=seeds, blueprint=kind),  # type: ignore[arg-type]
    )
    recorder.start()
    passages = recorder.finish(model(torch.randn(20, 3, 9)).square().mean())
    recorder.stop()
    (site,) = garden.sites.values()
    assert bottleneck(site, passages) >= 0


def test_nothing_recorded_and_nothing_finite_have_no_score() -> None:
    """NaN, which ranks last."""
    model = nn.Sequential(nn.Linear(9, 2))
    morph(model, [Site("0", seeds=1)], run="test", seed=0)
    (site,) = Garden.of(model).sites.values()
    assert math.isnan(bottleneck(site, []))
    x, y = torch.randn(20, 9), torch.randn(20, 2)
    assert bottleneck(site, [Passage(x, y, y)]) >= 0
    assert math.isnan(bottleneck(site, [Passage(x, y, y / 0)]))
    assert math.isnan(bottleneck(site, [Passage(x[:4], y[:4], y[:4])]))
