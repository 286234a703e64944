"""Sites under torch.compile and in copies."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from kasmina.sites import Garden
from tests.runtime.sites.models import HOSTS, Host, built, every_kind

every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)


# Dynamo refuses nn.GRU itself, with or without seeds.
compiling = pytest.mark.parametrize(
    "host", [host for host in HOSTS if host.name != "gru"], ids=lambda host: host.name
)
# Dynamo makes one of every autograd function that it traces, and torch warns of that.
of_dynamo = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


@compiling
def test_a_dormant_host_compiles_whole(host: Host) -> None:
    """One graph, no break, compiled once for many passes, the eager result."""
    torch._dynamo.reset()
    model = built(host).eval()
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        expected = model(host.batch())
        for _ in range(3):
            assert torch.allclose(compiled(host.batch()), expected, atol=1e-6)
    assert counter.frame_count == 1


@of_dynamo
@compiling
def test_alpha_moves_without_a_new_compilation(host: Host) -> None:
    """A graph with active seeds is made once; alpha is data."""
    torch._dynamo.reset()
    model = built(host).eval()
    garden = Garden.of(model)
    rows = every_kind(garden, "GRAFTING", alpha=0.25)
    counter = CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        for alpha in (0.25, 0.5, 1.0):
            garden.state.update(rows, {"alpha": alpha})
            garden.refresh()
            assert torch.allclose(compiled(host.batch()), model(host.batch()), atol=1e-6)
    assert counter.frame_count == 1


@every_host
def test_a_copy_is_independent(host: Host) -> None:
    """A deep copy has its own seeds: what happens to one is not felt by the other."""
    model = built(host).eval()
    every_kind(Garden.of(model), "GRAFTING")
    with torch.no_grad():
        before = model(host.batch())
        twin = copy.deepcopy(model)
        assert torch.equal(twin(host.batch()), before)
        garden = Garden.of(twin)
        assert garden is not Garden.of(model) and garden.state is not Garden.of(model).state
        garden.state.update(slice(None), {"alpha": 0.0})
        garden.refresh()
        for parameter in twin.parameters():
            parameter.add_(1)
        assert torch.equal(model(host.batch()), before)
        assert not torch.allclose(twin(host.batch()), before)


@every_host
def test_a_state_dict_rebuilds_a_grown_model(host: Host) -> None:
    """Saved by torch.save, loaded into a fresh morphed host: the same outputs, to the bit."""
    model = built(host).eval()
    every_kind(Garden.of(model), "GRAFTING", alpha=0.6)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = built(host).eval()
    result = fresh.load_state_dict(torch.load(file, weights_only=True))
    assert not result.missing_keys and not result.unexpected_keys
    with torch.no_grad():
        assert torch.equal(fresh(host.batch()), model(host.batch()))
    assert Garden.of(fresh).signature() == Garden.of(model).signature()


@every_host
def test_the_hosts_keys_stay(host: Host) -> None:
    """All of ours lies under `kasmina.`, the host's names and objects are as they were."""
    plain, model = built(host, seeds=False), built(host)
    theirs = [name for name in model.state_dict() if not name.startswith("kasmina.")]
    assert theirs == list(plain.state_dict())
    named = [n for n, _ in model.named_parameters() if not n.startswith("kasmina.")]
    assert named == [n for n, _ in plain.named_parameters()]
    assert not any(name.startswith("kasmina.") for name in plain.state_dict())


def test_a_state_dict_that_does_not_fit() -> None:
    """A missing column and an illegal value are reported as torch reports such things."""
    model = built(HOSTS[0])
    saved = model.state_dict()
    del saved["kasmina.state.alpha"]
    with pytest.raises(
        RuntimeError, match=r'Missing key\(s\) in state_dict: "kasmina.state.alpha"'
    ):
        model.load_state_dict(saved)
    saved = model.state_dict()
    saved["kasmina.state.lifecycle_state"] = torch.full_like(
        saved["kasmina.state.lifecycle_state"], 77
    )
    with pytest.raises(RuntimeError, match=r"kasmina.state: column 'lifecycle_state'.*77"):
        model.load_state_dict(saved)
    saved = model.state_dict()
    saved["kasmina.stray"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "kasmina.stray"'):
        model.load_state_dict(saved)


def test_another_dtype() -> None:
    """Blueprints follow the host's dtype; alpha and the state keep theirs."""
    model = built(HOSTS[0]).eval()
    garden = Garden.of(model)
    every_kind(garden, "GRAFTING")
    batch = HOSTS[0].batch()
    with torch.no_grad():
        expected = model(batch)
        found = model.double()(batch.double())
    assert found.dtype == torch.float64
    assert torch.allclose(found.float(), expected, atol=1e-5)
    (site, *_) = garden.sites.values()
    assert site.alpha.dtype == garden.state["alpha"].dtype == torch.float32


def test_a_sequential_still_runs() -> None:
    """The garden stands last in a Sequential and hands on what it is given."""
    from kasmina.sites import Site, morph

    model = morph(
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), [Site("0", until="2")]
    )
    x = torch.randn(2, 3)
    expected = model[2](model[1](model[0](x)))
    assert torch.equal(model(x), expected)
