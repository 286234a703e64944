"""Parallel sites by kernels, interpreted, and by their twins: the same model either way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import backward

from kasmina.blueprints import registry
from kasmina.blueprints.dense import _Dense
from kasmina.blueprints.registry import Parameters
from kasmina.kernels import parallel
from kasmina.kernels.backend import BackendError
from kasmina.sites import Garden, ParallelSite, Site, morph
from kasmina.sites.layer import SiteLayer
from tests.runtime.sites.models import put

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
STATES = ("GRAFTING", "STABILIZATION", "FINE_TUNING", "TRAINING", "CULLED")


def grown(kinds: tuple[str, ...], dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Garden]:
    """A block beside which nine of twelve seeds hold a blueprint, in all kinds of states."""
    torch.manual_seed(0)
    host = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 9)).to(dtype)
    site = Site("0", until="2", seeds=12, hidden=6, blueprint=kinds, layout=(1, 12))
    model = morph(host, [site])
    garden = Garden.of(model)
    lifecycle = garden.state.lifecycle
    for row in range(9):
        garden.state.update([row], {"blueprint_id": row % len(kinds)})
        garden.allocate(row)
        code = int(lifecycle.State[STATES[row % len(STATES)]])
        garden.state.update([row], {"lifecycle_state": code, "alpha": 0.1 * row})
    garden.refresh()
    return model, garden


def passed(model: nn.Module, garden: Garden, dtype: torch.dtype) -> dict[str, Tensor]:
    """Output and every gradient, by name."""
    torch.manual_seed(1)
    x = torch.randn(7, 12, dtype=dtype, requires_grad=True)
    y = model(x)
    backward(y.square().sum())
    assert x.grad is not None
    found = {"y": y.detach(), "x": x.grad, "alpha": garden.alpha_gradient()}
    named = model.named_parameters()
    return found | {name: p.grad for name, p in named if p.grad is not None}


def site_of(garden: Garden) -> SiteLayer:
    """The one site."""
    (site,) = garden.sites.values()
    return site


@pytest.mark.parametrize("kinds", [("mlp", "gated", "low_rank"), ("mlp", "conv")])
def test_kernels_and_twins_agree(kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds that compete at a site; one without kernels keeps its own torch beside the others."""
    monkeypatch.setenv("KASMINA_BACKEND", "torch")
    model, garden = grown(kinds)
    wanted = passed(model, garden, torch.float32)
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model, garden = grown(kinds)
    assert site_of(garden).backend.backend == "triton"
    assert ("'conv'" in site_of(garden).backend.why) == ("conv" in kinds)
    found = passed(model, garden, torch.float32)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-4, atol=1e-5), name


def test_a_dtype_without_kernels_takes_the_twins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float64 runs, whatever the backend."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model, garden = grown(("mlp",), torch.float64)
    assert passed(model, garden, torch.float64)["y"].dtype == torch.float64


def test_kernels_count_what_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in a forward pass, none in its backward pass, for the seed that it comes from."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model, garden = grown(("mlp",))
    site = site_of(garden)
    with torch.no_grad():
        site.pool("mlp").stacked()["out_weight"][1, 4, 0] = torch.nan
    found = passed(model, garden, torch.float32)
    assert site.nonfinite.tolist() == [0, 7, *[0] * 10]
    assert all(bool(value.isfinite().all()) for value in found.values())


def test_a_kernel_that_does_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twins take over, with a warning that says why; where kernels are demanded, an error."""
    monkeypatch.setenv("KASMINA_BACKEND", "torch")
    wanted = passed(*grown(("mlp",)), torch.float32)
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    faults = []

    def broken(*given: object) -> None:
        faults.append(given)
        raise RuntimeError("ptxas died")

    monkeypatch.setattr(parallel, "hold", broken)
    with pytest.raises(BackendError, match=r"KASMINA_BACKEND=triton, .*ptxas died"):
        passed(*grown(("mlp",)), torch.float32)
    model, garden = grown(("mlp",))
    monkeypatch.setenv("KASMINA_BACKEND", "auto")
    with pytest.warns(RuntimeWarning, match=r"site '0\.\.2': the twins: .*ptxas died"):
        found = passed(model, garden, torch.float32)
    assert len(faults) == 2 and site_of(garden).backend.backend == "torch"
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_users_kind_runs_its_own_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """In parallel a formula gives no kernel; the site says so, and other kinds keep theirs."""

    class Squash(_Dense):
        formula = "{maps: {up: bias}, hidden: 2 * tanh(up)}"
        inner, inner_bias = ("up",), True

        def units(self, *given: Tensor) -> Tensor:
            return 2 * torch.tanh(*given)

        def plain(self, params: Parameters) -> nn.Module:
            raise NotImplementedError

    monkeypatch.setitem(registry._KINDS._entries, "squash", Squash)
    why = "no parallel kernel is generated for blueprint 'squash'; one of your own gets inline"
    results = []
    for backend in ("triton", "torch"):
        monkeypatch.setenv("KASMINA_BACKEND", backend)
        model, garden = grown(("squash", "gated"))
        if backend == "triton":
            site = site_of(garden)
            assert why in site.backend.why
            assert isinstance(site, ParallelSite)
            assert set(site._kernels) == {1}
        results.append(passed(model, garden, torch.float32))
    for name, value in results[1].items():
        assert torch.allclose(results[0][name], value, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("shape", [(7,), (2, 3)], ids=["examples", "sequences"])
def test_the_hosts_gradient_is_added_to_the_sites_where_it_lies(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third tensor for the sum, as large as an activation, would cost a tenth of a step."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    host = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))
    model = morph(host, [Site("2", seeds=3, hidden=2)])
    garden = Garden.of(model)
    garden.allocate(0)
    code = int(garden.state.lifecycle.State["GRAFTING"])
    garden.state.update([0], {"lifecycle_state": code, "alpha": 0.5})
    garden.refresh()
    made: list[int] = []
    right = parallel.backward

    def noting(*given: Any, **options: Any) -> Any:
        found: Any = right(*given, **options)
        assert found[0] is not None
        made.append(found[0].data_ptr())
        return found

    monkeypatch.setattr(parallel, "backward", noting)
    model(torch.randn(*shape, 5))  # is held first, which pulls as well
    made.clear()
    arrived: list[int] = []

    def seen(module: nn.Module, given: Any, y: Tensor) -> None:
        assert y.grad_fn is not None
        y.grad_fn.register_prehook(lambda grads: arrived.append(grads[0].data_ptr()))

    host[1].register_forward_hook(seen)
    backward(model(torch.randn(*shape, 5)).square().sum())
    assert made == arrived


@pytest.mark.parametrize("rows", [3, 2000], ids=["by themselves", "as one layer"])
@pytest.mark.parametrize("kind", ["mlp", "gated", "low_rank"])
def test_a_broken_seed_leaves_its_neighbours_the_gradient_of_x(kind: str, rows: int) -> None:
    """What reaches the input is what the healthy seed alone sends there."""
    found = []
    for broken in (True, False):
        site = Site("", placement="parallel", seeds=2, blueprint=kind, hidden=5)
        model = morph(nn.Linear(6, 10), [site], seed=1)
        garden = Garden.of(model)
        for row in range(2):
            put(garden, row, "GRAFTING", alpha=0.5)
        (layer,) = garden.sites.values()
        with torch.no_grad():
            stream = torch.Generator().manual_seed(2)
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=stream))
            for name, parameter in layer.pool(kind).stacked().items():
                if not broken:
                    parameter[0] = 0.0
                elif name == next(iter(layer.pool(kind).stacked())):
                    parameter[0].view(-1)[0] = torch.nan
        x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(3)).requires_grad_()
        slope = torch.randn(rows, 10, generator=torch.Generator().manual_seed(4))
        torch.autograd.backward(model(x), slope)
        assert x.grad is not None
        found.append((x.grad, garden.nonfinite().tolist()))
    (ours, counted), (alone, none) = found
    assert counted[0] > 0
    assert counted[1] == 0
    assert none == [0, 0]
    assert torch.allclose(ours, alone, rtol=1e-4, atol=1e-4)
