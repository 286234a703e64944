"""Rows of a pool under one running optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from kasmina.errors import KasminaError
from kasmina.growth.optimizer import StaleOptimizer, check_holds
from kasmina.growth.rows import RowGuard

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adam with decay": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
    "adam amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1),
    "sgd damped": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, dampening=0.5),
    "sgd plain": lambda p: torch.optim.SGD(p, lr=1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2, weight_decay=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=1e-2),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(
        p, lr=1e-2, lr_decay=0.01, initial_accumulator_value=0.1
    ),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1e-1, weight_decay=0.1),
    "asgd": lambda p: torch.optim.ASGD(p, lr=1e-2, lambd=0.1, t0=20.0),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
    "a user's own": lambda p: Signed(p, lr=1e-2),
}


class Signed(torch.optim.Optimizer):
    """Moves by the sign of a momentum, less the older it is: a state of the parameter's shape."""

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["mean"], state["calls"] = torch.zeros_like(parameter), 0
                if parameter.grad is None:
                    continue
                state["calls"] += 1
                state["mean"].mul_(0.9).add_(parameter.grad)
                parameter.sub_(group["lr"] / state["calls"] ** 0.5 * state["mean"].sign())


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


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_row_that_was_held_up_goes_on_as_it_was(make: Make) -> None:
    """Its moments wait with it: after 60 steps at rest it equals a run that knows nothing of them."""
    stack, training = _stack(3), torch.tensor([True, True, False])
    optimizer = make([stack])
    RowGuard(optimizer, [stack], lambda: training)
    alone = nn.Parameter(stack.detach()[1:2].clone())
    own = make([alone])
    for step in range(100):
        training[1] = not 20 <= step < 80
        stack.grad = torch.sin(stack.detach() * 3 + step)
        optimizer.step()
        if training[1]:
            alone.grad = torch.sin(alone.detach() * 3 + step)
            own.step()
        torch.testing.assert_close(stack[1:2], alone, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_guard_goes_on_after_a_resume(make: Make) -> None:
    """Rows of three ages, optimizer and guard saved and loaded in the middle: equal to the bit."""
    stacks, training = [_stack(3), _stack(3)], torch.tensor([True, False, False])
    optimizers = [make([stack]) for stack in stacks]
    guards = [
        RowGuard(optimizer, [stack], lambda: training)
        for optimizer, stack in zip(optimizers, stacks, strict=True)
    ]
    for row in (1, 2):
        for optimizer, stack, guard in zip(optimizers, stacks, guards, strict=True):
            _walk(optimizer, stack, 7)
            guard.forget(row)
        training[row] = True
    _walk(optimizers[0], stacks[0], 4)
    saved = copy.deepcopy(optimizers[0].state_dict()), guards[0].state_dict()
    with torch.no_grad():
        stacks[1].copy_(stacks[0])
    _walk(optimizers[1], stacks[1], 2)
    with torch.no_grad():
        stacks[1].copy_(stacks[0])
    optimizers[1].load_state_dict(saved[0])
    guards[1].load_state_dict(saved[1])
    for optimizer, stack in zip(optimizers, stacks, strict=True):
        _walk(optimizer, stack, 6)
    assert torch.equal(stacks[0], stacks[1])


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_free_rows_have_empty_moments(make: Make) -> None:
    """Freeing zeroes a row's moments in place (Adagrad's sum gets its start value again)."""
    stack, training = _stack(3), torch.tensor([True, True, False])
    optimizer = make([stack])
    guard = RowGuard(optimizer, [stack], lambda: training)
    _walk(optimizer, stack, 5)
    moments = {n: v for n, v in optimizer.state[stack].items() if v is not None}
    moments = {n: v for n, v in moments.items() if getattr(v, "shape", None) == stack.shape}
    assert all(moment[1].any() for n, moment in moments.items() if n not in ("ax", "prev"))
    guard.forget(1)
    for name, moment in moments.items():
        start = 0.1 if name == "sum" else 0.0
        assert (moment[1:] == start).all(), name
        assert optimizer.state[stack][name] is moment


def test_a_scheduler_goes_on() -> None:
    """What a scheduler has wrapped and counted is left as it is, also where rows step again."""
    stack, training = _stack(2), torch.tensor([True, False])
    optimizer = torch.optim.NAdam([stack], lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    guard = RowGuard(optimizer, [stack], lambda: training)
    for step in range(6):
        if step == 3:
            guard.forget(1)
            training[1] = True
        _walk(optimizer, stack, 1)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * 0.9**6)
    assert float(optimizer.state[stack]["step"]) == 6


def test_a_state_of_another_shape_is_refused() -> None:
    """In it the rows of a pool cannot be told apart; the message says what is kept of what."""
    stack = _stack(2)
    optimizer = Signed([stack], lr=1e-2)
    optimizer.state[stack] = {"rows": torch.zeros(2)}
    guard = RowGuard(optimizer, [stack], lambda: torch.tensor([True, False]))
    with pytest.raises(KasminaError) as caught:
        guard.forget(1)
    assert str(caught.value) == (
        "Signed keeps 'rows' of shape (2,) for a parameter of shape (2, 3), in which the seeds of "
        "a pool cannot be told apart; use an optimizer whose state has the parameter's shape, such "
        "as AdamW"
    )


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
    take_over = guard.grow(stack, 2, 4)
    assert optimizer.state[stack]["exp_avg"].shape == (2, 3)
    stack.data = torch.cat([stack.data, torch.zeros(2, 3)])
    take_over()
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


def test_nobody_looks_at_steps_while_no_row_is_held() -> None:
    """A guard that is told who holds rows comes with the first one and leaves with the last."""
    stack, used = nn.Parameter(torch.zeros(2, 3)), torch.tensor([False, False])
    optimizer = torch.optim.AdamW([stack], lr=1e-2)
    guard = RowGuard(optimizer, [stack], lambda: used, lambda: used)
    looked = []
    for held, number in ((False, 0), (True, 1), (True, 1), (False, 0)):
        used[1] = held
        guard.forget(1)
        looked.append(len(optimizer._optimizer_step_pre_hooks) == number)
        looked.append(len(optimizer._optimizer_step_post_hooks) == number)
    used[0] = True
    guard.load_state_dict(guard.state_dict())
    assert all(looked) and len(optimizer._optimizer_step_pre_hooks) == 1


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_guard_that_is_told_of_plans_does_the_same(make: Make) -> None:
    """Rows and ages are those of a guard that looks at its masks before each step."""
    training, used = torch.tensor([True, False, False]), torch.tensor([True, False, False])
    plans = [object()]
    stacks = [nn.Parameter(_stack(3).detach() * used.unsqueeze(1)) for _ in range(2)]
    optimizers = [make([stack]) for stack in stacks]
    masks = (lambda: training, lambda: used)
    guards = [
        RowGuard(optimizers[0], [stacks[0]], *masks),
        RowGuard(optimizers[1], [stacks[1]], *masks, lambda: plans[-1]),
    ]

    def walk() -> None:
        for optimizer, stack in zip(optimizers, stacks, strict=True):
            _walk(optimizer, stack, 4)
            stack.grad = None
            optimizer.step()
        one, other = (guard.state_dict() for guard in guards)
        assert torch.equal(*stacks) and one["steps"] == other["steps"]
        assert torch.equal(one["age"], other["age"])

    walk()
    used[1] = True
    for guard in guards:
        guard.forget(1)
    walk()
    for trains in ([True, True, False], [False, True, False], [True, True, False]):
        training.copy_(torch.tensor(trains))
        plans.append(object())
        walk()
        walk()


def test_an_optimizer_without_the_grown_parameters_is_refused() -> None:
    """The message names what is missing and how to mend it."""
    held, missed, frozen = _stack(1), _stack(1), nn.Parameter(torch.zeros(1), requires_grad=False)
    optimizer = torch.optim.SGD([held], lr=1.0)
    check_holds(optimizer, {"held": held})
    with pytest.raises(StaleOptimizer) as caught:
        check_holds(optimizer, {"held": held, "kasmina.pool.weight": missed})
    assert str(caught.value) == (
        "the optimizer does not hold 1 parameter(s) of the grown model, so they would never "
        "train: kasmina.pool.weight; build the optimizer from model.parameters() after "
        "kasmina.morph(model), or let kasmina.growth.migrate(optimizer, before, model) add them"
    )
    check_holds(optimizer, {"held": held, "frozen": frozen})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (torch.optim.LBFGS, r"^LBFGS evaluates a closure many times .* such as Adam or SGD$"),
        (torch.optim.Adafactor, r"^Adafactor shares its second moments .* such as AdamW$"),
        (torch.optim.Muon, r"^Muon turns a parameter as a whole, .* the rest and the seeds$"),
    ],
)
def test_optimizers_that_mix_seeds_are_refused(make: Make, reason: str) -> None:
    """With the reason and what to use in their place; a class derived from one too."""
    stack = _stack(2)
    derived = type("Mine", (make,), {})  # type: ignore[arg-type]
    for kind in (make, derived):
        with pytest.raises(KasminaError, match=reason):
            check_holds(kind([stack]), {"stack": stack})
