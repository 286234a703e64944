"""The formulas by which a blueprint enters the host, against plain ones and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kasmina.kernels.mixing import add, blend, guard

SEEDS, EXAMPLES, WIDTH = 3, 4, 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Random float64, for finite differences."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Chunks, blueprints' outputs and alphas that all want a gradient."""
    x, b = normal(SEEDS, EXAMPLES, WIDTH), normal(SEEDS, EXAMPLES, WIDTH, seed=1)
    alpha = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    return x.requires_grad_(), b.requires_grad_(), alpha.requires_grad_()


@pytest.mark.parametrize("replace", [False, True])
def test_blend_against_its_formula(replace: bool) -> None:
    """Value and all gradients, dL/dalpha too."""
    x, b, alpha = inputs()
    a = alpha.view(-1, 1, 1)
    mixed, counts = blend(x, b, alpha, replace)
    assert torch.allclose(mixed, (1 - a) * x + a * b if replace else x + a * b)
    assert counts.tolist() == [0, 0, 0]
    assert torch.autograd.gradcheck(
        lambda x, b, alpha: blend(x, b, alpha, replace)[0], (x, b, alpha)
    )


def test_add_against_its_formula() -> None:
    """The seeds' outputs are summed, each with its own alpha."""
    _, b, alpha = inputs()
    y = normal(EXAMPLES, WIDTH, seed=2).requires_grad_()
    total, counts = add(y, b, alpha)
    assert torch.allclose(total, y + (alpha.view(-1, 1, 1) * b).sum(0))
    assert counts.tolist() == [0, 0, 0]
    assert torch.autograd.gradcheck(lambda *given: add(*given)[0], (y, b, alpha))


@pytest.mark.parametrize("replace", [False, True])
def test_ends_of_the_ramp_are_exact(replace: bool) -> None:
    """Alpha 0 gives the host's bits, also of -0.0 and infinities; alpha 1 of replace gives B's."""
    x = torch.tensor([[[1.1, -0.0, torch.inf]]])
    b = torch.tensor([[[0.3, 5.0, 0.7]]])
    zero, _ = blend(x, b, torch.zeros(1), replace)
    assert torch.equal(zero.view(torch.int32), x.view(torch.int32))
    if replace:
        one, _ = blend(x, b, torch.ones(1), replace)
        assert torch.equal(one, b)
    y, _ = add(x[0], b, torch.zeros(1))
    assert torch.equal(y.view(torch.int32), x[0].view(torch.int32))


def test_alpha_0_still_tells_its_gradient() -> None:
    """A seed at the very start of its ramp says what raising alpha would do."""
    x, b = normal(1, 2, 3), normal(1, 2, 3, seed=1)
    alpha = torch.zeros(1, requires_grad=True)
    weight = normal(1, 2, 3, seed=2)
    (gradient,) = torch.autograd.grad((blend(x, b, alpha, False)[0] * weight).sum(), alpha)
    assert gradient.item() == pytest.approx((weight * b).sum().item())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("replace", [False, True])
def test_what_is_not_finite_is_the_identity(value: float, replace: bool) -> None:
    """The element passes as the host had it, is counted, and no gradient enters B there."""
    x, b, alpha = inputs()
    broken = b.detach().clone()
    broken[1, 2, 0] = value
    broken.requires_grad_()
    mixed, counts = blend(x, broken, alpha, replace)
    assert counts.tolist() == [0, 1, 0]
    assert mixed[1, 2, 0] == x[1, 2, 0]
    to_x, to_b, to_alpha = torch.autograd.grad(mixed.sum(), (x, broken, alpha))
    assert to_x[1, 2, 0] == 1 and to_b[1, 2, 0] == 0
    assert all(bool(g.isfinite().all()) for g in (to_x, to_b, to_alpha))
    y = normal(EXAMPLES, WIDTH).requires_grad_()
    total, counts = add(y, broken, alpha)
    expected = y + (alpha.view(-1, 1, 1) * broken.nan_to_num(0, 0, 0)).sum(0)
    assert torch.allclose(total, expected) and counts.tolist() == [0, 1, 0]


def test_guard_stops_what_is_not_finite() -> None:
    """The value passes; of the gradient only what is finite."""
    x = torch.ones(3, requires_grad=True)
    weight = torch.tensor([2.0, torch.nan, -torch.inf])
    assert torch.equal(guard(x), x)
    (gradient,) = torch.autograd.grad((guard(x) * weight).sum(), x)
    assert gradient.tolist() == [2, 0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_hosts_dtype_stays(dtype: torch.dtype) -> None:
    """A blueprint in float32 does not widen a half-precision host."""
    x, b = torch.ones(1, 2, 3, dtype=dtype), torch.ones(1, 2, 3)
    assert blend(x, b, torch.full((1,), 0.5), False)[0].dtype == dtype
    assert add(x[0], b, torch.full((1,), 0.5))[0].dtype == dtype


def test_a_difference_that_float16_cannot_hold_is_none() -> None:
    """Both of its ends are finite, so values and dL/dalpha are, as a kernel's are."""
    x = torch.full((1, 2, 3), -6e4, dtype=torch.float16)
    b, alpha = -x, torch.full((1,), 0.5, requires_grad=True)
    mixed, counts = blend(x, b, alpha, True)
    (to_alpha,) = torch.autograd.grad(mixed.float().sum(), alpha)
    assert mixed.eq(0).all()
    assert counts.tolist() == [0]
    assert float(to_alpha) == float(6 * 2 * b.float()[0, 0, 0])
