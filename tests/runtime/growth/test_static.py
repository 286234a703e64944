"""Networks that do not grow: what a grown one is compared with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from kasmina.growth.static import reinitialised
from kasmina.growth.task import seeded
from kasmina.sites import Garden, Site, fold, morph
from kasmina.sites.plain import SpanEnd
from kasmina.tasks import chars
from tests.runtime.sites.models import every_kind


def test_a_grown_architecture_begins_as_its_host_began() -> None:
    """Nothing that was learned is left: not in branches, nor where no module draws its parameters."""
    task = chars.task()
    sites = [
        Site("norm", until="head", seeds=1, hidden=3),
        Site("blocks.0", seeds=2, blueprint=("mlp", "causal_conv"), layout=("sequence", 64)),
        Site("blocks.1.mlp", placement="inline", seeds=2),
    ]
    x = torch.zeros(2, 64, dtype=torch.int64)
    model = morph(task.build_model(1), sites=sites, example=x)
    every_kind(Garden.of(model), "STABILIZATION", 0.7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)  # learning
    grown, fresh = fold(model), reinitialised(task, model, 5)
    host = dict(task.build_model(5).named_parameters())
    shapes = {name: p.shape for name, p in grown.named_parameters()}
    assert {name: p.shape for name, p in fresh.named_parameters()} == shapes
    trained, left = dict(grown.named_parameters()), dict(host)
    for name, parameter in fresh.named_parameters():
        assert not torch.equal(parameter, trained[name]), name
        if "branches" not in name:
            torch.testing.assert_close(parameter, left.pop(name.replace("host.", "")))
    assert left == {}
    assert not torch.equal(fresh(x), grown(x))


def tied(seed: int, width: int | None = None) -> nn.Module:
    """Layers that share a weight, one that counts, in a row of which `fold` takes a part out."""
    with seeded(seed):
        host = nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2)
        )
    host[3].weight = host[0].weight
    return host


def test_what_a_network_shares_and_counts_begins_anew() -> None:
    """Also where its folded form has other names."""
    task = replace(chars.task(), build_model=tied)
    x = torch.randn(8, 4)
    site = Site("1", until="3", seeds=1, hidden=3)
    model = morph(tied(1), sites=[site], example=x)
    every_kind(Garden.of(model), "STABILIZATION", 0.7)
    model(x)
    fresh, host = reinitialised(task, model, 5).eval(), tied(5).eval()
    names = {name for name, _ in fresh.named_parameters(remove_duplicate=False)}
    assert not names.issuperset(dict(host.named_parameters()))  # the site is a module of its own
    assert len(list(fresh.buffers())) == len(list(host.buffers()))
    for ours, theirs in zip(fresh.buffers(), host.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    for module in fresh.modules():
        if isinstance(module, SpanEnd):
            for parameter in module.branches.parameters():
                nn.init.zeros_(parameter)
    torch.testing.assert_close(fresh(x), host(x))
