"""What growth needs of an optimizer: rows of a pool that live and die under one running optimizer.

A pool's parameters are stacked, `[capacity, ...]`, and the optimizer knows the stack only. Rows
of seeds that may not train now must not move (weight decay and momentum would move them although
their gradient is zero), a row that is allocated or freed must forget its moments, and a row that
joins a running Adam late must get the bias correction of its own age, not of the stack's: with
the stack's its first update is 1/(1 - beta1) / sqrt(1/(1 - beta2)) = 3.2 times too long.

Sources: Kingma & Ba 2015, algorithm 1 (bias correction); Loshchilov & Hutter 2019 (decoupled decay).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.errors import KasminaError

Rows = Callable[[], Tensor]  # bool [capacity]: the rows that train now
ADAMS = (torch.optim.Adam, torch.optim.AdamW)


class StaleOptimizer(KasminaError):
    """The optimizer does not hold parameters that growth has added."""


def check_holds(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise `StaleOptimizer` where `optimizer` misses one of `parameters` (by identity).

    Raises `KasminaError` for LBFGS, which evaluates the loss many times within one step.
    """
    if isinstance(optimizer, torch.optim.LBFGS):
        raise KasminaError(
            "LBFGS evaluates a closure many times within one step, in which seeds cannot ramp or "
            "train aside; use an optimizer with one gradient a step, such as Adam or SGD"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, parameter in parameters.items() if id(parameter) not in held]
    if missing:
        raise StaleOptimizer(
            f"the optimizer does not hold {len(missing)} parameter(s) of the grown model, so they "
            f"would never train: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; "
            "build the optimizer from model.parameters() after kasmina.morph(model)"
        )


class RowGuard:
    """Keeps the rows of one pool apart under `optimizer`.

    Args:
        optimizer: any optimizer whose per-parameter state has the parameter's shape.
        parameters: the pool's stacked parameters, each `[capacity, ...]`.
        training: returns bool `[capacity]`, the rows that the task's loss trains now.

    The guard works through the optimizer's own step hooks, so schedulers, gradient scalers and
    clipping go on as they are.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], training: Rows
    ) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._training = training
        self._age = torch.zeros(parameters[0].shape[0], dtype=torch.int64)
        self._before: list[tuple[nn.Parameter, Tensor]] = []
        self._handles = (
            optimizer.register_step_pre_hook(lambda *_: self._remember()),
            optimizer.register_step_post_hook(lambda *_: self._restore()),
        )

    def close(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def state_dict(self) -> dict[str, Tensor]:
        """The age of every row in optimizer steps, int64 `[capacity]`."""
        return {"age": self._age.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave, after the optimizer's own; pads to the capacity now."""
        self._age = state["age"].clone()
        for parameter in self._parameters:
            self.grow(parameter, len(state["age"]), len(parameter))

    def forget(self, row: int) -> None:
        """Zero the row's moments in place: it was just allocated or freed."""
        self._age[row] = 0
        for _, moments in self._moments():
            for moment in moments.values():
                moment[row] = 0

    def grow(self, parameter: nn.Parameter, old_capacity: int, capacity: int) -> None:
        """Pad the moments of a parameter that has just got more rows (its shape is the new one)."""
        if capacity == old_capacity:
            return
        state = self._optimizer.state.get(parameter, {})
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape[:1] == (old_capacity,):
                padded = value.new_zeros((capacity, *value.shape[1:]))
                padded[:old_capacity] = value
                state[name] = padded
        if len(self._age) < capacity:
            self._age = torch.cat([self._age, self._age.new_zeros(capacity - len(self._age))])

    def _moments(self) -> Iterator[tuple[nn.Parameter, dict[str, Tensor]]]:
        for parameter in self._parameters:
            state: Mapping[str, Any] = self._optimizer.state.get(parameter, {})
            yield (
                parameter,
                {
                    name: value
                    for name, value in state.items()
                    if isinstance(value, Tensor) and value.shape == parameter.shape
                },
            )

    def _remember(self) -> None:
        self._before = [(p, p.detach().clone()) for p in self._parameters if p.grad is not None]

    @torch.no_grad()
    def _restore(self) -> None:
        """Give each row its own share of the step: 0 keeps it, 1 takes it as it is."""
        if not self._before:
            return
        training = self._training()
        self._age[training.cpu()] += 1
        for parameter, before in self._before:
            group, steps = self._group(parameter), self._steps(parameter)
            share = training.to(parameter)
            if steps is not None:
                share *= _own_bias(self._age.to(parameter), steps, *group["betas"])
            column = (-1, *[1] * (parameter.dim() - 1))
            if self._decays(group):  # in the step as well, and no part of the update
                before = before * (1 - group["lr"] * group["weight_decay"] * training.view(column))
            parameter.copy_(torch.lerp(before, parameter, share.view(column)))
        self._before = []

    def _group(self, parameter: nn.Parameter) -> Mapping[str, Any]:
        groups = self._optimizer.param_groups
        return next(g for g in groups if any(held is parameter for held in g["params"]))

    def _steps(self, parameter: nn.Parameter) -> float | None:
        """The stack's age in steps of Adam, where a row's own can differ from it."""
        state = self._optimizer.state.get(parameter, {})
        if not isinstance(self._optimizer, ADAMS) or "step" not in state:
            return None
        steps = float(state["step"])
        return steps if bool((self._age < steps).any()) else None

    def _decays(self, group: Mapping[str, Any]) -> bool:
        decoupled = isinstance(self._optimizer, torch.optim.AdamW)
        return bool(group.get("decoupled_weight_decay", decoupled) and group["weight_decay"])


def _own_bias(age: Tensor, steps: float, beta1: float, beta2: float) -> Tensor:
    """What turns Adam's update by the stack's age `steps` into the one by each row's own, `[rows]`.

    Kingma & Ba 2015, algorithm 1, where epsilon is small beside the root of the second moment.
    """
    age = age.clamp(1, steps).double()
    first = (1 - beta1**steps) / (1 - beta1**age)
    second = (1 - beta2**age) / (1 - beta2**steps)
    factor: Tensor = first * second.sqrt()
    return factor
