"""Rows of a pool under one running optimizer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from kasmina.errors import KasminaError
from kasmina.growth.optimizer import RowGuard, StaleOptimizer, check_holds

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adam with decay": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
}


def _stack(rows: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, 3, generator=torch.Generator().manual_seed(1)))


def _walk(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, steps: int) -> None:
    for step in range(steps):
        parameter.grad = torch.sin(parameter.detach() * 3 + step)
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_rows_that_do_not_train_stay_where_they_are(make: Make) -> None:
    """Neither decay nor momentum moves them in 100 steps; the others do move."""
    stack = _stack(4)
    before = stack.detach().clone()
    training = torch.tensor([True, False, True, False])
    optimizer = make([stack])
    RowGuard(optimizer, [stack], lambda: training)
    _walk(optimizer, stack, 100)
    assert torch.equal(stack[~training], before[~training])
    assert bool((stack[training] != before[training]).all())


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_late_row_trains_as_under_an_optimizer_of_its_own(make: Make) -> None:
    """After 500 steps a row is allocated; from then on it equals a run of it alone."""
    stack, training = _stack(2), torch.tensor([True, False])
    optimizer = make([stack])
    guard = RowGuard(optimizer, [stack], lambda: training)
    _walk(optimizer, stack, 500)
    guard.forget(1)
    training[1] = True
    alone = nn.Parameter(stack.detach()[1:].clone())
    own = make([alone])
    for step in range(50):
        stack.grad = torch.sin(stack.detach() * 3 + step)
        alone.grad = torch.sin(alone.detach() * 3 + step)
        optimizer.step()
        own.step()
        torch.testing.assert_close(stack[1:], alone, rtol=2e-4, atol=2e-6)


def test_without_the_guard_a_late_row_of_adam_goes_astray() -> None:
    """The comparison above can fail: by the stack's age of 500 the first step is twice too long."""
    stack = _stack(2)
    optimizer = torch.optim.Adam([stack], lr=1e-2)
    _walk(optimizer, stack, 500)
    for moment in ("exp_avg", "exp_avg_sq"):
        optimizer.state[stack][moment][1] = 0
    before = stack.detach()[1].clone()
    stack.grad = torch.ones_like(stack)
    optimizer.step()
    moved = float((stack.detach()[1] - before).abs().max())
    assert 0.019 < moved < 0.021


def test_forget_zeroes_the_moments_of_one_row() -> None:
    """The other rows keep theirs, and the optimizer its step."""
    stack = _stack(2)
    optimizer = torch.optim.Adam([stack], lr=1e-2)
    guard = RowGuard(optimizer, [stack], lambda: torch.tensor([True, True]))
    _walk(optimizer, stack, 5)
    kept = optimizer.state[stack]["exp_avg"][0].clone()
    guard.forget(1)
    state = optimizer.state[stack]
    assert torch.equal(state["exp_avg"][0], kept)
    assert not state["exp_avg"][1].any()
    assert not state["exp_avg_sq"][1].any()
    assert float(state["step"]) == 5


def test_a_grown_stack_keeps_its_moments() -> None:
    """Moments are padded with zeros, the old rows go on as if nothing had happened."""
    stack, twin = _stack(2), _stack(2)
    optimizer, reference = (torch.optim.Adam([p], lr=1e-2) for p in (stack, twin))
    training = torch.ones(4, dtype=torch.bool)
    guard = RowGuard(optimizer, [stack], lambda: training[: len(stack)])
    _walk(optimizer, stack, 5)
    _walk(reference, twin, 5)
    stack.grad = None
    stack.data = torch.cat([stack.data, torch.zeros(2, 3)])
    guard.grow(stack, 2, 4)
    assert optimizer.state[stack]["exp_avg"].shape == (4, 3)
    _walk(optimizer, stack, 5)
    _walk(reference, twin, 5)
    assert torch.equal(stack[:2], twin)


def test_state_of_a_smaller_stack_loads() -> None:
    """After a rewind across a doubling the age and the moments have the capacity of now."""
    stack = _stack(2)
    optimizer = torch.optim.Adam([stack], lr=1e-2)
    guard = RowGuard(optimizer, [stack], lambda: torch.ones(len(stack), dtype=torch.bool))
    _walk(optimizer, stack, 3)
    ages = guard.state_dict()
    stack.grad = None
    stack.data = torch.cat([stack.data, torch.zeros(2, 3)])
    guard.load_state_dict(ages)
    assert guard.state_dict()["age"].tolist() == [3, 3, 0, 0]
    assert optimizer.state[stack]["exp_avg_sq"].shape == (4, 3)


def test_closing_the_guard_gives_the_optimizer_back() -> None:
    """No hook stays behind."""
    stack = _stack(1)
    optimizer = torch.optim.SGD([stack], lr=1.0)
    RowGuard(optimizer, [stack], lambda: torch.tensor([False])).close()
    before = stack.detach().clone()
    stack.grad = torch.ones_like(stack)
    optimizer.step()
    assert torch.equal(stack, before - 1)


def test_an_optimizer_without_the_grown_parameters_is_refused() -> None:
    """The message names what is missing and how to mend it."""
    held, missed = _stack(1), _stack(1)
    optimizer = torch.optim.SGD([held], lr=1.0)
    check_holds(optimizer, {"held": held})
    with pytest.raises(StaleOptimizer) as caught:
        check_holds(optimizer, {"held": held, "kasmina.pool.weight": missed})
    assert str(caught.value) == (
        "the optimizer does not hold 1 parameter(s) of the grown model, so they would never "
        "train: kasmina.pool.weight; build the optimizer from model.parameters() after "
        "kasmina.morph(model)"
    )


def test_lbfgs_is_refused_with_the_reason() -> None:
    """It would evaluate the loss many times while a seed ramps."""
    stack = _stack(1)
    with pytest.raises(KasminaError, match=r"LBFGS evaluates a closure many times .* Adam or SGD"):
        check_holds(torch.optim.LBFGS([stack]), {"stack": stack})
