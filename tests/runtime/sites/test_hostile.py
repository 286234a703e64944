"""Models that are changed, copied, moved or called in ways that nobody planned for."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import backward

from kasmina.errors import KasminaError
from kasmina.sites import Garden, ParallelSite, Site, SiteError, fold, morph
from tests.runtime.sites.models import HOSTS, Host, built, every_kind, put

every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)


def grown(*sites: Site) -> nn.Sequential:
    """Three modules in a row with acting seeds."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    morph(model, sites or (Site("0", seeds=2),), example=torch.zeros(2, 4))
    every_kind(Garden.of(model), "STABILIZATION", 0.7)
    return model


def pickled(model: nn.Module) -> nn.Module:
    """What a pickle of it holds."""
    found: nn.Module = pickle.loads(pickle.dumps(model))  # noqa: S301  our own
    return found


def _set(place: int) -> Callable[[nn.Sequential], None]:
    return lambda model: model.__setitem__(place, copy.deepcopy(nn.Linear(4, 5)))


def _delete(model: nn.Sequential) -> None:
    del model[1]


NOWHERE = " was replaced or removed after morph(), so its seeds act nowhere. Change the model "
SPAN = Site("0", until="2", seeds=1)


@pytest.mark.parametrize(
    ("site", "change", "message"),
    [
        (Site("0", seeds=1), _set(0), f"site '0': module '0'{NOWHERE}first, then morph it"),
        (SPAN, _set(0), f"site '0..2': module '0' or '2'{NOWHERE}first, then morph it"),
        (SPAN, _set(2), f"site '0..2': module '0' or '2'{NOWHERE}first, then morph it"),
        (
            Site("0", seeds=1),
            _delete,
            (
                "the seeds no longer stand under 'kasmina': modules of the model were removed or "
                "renamed after morph(). Change the model first, then morph it"
            ),
        ),
    ],
)
def test_modules_that_were_replaced_after_morph(
    site: Site, change: Callable[[nn.Sequential], None], message: str
) -> None:
    """Seeds there would act nowhere, and come back when folded; said before anything is built on it."""
    model = grown(site)
    change(model)
    for use in (Garden.of, fold):
        with pytest.raises(SiteError) as error:
            use(model)
        assert str(error.value) == message


def test_a_span_whose_first_module_does_not_run() -> None:
    """What its seeds read never came."""
    model = grown(SPAN)
    model[0] = nn.Linear(4, 5)
    with pytest.raises(SiteError, match=r"^site '0..2': '2' ran, but '0' had not run before it in"):
        model(torch.zeros(2, 4))


class Around(nn.Module):
    """A wrapper in the place of a module, as libraries put there."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """The inner one's."""
        found: Tensor = self.inner(x)
        return found


def test_modules_that_were_wrapped_after_morph() -> None:
    """By a module or by a function in the place of `forward`: the seeds act on."""
    model, x = grown(), torch.randn(3, 4)
    before = model(x)
    model[0] = Around(model[0])
    assert torch.equal(model(x), before)
    torch.testing.assert_close(fold(model)(x), before)
    model = grown()
    before, inner = model(x), model[0].forward
    model[0].forward = lambda x: inner(x)
    assert torch.equal(model(x), before)
    assert Garden.of(model) is model.kasmina


def test_data_parallel_is_refused() -> None:
    """Its replicas would run through the original's seeds; torch asks each module for its replica."""
    with pytest.raises(SiteError, match=r"^nn\.DataParallel makes copies of a model for one pass"):
        for module in grown().modules():
            module._replicate_for_data_parallel()  # type: ignore[no-untyped-call]


@every_host
def test_a_pickled_model(host: Host) -> None:
    """It computes the same, on weights of its own, learns, is stepped and folded."""
    model, x = built(host).eval(), host.batch()
    every_kind(Garden.of(model), "STABILIZATION", 0.7)
    twin = pickled(model)
    expected = model(x)
    assert torch.equal(twin(x), expected)
    torch.testing.assert_close(fold(twin)(x), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.1)
    put(Garden.of(twin), 0, "DORMANT")
    assert not torch.equal(twin(x), expected) and torch.equal(model(x), expected)
    backward(twin(x).sum())


def test_copies_keep_their_kernels() -> None:
    """Modules can neither be copied nor pickled; names of them can."""
    model = grown()
    site = Garden.of(model).sites["0"]
    assert isinstance(site, ParallelSite)
    site._kernels = {0: torch.functional}
    assert isinstance(torch.functional, ModuleType)
    for twin in (copy.deepcopy(model), pickled(model)):
        other = Garden.of(twin).sites["0"]
        assert other is not site and other._kernels == site._kernels


def test_a_model_in_channels_last() -> None:
    """Stacks of kernels have 5 axes, which are no pictures: the model moves, the seeds stay."""
    host = HOSTS[1]
    model = built(host).eval()
    every_kind(Garden.of(model), "STABILIZATION", 0.7)
    before = model(host.batch())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    after = model(host.batch().to(memory_format=torch.channels_last))
    torch.testing.assert_close(after, before)
    backward(after.sum())


@every_host
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_in_another_dtype(host: Host, dtype: torch.dtype) -> None:
    """Moved after `morph`: seeds follow, act, learn and fold in it."""
    model, x = built(host).to(dtype).eval(), host.batch()
    x = x.to(dtype) if x.is_floating_point() else x
    before = model(x)
    every_kind(Garden.of(model), "STABILIZATION", 0.7)
    after = model(x)
    assert after.dtype == dtype and not torch.equal(after, before)
    backward(after.float().sum())
    assert all(p.dtype == dtype for p in model.parameters())
    bound = 0.2 if dtype.itemsize == 2 else 1e-12
    torch.testing.assert_close(fold(model)(x), after, rtol=0, atol=bound)


@every_host
def test_inference_mode(host: Host) -> None:
    """What is made in it cannot be trained; so nothing of ours is: morph, steps, a pool that doubles."""
    model, x = host.build(), host.batch()
    with torch.inference_mode():
        morph(model, host.sites, example=x)
        garden = Garden.of(model)
        every_kind(garden, "FINE_TUNING", 0.7)
        site = garden.sites[next(iter(garden.sites))]
        site.pool(0)._resize(2 * site.pool(0).capacity)
        model(x)
    backward(model(x).sum())
    assert any(p.grad is not None and p.grad.any() for p in garden.parameters())


@every_host
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_transforms_of_torch_func(host: Host) -> None:
    """Asleep the sites are not there; seeds that act say that a folded model is what can be done."""
    model, x = built(host).eval(), host.batch()
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, Tensor], one: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(model, values, (one,)).sum()
        return found

    whole = torch.func.grad(loss)(weights, x)
    backward(model(x).sum())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(whole[name], parameter.grad)
    if host.name == "mlp":  # others want a batch
        each = torch.func.vmap(model)(x)
        torch.testing.assert_close(each, model(x))
    every_kind(Garden.of(model), "STABILIZATION", 0.7)
    with pytest.raises(
        SiteError, match=r"seeds that act can neither be transformed by torch\.func"
    ):
        torch.func.grad(loss)(weights, x)
    with pytest.raises(
        SiteError, match=r"nor traced by torch\.jit; do that with kasmina\.fold\(mod"
    ):
        torch.jit.trace(model, x)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("strict", [False, True], ids=["loose", "strict"])
def test_export_wants_a_folded_model(strict: bool) -> None:
    """An exported graph would hold on to a site of this process; to compile is not to export.

    Dynamo traces a strict export, and wraps an error that it meets. In torch 2.11 it takes
    `torch.compiler.is_exporting()` for true when it compiles, too.
    """
    torch._dynamo.reset()
    model, x = grown(), torch.randn(3, 4)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    expected = compiled(x)
    torch.testing.assert_close(expected, model(x))
    either: list[Any] = [model, compiled]
    for each in either:
        with pytest.raises(torch._dynamo.exc.Unsupported if strict else SiteError) as error:
            torch.export.export(each, (x,), strict=strict)
        assert (
            "site '0': a model with seeds cannot be exported, since what they do changes from "
            "step to step; export kasmina.fold(model)"
        ) in str(error.value)
    assert torch.equal(compiled(x), expected)
    program = torch.export.export(fold(model), (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), model(x))


class Cast(nn.Module):
    """A map whose output has another dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.map, self.dtype = nn.Linear(3, 3), dtype

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 3]` to `[B, 3]`."""
        found: Tensor = self.map(x).to(self.dtype)
        return found


class Flat(Cast):
    """A map that gives one number an example, without an axis of features."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 3]` to `[B]`."""
        found: Tensor = self.map(x).sum(1)
        return found


WHOLE = Site("", placement="inline", seeds=1, features=3)
MORPH: Any = morph  # called with what a type checker would refuse


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *[
            (
                lambda dtype=dtype: morph(Cast(dtype), [WHOLE], example=torch.zeros(2, 3)),
                (
                    "site '.': module '.' returned a tensor of whole numbers or complex ones; seeds "
                    "act on floating-point numbers [B, features] or [B, C, ...]. Place the site where "
                    "these pass"
                ),
            )
            for dtype in (torch.int64, torch.complex64)
        ],
        *[
            (
                lambda dtype=dtype: morph(Cast(dtype), [WHOLE])(torch.zeros(2, 3)),
                (
                    f"site '.': its output is of {dtype}; seeds compute with floating-point numbers "
                    "alone, so place the site where these pass"
                ),
            )
            for dtype in (torch.int64, torch.complex64)
        ],
        (
            lambda: morph(Flat(torch.float32), [WHOLE], example=torch.zeros(2, 3)),
            (
                "site '.': module '.' returned a tensor (2,); seeds act on floating-point numbers "
                "[B, features] or [B, C, ...]. Place the site where these pass"
            ),
        ),
        (
            lambda: morph(nn.Linear(3, 3, device="meta"), [WHOLE]),
            (
                "weight, bias: on the meta device, without values; give them a device by "
                "model.to_empty(device=...) and values, then morph it"
            ),
        ),
        (
            lambda: morph(nn.Linear(3, 3), [WHOLE]).to("meta"),
            (
                "a model with seeds cannot be moved to the meta device, where nothing has a value; "
                "move kasmina.fold(model) there"
            ),
        ),
        (
            lambda: morph(nn.Linear(3, 3), [WHOLE], example=torch.zeros(2, 4)),
            (
                "the model cannot run its example: RuntimeError: mat1 and mat2 shapes cannot be "
                "multiplied (2x4 and 3x3). Give one batch as the model takes it: a tensor, a tuple of "
                "arguments or a mapping of keywords"
            ),
        ),
        (
            lambda: morph(nn.LazyBatchNorm1d(affine=False), [WHOLE]),
            (
                "running_mean, running_var has no shape yet; run one batch through the model, then "
                "morph it"
            ),
        ),
        (lambda: MORPH(nn.Linear(3, 3), [WHOLE], run=5), "run=5; legal: a name without a slash"),
        (lambda: MORPH(nn.Linear(3, 3), [WHOLE], seed="a"), "seed='a'; legal: a whole number"),
        (lambda: MORPH(nn.Linear(3, 3), [WHOLE], seed=True), "seed=True; legal: a whole number"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_refusals(call: Callable[[], object], message: str) -> None:
    """By site, with what was seen, what is legal and what to do."""
    with pytest.raises(KasminaError) as error:
        call()
    assert str(error.value) == message
