"""Parallel seeds as one layer, against each by itself, finite differences and what is not finite."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kasmina.blueprints import SiteShape, blueprint_kind
from kasmina.kernels.mixing import add, guard
from kasmina.kernels.together import Units
from kasmina.kernels.together import add as add_together

SEEDS, EXAMPLES, D_IN, D_OUT, HIDDEN = 3, 5, 4, 2, 3
KINDS = {
    "mlp": {},
    "gelu": {"activation": "gelu"},
    "silu": {"activation": "silu"},
    "low_rank": {},
    "gated": {},
}
Case = tuple[Tensor, Tensor, Tensor, Units, dict[str, Tensor], Callable[..., Tensor]]
every_kind = pytest.mark.parametrize("name", KINDS)


def case(name: str, dtype: torch.dtype = torch.float64) -> Case:
    """Output, input, alphas, units, parameters and the kind's own formula."""
    kind = blueprint_kind(name if name in {"low_rank", "gated"} else "mlp")(
        SiteShape("parallel", D_IN, D_OUT), HIDDEN, **KINDS[name]
    )
    units = kind.together()
    assert units is not None
    draw = torch.Generator().manual_seed(1)
    params = {
        n: torch.randn((SEEDS, *shape), generator=draw, dtype=torch.float64).to(dtype)
        for n, shape in kind.shapes().items()
    }
    y, x = (
        torch.randn((EXAMPLES, width), generator=draw, dtype=torch.float64).to(dtype)
        for width in (D_OUT, D_IN)
    )
    alpha = torch.tensor([0.25, 1.0, 0.5], dtype=torch.float64)
    return y, x, alpha, units, params, kind.forward


def gradients(result: tuple[Tensor, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a loss whose slope differs from place to place, by name."""
    out, _ = result
    slope = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    found = torch.autograd.grad(out, list(wanted.values()), slope)
    return dict(zip(wanted, found, strict=True))


@every_kind
def test_as_each_by_itself(name: str) -> None:
    """The value, the counts and every gradient by its name."""
    y, x, alpha, units, params, formula = case(name)
    leaves = {"y": y, "x": x, "alpha": alpha, **params}
    for leaf in leaves.values():
        leaf.requires_grad_()
    ours = add_together(y, x, alpha, units, params)
    theirs = add(y, formula(params, x), alpha)
    assert torch.allclose(ours[0], theirs[0], rtol=1e-12)
    assert ours[1].tolist() == theirs[1].tolist() == [0] * SEEDS
    expected = gradients(theirs, leaves)
    for what, gradient in gradients(ours, leaves).items():
        assert torch.allclose(gradient, expected[what], rtol=1e-10), what


@every_kind
def test_gradients_by_finite_differences(name: str) -> None:
    """All inputs, dL/dalpha too, by torch's gradcheck."""
    y, x, alpha, units, params, _ = case(name)
    inputs = [t.requires_grad_() for t in (y, x, alpha, *params.values())]

    def run(y: Tensor, x: Tensor, alpha: Tensor, *rest: Tensor) -> Tensor:
        return add_together(y, x, alpha, units, dict(zip(params, rest, strict=True)))[0]

    assert torch.autograd.gradcheck(run, inputs)


def test_alpha_0_gives_the_hosts_bits_and_its_gradient() -> None:
    """Also of -0.0 and infinities; the slope of alpha is told."""
    y, x, alpha, units, params, _ = case("mlp", torch.float32)
    y[0, 0], y[0, 1] = -0.0, torch.inf
    alpha = torch.zeros(SEEDS, requires_grad=True)
    out, _ = add_together(y, x, alpha, units, params)
    assert torch.equal(out.view(torch.int32), y.view(torch.int32))
    (gradient,) = torch.autograd.grad(out[1:].sum(), alpha)
    assert gradient.all()


def spoil(name: str, params: dict[str, Tensor], x: Tensor) -> None:
    """Plant one fault."""
    weight = next(iter(params.values()))
    if name == "a NaN in the last map":
        params["out_weight"][1, 0, 0] = torch.nan
    elif name == "an infinite map":
        weight[1, 0, 1] = torch.inf
    elif name == "an overflow":
        params["out_weight"][1], weight[1] = 3e300, 1e200
    else:
        x[2, 1] = torch.nan


FAULTS = ("a NaN in the last map", "an infinite map", "an overflow", "a NaN in the input")


@pytest.mark.parametrize("fault", FAULTS)
@every_kind
def test_what_is_not_finite_is_dropped_alone(name: str, fault: str) -> None:
    """Values and counts as each by itself; the other seeds' gradients as if it were not there."""
    y, x, alpha, units, params, formula = case(name)
    spoil(fault, params, x)
    ours, counts = add_together(y, x, alpha, units, params)
    theirs, expected = add(y, formula(params, x), alpha)
    assert torch.allclose(ours, theirs) and ours.isfinite().all()
    assert counts.tolist() == expected.tolist() and counts.sum() > 0
    leaves = {"x": x, "alpha": alpha, **params}
    for leaf in leaves.values():
        leaf.requires_grad_()
    found = gradients(add_together(y, x, alpha, units, params), leaves)
    assert all(bool(g.isfinite().all()) for g in found.values())
    if fault == "a NaN in the last map":
        healthy = {n: p.detach()[[0, 2]].requires_grad_() for n, p in params.items()}
        rest = gradients(add_together(y, x, alpha[[0, 2]], units, healthy), healthy)
        for what, gradient in rest.items():
            assert torch.allclose(found[what][[0, 2]], gradient), what


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_hosts_dtype_rules(dtype: torch.dtype) -> None:
    """Parameters and input in float32 beside a half-precision output, whatever autocast says."""
    y, x, alpha, units, params, formula = case("gated", torch.float32)
    half = y.to(dtype)
    for leaf in (x, *params.values()):
        leaf.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = add_together(half, x, alpha, units, params)
    wanted, _ = add(y, formula(params, guard(x)), alpha)
    assert out.dtype == dtype and torch.allclose(out.float(), wanted, rtol=0.03, atol=0.03)
    found = torch.autograd.grad(out.sum(), [x, *params.values()])
    assert all(g.dtype == torch.float32 for g in found)


def test_float16_overflows_at_its_own_end() -> None:
    """What a float16 cannot hold is counted, though alpha would bring it back into range."""
    y, x, _, units, params, formula = case("low_rank", torch.float16)
    params["out_weight"][1] = 3e4
    alpha = torch.full((SEEDS,), 1e-3)
    out, counts = add_together(y, x, alpha, units, params)
    theirs, expected = add(y, formula(params, x), alpha)
    assert counts.tolist() == expected.tolist() and counts[1] > 0
    assert torch.allclose(out, theirs, atol=0.05)


def test_an_empty_batch() -> None:
    """Nothing in, nothing out, and gradients of zero."""
    y, x, alpha, units, params, _ = case("mlp")
    params = {n: p.requires_grad_() for n, p in params.items()}
    out, counts = add_together(y[:0], x[:0], alpha, units, params)
    assert out.shape == (0, D_OUT) and counts.tolist() == [0] * SEEDS
    assert not any(g.any() for g in gradients((out, counts), params).values())


def test_only_kinds_that_it_can_compute() -> None:
    """Inline seeds, channel-first sites and classes with a formula of their own stay out."""
    mlp = blueprint_kind("mlp")
    assert mlp(SiteShape("inline", 4, 4), 3).together() is None
    assert mlp(SiteShape("parallel", 4, 4, channels_first=True), 3).together() is None
    assert blueprint_kind("affine")(SiteShape("parallel", 4, 4), 3).together() is None

    class Twice(mlp):  # type: ignore[misc, valid-type]
        def apply(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
            once: Tensor = super().apply(params, x)
            return 2 * once

    assert Twice(SiteShape("parallel", 4, 4), 3).together() is None
