"""The earlier system's layers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kasmina.errors import KasminaError
from kasmina.lifecycle import Lifecycle
from kasmina.sites import (
    ChunkedKasminaLayer,
    HybridConfig,
    HybridKasminaLayer,
    ParallelKasminaLayer,
    fold,
)
from tests.runtime.sites.models import put

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def base() -> nn.Linear:
    """A Linear with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(6, 1200)


def test_a_chunked_layer_of_a_thousand_seeds() -> None:
    """The earlier default; while all sleep the layer's bits come out."""
    layer = ChunkedKasminaLayer(base())
    assert layer.site.n_seeds == 1000 and len(layer.state) == 1000
    assert torch.equal(layer(X), base()(X))


def test_germination_by_hand() -> None:
    """A dormant seed germinates with its blueprint and strategy; one that is not does not."""
    layer = ChunkedKasminaLayer(base(), 12, blueprint=("mlp", "gated"))
    assert layer.request_germination(4, "gated", "cosine")
    assert layer.state.state(4).name == "GERMINATED"
    assert layer.state["blueprint_id"][4] == 1 and layer.state["grafting_strategy"][4] == 1
    assert not layer.request_germination(4, 0, 0)
    assert layer.state["blueprint_id"][4] == 1
    assert layer.request_germination(5)
    assert layer.state["blueprint_id"][5] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12,), "no seed 12; seeds go from 0 to 11"),
        ((-1,), "no seed -1; seeds go from 0 to 11"),
        (("a",), "no seed 'a'; seeds go from 0 to 11"),
        ((0, 3), "no blueprint 3 at this site; it grows: 0 mlp"),
        ((0, "conv"), "no blueprint 'conv' at this site; it grows: 0 mlp"),
        ((0, 0, "slow"), "unknown grafting strategy 'slow'; known: linear, cosine"),
        ((0, 0, 99), "no grafting strategy has number 99; known: 0 linear, 1 cosine"),
    ],
)
def test_requests_that_name_nothing(arguments: tuple[int, ...], message: str) -> None:
    """Nothing is stepped."""
    layer = ChunkedKasminaLayer(base(), 12)
    with pytest.raises(KasminaError) as error:
        layer.request_germination(*arguments)
    assert str(error.value).startswith(message)
    assert (layer.state.codes == 0).all()


def test_too_many_chunks() -> None:
    """The message says how many there may be."""
    with pytest.raises(KasminaError, match="6 features cannot be cut into 1000 chunks"):
        ChunkedKasminaLayer(nn.Linear(6, 6))


def test_a_parallel_layer() -> None:
    """Seeds beside a block; `fold` leaves a plain one."""
    layer = ParallelKasminaLayer(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5)), 2)
    before = layer(X)
    put(layer.garden, 1, "GRAFTING")
    assert not torch.allclose(layer(X), before)
    assert torch.allclose(fold(layer.base_layer)(X), layer(X), atol=1e-6)


def test_a_lifecycle_without_blueprints() -> None:
    """The earlier system's states are kept for migration; no seed can grow by them."""
    with pytest.raises(KasminaError) as error:
        ChunkedKasminaLayer(base(), 3, lifecycle=Lifecycle.v1())
    assert str(error.value) == (
        "the lifecycle 'lifecycle_v1' has no column blueprint_id, blueprint_slot, generation, "
        "alpha, which seeds in a model need; its spec's state file must declare them"
    )


@pytest.mark.parametrize(("chunks", "seeds"), [(True, 7), (False, 1)])
def test_a_hybrid_layer_by_flags(chunks: bool, seeds: int) -> None:
    """Many seeds or one, as the configuration says when the layer is made."""
    config = SimpleNamespace(enable_chunks=chunks, chunks_per_layer=7)
    layer = HybridKasminaLayer(base(), config)
    assert layer.site.n_seeds == seeds
    assert torch.equal(layer(X), base()(X))


def test_a_hybrid_layer_switches_its_seeds_off() -> None:
    """`enabled` counts in each pass, and the seeds are still there when it comes back."""
    config = HybridConfig(chunks_per_layer=3)
    layer = HybridKasminaLayer(base(), config)
    put(layer.garden, 0, "GRAFTING")
    grown = layer(X)
    config.enabled = False
    assert torch.equal(layer(X), base()(X))
    config.enabled = True
    assert torch.equal(layer(X), grown)
    assert not torch.equal(grown, base()(X))
