"""Health of what passes the sites."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kasmina.sites import Garden, InlineSite, Site, SiteLayer, morph
from tests.runtime.sites.models import put


class Constant(nn.Module):
    """A host that returns what it was told to."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        """The value, whatever `x` is."""
        return self.value


def site_of(value: Tensor, placement: str, seeds: int) -> tuple[nn.Module, SiteLayer]:
    """A constant host with one site."""
    site = Site("", placement=placement, seeds=seeds, features=5)  # type: ignore[arg-type]
    model = morph(Constant(value), [site], example=torch.zeros(1, 5))
    return model, Garden.of(model).sites["."]


def test_a_sample_by_chunk() -> None:
    """Each inline seed is told of its own features."""
    value = torch.arange(10.0).view(2, 5)
    value[1, 4] = torch.nan
    value[0, 0] = torch.inf
    model, site = site_of(value, "inline", 2)
    assert isinstance(site, InlineSite)
    before = site.telemetry()
    assert before.count.tolist() == [0, 0] and before.mean.isnan().all()
    model(torch.zeros(1, 5))
    seen = site.telemetry()
    first, second = site.chunks.split(value)
    assert seen.count.tolist() == [6, 4]
    assert seen.nonfinite.tolist() == [1, 1]
    assert seen.total[0] == torch.inf and seen.total[1].isnan()
    assert seen.maximum[0] == torch.inf and seen.maximum[1].isnan()
    assert seen.squares.shape == (2,)
    assert first.shape[1] == 3 and second.shape[1] == 2


@pytest.mark.parametrize("placement", ["inline", "parallel"])
def test_mean_and_deviation(placement: str) -> None:
    """They are those of the elements; parallel seeds share the whole output."""
    value = torch.randn(7, 3, 5)
    model, site = site_of(value, placement, 2)
    model(torch.zeros(1, 5))
    seen = site.telemetry()
    parts = [value, value] if placement == "parallel" else torch.split(value, [3, 2], -1)
    for seed, part in enumerate(parts):
        assert seen.mean[seed].item() == pytest.approx(part.mean().item(), abs=1e-6)
        expected = part.std(correction=0).item()
        assert seen.deviation[seed].item() == pytest.approx(expected, rel=1e-5)
        assert seen.maximum[seed] == part.max() and seen.count[seed] == part.numel()


def test_channels() -> None:
    """A channel-first output is told by its channels."""
    model = morph(nn.Conv1d(2, 4, 3), [Site("", placement="inline", seeds=4)])
    y = model(torch.randn(3, 2, 9))
    seen = Garden.of(model).telemetry()
    assert torch.allclose(seen.mean, y.mean((0, 2)), atol=1e-6)


def test_samples_are_taken_now_and_then() -> None:
    """The first pass, then every `sample_every`-th; 0 switches sampling off."""
    model, site = site_of(torch.ones(1, 5), "parallel", 1)
    site.sample_every = 3
    assert site.sample_every == 3
    taken = []
    for number in range(7):
        model.value = torch.full((1, 5), float(number))
        model(torch.zeros(1, 5))
        taken.append(site.telemetry().mean.item())
    assert taken == [0, 0, 0, 3, 3, 3, 6]
    site.sample_every = 0
    model.value = torch.full((1, 5), 9.0)
    model(torch.zeros(1, 5))
    assert site.telemetry().mean.item() == 6


def test_an_active_site_is_sampled_behind_its_seeds() -> None:
    """What is told is what the site puts out, not what the host did."""
    model = morph(nn.Linear(4, 6), [Site("", seeds=2)])
    put(Garden.of(model), 0, "GRAFTING")
    x = torch.randn(5, 4)
    y = model(x)
    seen = Garden.of(model).telemetry()
    assert seen.mean[1].item() == pytest.approx(y.mean().item(), abs=1e-6)
    assert not seen.total.requires_grad


def test_an_empty_batch() -> None:
    """Nothing passed, so there is nothing to tell."""
    model = morph(nn.Linear(4, 6), [Site("", placement="inline", seeds=2)])
    model(torch.zeros(0, 4))
    seen = Garden.of(model).telemetry()
    assert seen.count.tolist() == [0, 0] and seen.maximum.isnan().all()
