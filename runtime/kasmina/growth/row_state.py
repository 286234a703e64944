"""What an optimizer keeps of a pool's stacked parameters, and how it steps some rows by themselves."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kasmina.errors import KasminaError
from kasmina.growth.optimizer import first_state, initial, is_moment

ADAMS = (torch.optim.Adam, torch.optim.AdamW)
# Their step does not depend on how many there were before it.
AGELESS = (torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adadelta)


class Values(NamedTuple):
    """Rows of one parameter with the optimizer's state of them."""

    values: Tensor
    moments: Mapping[str, Tensor]
    numbers: Mapping[str, Any] = {}


class RowState:
    """One optimizer's state of parameters whose rows are different seeds.

    Args:
        optimizer: any whose per-parameter state is numbers and tensors of the parameter's shape.

    Attributes:
        is_adam: whether its step of a row by its own age has a closed form.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.is_adam = isinstance(optimizer, ADAMS)

    def of(self, parameter: nn.Parameter) -> dict[str, Any]:
        """All that is kept of a parameter; nothing before its first step."""
        state: dict[str, Any] = self._optimizer.state.get(parameter, {})
        return state

    def moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Of that, what belongs to the parameter element by element.

        Raises:
            KasminaError: it keeps something of another shape.
        """
        state = self.of(parameter)
        for name, value in state.items():
            if isinstance(value, Tensor) and value.numel() > 1 and value.shape != parameter.shape:
                raise KasminaError(
                    f"{type(self._optimizer).__name__} keeps '{name}' of shape "
                    f"{tuple(value.shape)} for a parameter of shape {tuple(parameter.shape)}, in "
                    "which the seeds of a pool cannot be told apart; use an optimizer whose state "
                    "has the parameter's shape, such as AdamW"
                )
        return {name: value for name, value in state.items() if is_moment(value, parameter)}

    def numbers(self, parameter: nn.Parameter) -> dict[str, Any]:
        """And the rest, copied."""
        state = self.of(parameter).items()
        return copied({name: value for name, value in state if not is_moment(value, parameter)})

    def start(self, parameter: nn.Parameter, moment: str) -> float:
        """What a moment is before the first step."""
        return initial(self.group(parameter), moment)

    def group(self, parameter: nn.Parameter) -> Mapping[str, Any]:
        """The options by which a parameter is stepped."""
        groups = self._optimizer.param_groups
        return next(g for g in groups if any(held is parameter for held in g["params"]))

    def is_ageless(self, parameter: nn.Parameter) -> bool:
        """Whether its step does not depend on how many there were before."""
        damped = self.group(parameter).get("dampening", 0)  # all but the first step
        return isinstance(self._optimizer, AGELESS) and not damped

    def decay(self, parameter: nn.Parameter) -> float:
        """By what a step multiplies a value before its update, where the decay is decoupled."""
        group, decoupled = self.group(parameter), isinstance(self._optimizer, torch.optim.AdamW)
        decays = group.get("decoupled_weight_decay", decoupled) and group["weight_decay"]
        return 1 - group["lr"] * group["weight_decay"] if decays else 1

    def stepped(
        self,
        parameter: nn.Parameter,
        gradient: Tensor,
        kept: Values,
        numbers: Mapping[str, Any] | None,
    ) -> Values:
        """Rows of a parameter, with their state, after a step that they make by themselves.

        Args:
            parameter: whose options count.
            gradient: of the rows; it is written.
            kept: the rows and their moments before the step.
            numbers: what else was kept of them; None for rows that make their first step.
        """
        own, group = nn.Parameter(kept.values), self.group(parameter)
        own.grad = gradient
        single = copy.copy(self._optimizer)
        single.param_groups = [{**group, "params": [own]}]
        single.state = defaultdict(dict)
        single._optimizer_step_pre_hooks = OrderedDict()
        single._optimizer_step_post_hooks = OrderedDict()
        single.state[own] = (
            first_state(single, group, own)
            if numbers is None
            else {**kept.moments, **copied(numbers)}
        )
        type(single).step(single)  # a scheduler counts calls of the attribute
        state = single.state[own]
        moments = {name: value for name, value in state.items() if is_moment(value, own)}
        rest = {name: value for name, value in state.items() if name not in moments}
        return Values(own.detach(), moments, rest)


def copied(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The same, in tensors of their own."""
    return {n: v.clone() if isinstance(v, Tensor) else v for n, v in numbers.items()}
