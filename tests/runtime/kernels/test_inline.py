"""Sites whose seeds generated kernels compute (in Triton's interpreter here), against their twins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import backward

from kasmina.sites import Garden, InlineSite, Site, morph
from tests.runtime.sites.models import poison, put

KINDS = ("mlp", "gated", "low_rank", "affine")
pytestmark = pytest.mark.usefixtures("short_tiles")


def grown(
    features: int = 12,
    seeds: int = 5,
    kinds: str | tuple[str, ...] = KINDS,
    states: tuple[str, ...] = ("GRAFTING", "STABILIZATION", "FINE_TUNING", "CULLED"),
    **options: object,
) -> nn.Module:
    """A Linear with an inline site whose first seeds are in `states`, each of the next kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        host = nn.Linear(6, features)
    names = (kinds,) if isinstance(kinds, str) else kinds
    site = Site("", placement="inline", seeds=seeds, blueprint=kinds, hidden=3, **options)  # type: ignore[arg-type]
    model = morph(host, [site])
    garden = Garden.of(model)
    for row, state in enumerate(states):
        put(garden, row, state, kind=row % len(names), alpha=(1.0, 0.3, 0.7, 0.0)[row % 4])
    return model


def site_of(model: nn.Module) -> InlineSite:
    """Its one site."""
    (site,) = Garden.of(model).sites.values()
    assert isinstance(site, InlineSite)
    return site


@pytest.fixture
def by_both(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[nn.Module, nn.Module]]:
    """The same model twice: its seeds by kernels, and by the twins."""

    def build(**options: object) -> tuple[nn.Module, nn.Module]:
        models = []
        for backend in ("triton", "torch"):
            monkeypatch.setenv("KASMINA_BACKEND", backend)
            models.append(grown(**options))  # type: ignore[arg-type]
        kernels, twins = models
        assert site_of(kernels).backend.backend == "triton"
        assert site_of(twins).backend.backend == "torch"
        return kernels, twins

    return build


def results(
    model: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Tensor]:
    """Output, all gradients by name, telemetry and counts of one pass, of `run` if that is given."""
    site_of(model).sample_every = 1
    x = x.clone().requires_grad_()
    y = (model if run is None else run)(x)
    weight = torch.linspace(-1, 1, y.numel()).view_as(y)
    backward((y * weight).nan_to_num(0, 0, 0).sum())
    garden = Garden.of(model)
    seen = garden.telemetry()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return found | {
        "output": y.detach(),
        "input": x.grad,
        "alpha": garden.alpha_gradient(),
        "nonfinite": garden.nonfinite(),
        "mean": seen.mean,
        "squares": seen.squares,
        "maximum": seen.maximum,
        "broken": seen.nonfinite,
        "count": seen.count,
    }


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal up to the rounding of float32."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        close = torch.allclose(ours[name], expected, rtol=1e-4, atol=1e-5, equal_nan=True)
        assert close, f"{name}: {ours[name]} is not {expected}"


@pytest.mark.parametrize("mode", ["residual", "replace"])
@pytest.mark.parametrize("features", [12, 15, 13])
def test_values_gradients_and_telemetry(
    by_both: Callable[..., tuple[nn.Module, nn.Module]], mode: str, features: int
) -> None:
    """Four kinds at a site, states that train and that do not, alpha 0 and 1, uneven chunks."""
    kernels, twins = by_both(features=features, mode=mode)
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    assert_equal(results(kernels, x), results(twins, x))


def test_sequences_and_empty_batches(
    by_both: Callable[..., tuple[nn.Module, nn.Module]],
) -> None:
    """Positions are examples; no example is nothing."""
    kernels, twins = by_both(kinds="mlp")
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    assert_equal(results(kernels, x), results(twins, x))
    assert_equal(results(kernels, x[:0]), results(twins, x[:0]))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, in the interpreter
def test_a_broken_seed_is_the_identity_and_counted(
    by_both: Callable[..., tuple[nn.Module, nn.Module]],
) -> None:
    """By kernel as by twin: the host's value passes, nothing but finite gradients leave."""
    models = by_both(kinds="mlp")
    for model in models:
        poison(Garden.of(model), 1, float("inf"))
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    ours, theirs = (results(model, x) for model in models)
    assert ours["nonfinite"][1] > 0
    assert_equal(ours, theirs)


def test_without_gradients_the_host_is_overwritten(
    by_both: Callable[..., tuple[nn.Module, nn.Module]],
) -> None:
    """Where nobody else can hold what a Linear returned, seeds write into it; the same values."""
    kernels, twins = by_both()
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    expected = twins(x).detach()
    for model in (kernels, twins):
        site = site_of(model)
        returned: list[Tensor] = []
        host = site._inside

        def noting(
            x: Tensor, host: Callable[..., Tensor] = host, to: list[Tensor] = returned
        ) -> Tensor:
            to.append(host(x))
            return to[0]

        site._inside = noting
        with torch.no_grad():
            found = model(x)
        assert found is returned[0]
        assert torch.allclose(found, expected, atol=1e-5)


def test_a_host_that_keeps_its_output_is_not_overwritten() -> None:
    """A subclass may hold on to what it returned."""

    class Keeping(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = super().forward(x)
            return self.kept

    model = morph(Keeping(3, 4), [Site("", placement="inline", seeds=2)])
    put(Garden.of(model), 0, "GRAFTING")
    with torch.no_grad():
        y = model(torch.ones(2, 3))
        assert not torch.equal(y, model.kept)
        assert torch.equal(
            model.kept, nn.functional.linear(torch.ones(2, 3), model.weight, model.bias)
        )


def test_half_precision_with_parameters_in_float32(
    by_both: Callable[..., tuple[nn.Module, nn.Module]],
) -> None:
    """Under autocast blueprints compute in the dtype of the host's output, by either backend."""
    kernels, twins = by_both(kinds="mlp")
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = kernels(x), twins(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=2**-6, atol=2**-6)  # rounded at other places
    for each in (ours, theirs):
        backward(each.float().square().sum())
    for (name, p), q in zip(kernels.named_parameters(), twins.parameters(), strict=True):
        assert p.dtype == torch.float32
        assert p.grad is not None and q.grad is not None
        torch.testing.assert_close(
            p.grad, q.grad, rtol=2**-5, atol=2**-4 * float(q.grad.abs().max()), msg=name
        )


@pytest.mark.parametrize(
    ("site", "why"),
    [
        (Site("", placement="inline", seeds=2, blueprint="conv"), "blueprint 'conv'"),
        (Site("", placement="inline", seeds=2), "channels first"),
    ],
    ids=["a kind without kernel", "channels"],
)
def test_what_has_no_kernel_runs_the_twin(
    site: Site, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says why."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    host = nn.Conv1d(2, 4, 3, padding=1)
    example = torch.zeros(1, 2, 8)
    model = morph(host, [site], example=example)
    (layer,) = Garden.of(model).sites.values()
    assert layer.backend.backend == "torch"
    assert "the twins: " in layer.backend.why
    put(Garden.of(model), 0, "GRAFTING")
    assert not torch.equal(
        model(example + 1), host._conv_forward(example + 1, host.weight, host.bias)
    )


def test_float64_runs_the_twin(by_both: Callable[..., tuple[nn.Module, nn.Module]]) -> None:
    """Kernels accumulate in float32, so a host in float64 is not given to them."""
    kernels, twins = (model.double() for model in by_both())
    x = torch.randn(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, theirs = results(kernels, x), results(twins, x)
    assert all(torch.equal(ours[name], theirs[name]) for name in ("output", "input", "alpha"))


def test_a_state_that_changes_between_the_passes_is_an_error(
    by_both: Callable[..., tuple[nn.Module, nn.Module]],
) -> None:
    """A kernel computes again what it needs; from other rows it would give wrong gradients."""
    kernels, _ = by_both(kinds="mlp")
    y = kernels(torch.randn(4, 6))
    put(Garden.of(kernels), 4, "GRAFTING")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        backward(y.sum())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("kinds", ["mlp", ("mlp", "gated")], ids=["one kind", "two kinds"])
@pytest.mark.no_cover
def test_kernels_in_a_compiled_graph(
    kinds: str | tuple[str, ...], by_both: Callable[..., tuple[nn.Module, nn.Module]]
) -> None:
    """In every state, the sleeping ones too; telemetry and gradients, one graph."""
    torch._dynamo.reset()
    kernels, twins = by_both(kinds=kinds, states=("TRAINING", "TRAINING"))
    compiled = torch.compile(kernels, fullgraph=True, backend="aot_eager")
    lifecycle = Garden.of(kernels).state.lifecycle
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    states = [*lifecycle.State, lifecycle.State["DORMANT"]]
    for number, state in enumerate(states):
        for model in (kernels, twins):
            model.zero_grad()
            garden = Garden.of(model)
            garden.state.update([0, 1], {"lifecycle_state": int(state)})
            garden.refresh()
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            ours = results(kernels, x, compiled)
        theirs = results(twins, x)
        missing = {name: torch.zeros_like(ours[name]) for name in ours.keys() - theirs.keys()}
        assert_equal(ours, theirs | missing)
