"""What a site computes, against a plain loop over its seeds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import backward
from torch.utils.checkpoint import checkpoint

from kasmina.sites import Garden, InlineSite, ParallelSite, Site, SiteError, SiteLayer, morph, plan
from kasmina.sites.diversion import first_argument
from kasmina_generated.kernels import catalogue
from tests.runtime.sites.models import HOSTS, Host, built, every_kind, poison, put

every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)


def branch(garden: Garden, row: int) -> tuple[nn.Module, float]:
    """One seed's blueprint as a plain module, and its alpha."""
    site = garden.site_of(row)
    pool = site.pool(int(garden.state["blueprint_id"][row]))
    place = int(garden.state["blueprint_slot"][row])
    exported = pool.kind.export({name: p[place].detach() for name, p in pool.stacked().items()})
    return exported, float(garden.state["alpha"][row])


def inline_by_hand(garden: Garden, site: InlineSite, y: Tensor) -> Tensor:
    """`y` with every seed of an inline site mixed in, one after the other."""
    axis = 1 if site.shape.channels_first else -1
    chunks = list(site.chunks.split(y, axis))
    for seed, chunk in enumerate(chunks):
        row = site.first_row + seed
        if garden.state["blueprint_slot"][row] >= 0:
            module, alpha = branch(garden, row)
            missing = site.chunks.width - chunk.shape[axis]
            zeros = torch.zeros_like(chunk.narrow(axis, 0, missing))
            made = module(torch.cat([chunk, zeros], axis)).narrow(axis, 0, chunk.shape[axis])
            keep = 1 - alpha if site.mode == "replace" else 1
            chunks[seed] = keep * chunk + alpha * made
    return torch.cat(chunks, axis)


def parallel_by_hand(garden: Garden, site: SiteLayer, x: Tensor, y: Tensor) -> Tensor:
    """`y` with every seed of a parallel site added."""
    read = x if site.shape.channels_first else x.reshape(-1, site.shape.d_in)
    for seed in range(site.n_seeds):
        if garden.state["blueprint_slot"][site.first_row + seed] >= 0:
            module, alpha = branch(garden, site.first_row + seed)
            y = y + alpha * module(read).reshape(y.shape)
    return y


class ByHand:
    """The host's own modules with plain hooks in the place of the sites."""

    def __init__(self, host: Host, garden: Garden) -> None:
        self.model = built(host, seeds=False)
        self._entered: dict[str, Tensor] = {}
        for site in garden.sites.values():
            first, last = (self.model.get_submodule(name) for name in site.span)
            first.register_forward_pre_hook(self._enter(site.path))
            last.register_forward_hook(self._leave(garden, site))

    def _enter(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._entered[path] = args[0]

        return hook

    def _leave(self, garden: Garden, site: SiteLayer) -> Callable[..., object]:
        def hook(module: nn.Module, args: object, output: object) -> object:
            y = output[0] if isinstance(output, tuple) else output
            assert isinstance(y, Tensor)
            if isinstance(site, InlineSite):
                grown = inline_by_hand(garden, site, y)
            else:
                grown = parallel_by_hand(garden, site, self._entered[site.path], y)
            return (grown, *output[1:]) if isinstance(output, tuple) else grown

        return hook


def host_gradients(model: nn.Module) -> Mapping[str, Tensor]:
    """Gradients by name, without ours."""
    named = model.named_parameters()
    return {n: p.grad for n, p in named if p.grad is not None and not n.startswith("kasmina")}


@every_host
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_output_and_gradients_of_a_plain_loop(host: Host, alpha: float) -> None:
    """All kinds at all sites give what a loop over seeds gives, forwards and backwards."""
    model = built(host)
    garden = Garden.of(model)
    every_kind(garden, "GRAFTING", alpha)
    reference = ByHand(host, garden).model
    for each in (model, reference):
        each.eval()
    ours, theirs = model(host.batch()), reference(host.batch())
    assert torch.allclose(ours, theirs, atol=1e-5)
    for each in (ours, theirs):
        backward(each.square().sum())
    expected = host_gradients(reference)
    found = host_gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # Sums of thousands of float32 terms, some of which cancel.
        scale = float(gradient.abs().max().clamp_min(1))
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-5 * scale), name


@every_host
def test_alpha_gradient_is_the_derivative_of_the_loss(host: Host) -> None:
    """dL/dalpha of every seed agrees with a finite difference, and is 0 for seeds at rest."""
    model = built(host).double()
    model.eval()
    garden = Garden.of(model)
    batch = host.batch()
    batch = batch.double() if batch.is_floating_point() else batch
    rows = every_kind(garden, "GRAFTING", 0.5)
    backward(model(batch).square().sum())
    gradient = garden.alpha_gradient()
    at_rest = [row for row in range(len(garden.state)) if row not in rows]
    assert not gradient[at_rest].any()
    for row in rows:
        losses = []
        for step in (2**-12, -(2**-12)):  # exact in float32
            garden.state.update([row], {"alpha": 0.5 + step})
            garden.refresh()
            losses.append(float(model(batch).square().sum().detach()))
        garden.state.update([row], {"alpha": 0.5})
        slope = (losses[0] - losses[1]) * 2**11
        assert gradient[row].item() == pytest.approx(slope, rel=2e-2, abs=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    features=st.integers(1, 13),
    batch=st.sampled_from([0, 1, 3]),
    mode=st.sampled_from(["residual", "replace"]),
)
def test_chunks_of_any_width(data: st.DataObject, features: int, batch: int, mode: str) -> None:
    """Uneven chunks, any share of active seeds, batches of 0 and 1: as the loop gives."""
    seeds = data.draw(st.integers(1, features))
    active = data.draw(st.sets(st.integers(0, seeds - 1)))
    site = Site("", placement="inline", seeds=seeds, hidden=3, mode=mode)  # type: ignore[arg-type]
    model = morph(nn.Linear(4, features), [site])
    garden = Garden.of(model)
    for row in active:
        put(garden, row, "GRAFTING", alpha=0.4)
    x = torch.randn(batch, 2, 4)
    plain = nn.functional.linear(x, model.weight, model.bias)
    (layer,) = garden.sites.values()
    assert isinstance(layer, InlineSite)
    assert torch.allclose(model(x), inline_by_hand(garden, layer, plain), atol=1e-5)


def test_a_transposed_input_is_no_matter() -> None:
    """Tensors need not be contiguous."""
    model = morph(nn.Linear(4, 6), [Site("", seeds=2)])
    garden = Garden.of(model)
    put(garden, 0, "GRAFTING")
    x = torch.randn(4, 5).t()
    assert torch.allclose(model(x), model(x.contiguous()), atol=1e-6)


@every_host
@pytest.mark.parametrize("state", ["GRAFTING", "STABILIZATION", "FOSSILIZED", "CULLED"])
def test_planes_that_mix(host: Host, state: str) -> None:
    """Blend, full and withdraw act by alpha; at alpha 0 the host's bits come out."""
    model, plain = built(host).eval(), built(host, seeds=False).eval()
    garden = Garden.of(model)
    rows = every_kind(garden, state, alpha=0.0)
    with torch.no_grad():
        expected = plain(host.batch())
        assert torch.equal(model(host.batch()), built(host).eval()(host.batch()))
        garden.state.update(rows, {"alpha": 1.0})
        garden.refresh()
        assert not torch.allclose(model(host.batch()), expected, atol=1e-3)


@pytest.mark.parametrize("known", [True, False])
def test_the_twins_mix_where_the_kernels_do(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spec of the kernels says which states mix; packages without it go by the planes' names."""
    lifecycle = Garden.of(morph(nn.Linear(2, 2), [Site("", seeds=1)])).state.lifecycle
    culled, grafting = lifecycle.State["CULLED"], lifecycle.State["GRAFTING"]
    monkeypatch.setattr(catalogue, "MIXING", catalogue.MIXING & ~(1 << culled))
    if not known:
        monkeypatch.setitem(sys.modules, catalogue.__name__, None)
    planes = plan._planes.__wrapped__(lifecycle)
    assert planes.mixed[culled] == (not known)
    assert planes.mixed[grafting]
    assert planes.joint[grafting]
    assert not planes.joint[culled]


@every_host
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_blueprint_breaks_nothing(host: Host, value: float) -> None:
    """Output and gradients stay finite, the pool's too, and the seed's lanes are counted."""
    model = built(host)
    garden = Garden.of(model)
    rows = every_kind(garden, "GRAFTING", alpha=0.5)
    for row in rows:
        poison(garden, row, value)
    output = model(host.batch())
    assert output.isfinite().all()
    backward(output.square().sum())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert garden.alpha_gradient().isfinite().all()
    assert (garden.nonfinite()[rows] > 0).all()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert norm.isfinite()


@every_host
def test_active_seeds_under_autocast(host: Host) -> None:
    """bfloat16: finite, close to float32, the host's dtype, and every blueprint learns."""
    model = built(host)
    garden = Garden.of(model)
    every_kind(garden, "GRAFTING", alpha=0.5)
    model.eval()
    expected = model(host.batch())
    with torch.autocast("cpu", torch.bfloat16):
        found = model(host.batch())
    assert found.dtype == torch.bfloat16
    assert torch.allclose(
        found.float(), expected, rtol=0.1, atol=0.1 * float(expected.detach().abs().max())
    )
    backward(found.float().square().sum())
    assert garden.alpha_gradient().isfinite().all() and garden.alpha_gradient().any()


@every_host
def test_an_empty_batch(host: Host) -> None:
    """No example: the host's empty output, gradients of 0, and nothing counts as broken."""
    model, x = built(host), host.batch()
    garden = Garden.of(model)
    every_kind(garden, "GRAFTING")
    output = model(x[:0])
    assert output.shape == (0, *model(x).shape[1:])
    backward(output.sum())
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert not garden.nonfinite().any() and not garden.alpha_gradient().any()
    with torch.no_grad():
        assert model(x[:0]).shape == output.shape


@every_host
def test_active_seeds_without_autograd(host: Host) -> None:
    """Inference mode gives the same."""
    model = built(host).eval()
    every_kind(Garden.of(model), "GRAFTING")
    with torch.inference_mode():
        found = model(host.batch())
    assert torch.allclose(found, model(host.batch()), atol=1e-6)


def test_checkpointed_activations() -> None:
    """A site inside a part that is run again in the backward pass."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    morph(model, [Site("0", until="2", seeds=2), Site("0", placement="inline", seeds=2)])
    every_kind(Garden.of(model), "GRAFTING")
    x = torch.randn(5, 4)
    found = []
    runs: list[Callable[[Tensor], Tensor]] = [
        model,
        lambda x: checkpoint(model, x, use_reentrant=False),
    ]
    for run in runs:
        model.zero_grad()
        Garden.of(model).refresh()
        backward(run(x).square().sum())
        own = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([*own, Garden.of(model).alpha_gradient()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_frozen_blueprint_gets_no_gradient() -> None:
    """Where only the host trains, a seed's row has gradient 0, and the host's flows through it."""
    model = morph(nn.Linear(4, 6), [Site("", seeds=3)])
    garden = Garden.of(model)
    (site,) = garden.sites.values()
    put(garden, 0, "GRAFTING")
    put(garden, 1, "EVALUATING")
    x = torch.randn(5, 4, requires_grad=True)
    backward(model(x).square().sum())
    for parameter in garden.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].any() and not parameter.grad[1].any()
    assert site.training_rows("mlp").tolist() == [True, False, False]
    frozen = morph(nn.Linear(4, 6), [Site("", seeds=3)])
    put(Garden.of(frozen), 0, "EVALUATING")
    backward(frozen(x).square().sum())
    assert not any(p.grad.any() for p in Garden.of(frozen).parameters() if p.grad is not None)


def test_keyword_inputs_and_named_tuples() -> None:
    """A site reads a keyword input, and gives back the tuple's own type."""
    from typing import NamedTuple

    class Pair(NamedTuple):
        value: Tensor
        extra: int

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, value: Tensor) -> Pair:
            return Pair(self.linear(value), 7)

    model = morph(Block(), [Site("", seeds=1, features=4)], example={"value": torch.ones(2, 3)})
    put(Garden.of(model), 0, "GRAFTING")
    result = model(value=torch.ones(2, 3))
    assert isinstance(result, Pair) and result.extra == 7
    assert not torch.equal(result.value, model.linear(torch.ones(2, 3)))


def test_positions_that_change_are_told() -> None:
    """A pointwise seed beside a stride is refused before anything runs, with and without example."""
    sites = [Site("", seeds=1)]
    with pytest.raises(SiteError, match=r"^site '\.': it may write other positions .* example="):
        morph(nn.Conv1d(2, 3, 3, stride=2), sites)
    what = r"'mlp' maps each position by itself, but .* from \(2, 9\) to \(3, 4\); use blueprint='conv'"
    with pytest.raises(SiteError, match=what):
        morph(nn.Conv1d(2, 3, 3, stride=2), sites, example=torch.zeros(1, 2, 9))
    grown = morph(
        nn.Conv1d(2, 3, 3, stride=2), [Site("", blueprint="conv")], example=torch.zeros(1, 2, 9)
    )
    assert len(Garden.of(grown).state) == 8


def test_no_tensor_to_read_or_write() -> None:
    """What only shows when a seed acts is an error that says what to do."""

    class Odd(nn.Module):
        def forward(self, x: object) -> object:
            return {"y": torch.zeros(2, 3)} if x is None else torch.zeros(2, 3)

    model = morph(Odd(), [Site("", placement="inline", seeds=1, features=3)])
    put(Garden.of(model), 0, "GRAFTING")
    with pytest.raises(SiteError, match=r"^site '\.': the module returned dict; seeds can act on"):
        model(None)
    (site,) = Garden.of(morph(nn.Linear(3, 3), [Site("", seeds=1)])).sites.values()
    assert isinstance(site, ParallelSite)
    with pytest.raises(SiteError, match=r"^site '\.': the module was called with str as its first"):
        first_argument(("a",), {}, site)
