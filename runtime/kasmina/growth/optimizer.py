"""What growth asks of optimizers, and what it knows of their state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kasmina.errors import KasminaError


class StaleOptimizer(KasminaError):
    """The optimizer does not hold parameters that growth has added."""


_REFUSED = {
    "LBFGS": (
        "evaluates a closure many times within one step, in which seeds cannot ramp or train "
        "aside; use an optimizer with one gradient a step, such as Adam or SGD"
    ),
    "Adafactor": (
        "shares its second moments between the rows of a parameter, which are different seeds "
        "here; use an optimizer that treats each element by itself, such as AdamW"
    ),
    "Muon": (
        "turns a parameter as a whole, and the rows of a pool are different seeds; use it for the "
        "host's matrices alone, and an optimizer such as AdamW for the rest and the seeds"
    ),
}


def check_holds(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise `StaleOptimizer` where `optimizer` misses one of `parameters` (by identity).

    Raises `KasminaError`, with the reason, for optimizers under which seeds cannot be told apart.
    """
    for kind in type(optimizer).__mro__:
        if kind.__module__.startswith("torch.optim") and kind.__name__ in _REFUSED:
            raise KasminaError(f"{kind.__name__} {_REFUSED[kind.__name__]}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [n for n, p in parameters.items() if p.requires_grad and id(p) not in held]
    if missing:
        raise StaleOptimizer(
            f"the optimizer does not hold {len(missing)} parameter(s) of the grown model, so they "
            f"would never train: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}; "
            "build the optimizer from model.parameters() after kasmina.morph(model), or let "
            "kasmina.growth.migrate(optimizer, before, model) add them"
        )


def is_moment(value: object, parameter: Tensor, rows: int | None = None) -> bool:
    """Whether a value of an optimizer's state belongs to `parameter` element by element.

    Args:
        value: whatever a state holds.
        parameter: whose state it is.
        rows: its first axis when the value was made, where that has changed since.
    """
    if not isinstance(value, Tensor):
        return False
    shape = parameter.shape if rows is None else (rows, *parameter.shape[1:])
    return value.shape == shape


def first_state(
    optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor
) -> dict[str, Any]:
    """A parameter's state before its first step: empty, but for Adagrad, which makes it early."""
    if not isinstance(optimizer, torch.optim.Adagrad):
        return {}
    sums = torch.full_like(parameter, initial(group, "sum"))
    return {"step": torch.tensor(0.0), "sum": sums}


def initial(group: Mapping[str, Any], name: str) -> float:
    """What a moment starts with: 0, but for Adagrad's sum."""
    return float(group.get("initial_accumulator_value", 0.0)) if name == "sum" else 0.0
