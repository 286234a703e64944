"""What a captured graph holds: passes that follow the lifecycle without being run again by Python.

There is no GPU here, so capturing is pretended: the passes take the way that they take in a graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import backward

from kasmina.blueprints import Placement
from kasmina.kernels.inline import Launches, passed
from kasmina.sites import (
    Garden,
    InlineSite,
    Site,
    SiteError,
    chunked,
    layer,
    morph,
    parallel,
    traced,
)
from tests.runtime.kernels.test_inline import grown, site_of
from tests.runtime.sites.models import HOSTS, Host, built, every_kind, put

STATES = ("DORMANT", "TRAINING", "GRAFTING", "STABILIZATION", "FINE_TUNING", "CULLED")


@contextmanager
def capturing(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, every site takes itself to be captured."""
    sites = Garden.of(model).sites.values()
    with monkeypatch.context() as patch:
        for module in (layer, traced, chunked, parallel):
            patch.setattr(module, "_is_capturing", lambda: True)
        for site in sites:
            patch.setattr(site, "_may_capture", True)
        yield


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output and all gradients; a missing one is 0."""
    model.zero_grad()
    Garden.of(model).refresh()
    y = model(x)
    backward(y.square().sum())
    named = model.named_parameters()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named}
    return {**found, "output": y.detach(), "alpha": Garden.of(model).alpha_gradient()}


@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_the_captured_way_gives_the_same_in_every_state(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of every site, those without kernels too; it asks the plan nothing."""
    model = built(host).eval()
    garden = Garden.of(model)
    rows = every_kind(garden, "TRAINING", alpha=0.6)
    for state in STATES:
        code = int(garden.state.lifecycle.State[state])
        garden.state.update(rows, {"lifecycle_state": code})
        garden.refresh()
        expected = gradients(model, host.batch())
        with capturing(model, monkeypatch):
            found = gradients(model, host.batch())
        for name, value in expected.items():
            close = torch.allclose(found[name], value, rtol=1e-4, atol=1e-4)
            assert close, f"{state}, {name}: {found[name]} is not {value}"


def test_launches_follow_the_lifecycle(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was prepared for a graph gives eager's result after each later step, unprepared."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model = grown(states=())
    garden, site = Garden.of(model), site_of(model)
    assert isinstance(site._launches, Launches)
    always, stacks = site._launches.whatever_comes(), site.stacks()
    y = torch.randn(4, 12)
    rows = range(4)
    for row in rows:
        put(garden, row, "TRAINING", kind=row, alpha=0.5)
    for state in STATES:
        code = int(garden.state.lifecycle.State[state])
        garden.state.update(list(rows), {"lifecycle_state": code, "alpha": 0.25})
        garden.refresh()
        with monkeypatch.context() as patch:
            patch.setattr(site, "_launches", None)
            expected = site._grown(None, y, captured=False, due=False).detach()
        assert torch.allclose(passed(y, site.alpha, always, stacks), expected, atol=1e-5), state
        in_place = y.clone()
        always.forward(in_place, in_place, site.alpha.detach(), stacks, False)
        assert torch.allclose(in_place, expected, atol=1e-5), state


def test_a_trial_is_seen_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels read the site's own columns, which a trial writes and takes back."""
    model = grown(kinds="mlp", states=("TRAINING",))
    garden, site = Garden.of(model), site_of(model)
    before = [column.clone() for column in site.live]
    with garden.trial(torch.tensor([0])):
        assert site.live.codes[0] != before[0][0]
        x = torch.randn(3, 6)
        expected = model(x).detach()
        with capturing(model, monkeypatch):
            assert torch.allclose(model(x), expected, atol=1e-6)
        assert not torch.allclose(expected, site._inside(x), atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(site.live, before, strict=True))
    assert isinstance(site, InlineSite)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, on lanes that are masked
@pytest.mark.parametrize("placement", ["inline", "parallel"])
def test_a_first_pass_inside_of_a_capture_is_refused(
    placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nothing can be held; after one pass outside, the capture holds kinds that slept then."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    site = Site("", placement=placement, seeds=3, blueprint=("mlp", "gated"), hidden=2)
    model = morph(nn.Linear(6, 6), [site])
    put(Garden.of(model), 0, "GRAFTING", kind=1, alpha=0.5)
    x = torch.randn(5, 6)
    refused = (
        r"site '.*': its first pass over about 5 rows of torch.float32 is inside of a CUDA graph's "
        r"capture, .* run the model once on such a batch before the capture"
    )
    with capturing(model, monkeypatch), pytest.raises(SiteError, match=refused):
        model(x)
    expected = model(x)
    put(Garden.of(model), 1, "GRAFTING", kind=0, alpha=0.5)
    with capturing(model, monkeypatch):
        found = model(x)
    assert not torch.equal(found, expected)
    assert torch.allclose(found, model(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("placement", ["inline", "parallel"])
def test_a_capture_after_passes_in_which_all_slept(
    placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is how a graph is captured that follows the whole life; sampling may be off."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model = morph(nn.Linear(6, 6), [Site("", placement=placement, seeds=3, hidden=2)])
    (site,) = Garden.of(model).sites.values()
    site.sample_every = 0
    monkeypatch.setattr(site, "_may_capture", True)
    for module in (layer, traced, chunked, parallel):
        monkeypatch.setattr(module, "_is_capturing", lambda: False)
    for rows in (5, 11):
        x = torch.randn(rows, 6)
        assert torch.equal(model(x), site._inside(x))
        with capturing(model, monkeypatch):
            assert torch.equal(model(x), site._inside(x))
    assert not site._is_due(model(x))


def test_a_first_pass_in_inference_mode_keeps_the_kernels(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """They can be held there too, and nobody falls back to the twins because of it."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model = grown(kinds="mlp")
    with torch.inference_mode():
        model(torch.randn(3, 6))
    assert site_of(model)._launches is not None
    assert not recwarn.list
