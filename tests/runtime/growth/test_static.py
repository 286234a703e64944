"""Networks that do not grow: what a grown one is compared with."""

from __future__ import annotations

import torch

from kasmina.growth.static import reinitialised
from kasmina.sites import Garden, Site, fold, morph
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
