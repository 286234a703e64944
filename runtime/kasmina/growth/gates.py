"""Gates: the measurements that fill the context row of every seed before a step.

A gate is named after the context field that it fills. The spec decides which fields exist; a field
without a gate is an error when the Gardener starts, and a user's own field needs a user's own gate:

    @gate("saturation")
    def saturation(readings: Readings) -> Tensor:
        return (readings.state["alpha"] > 0.99).float()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.growth.aside import Learned
from kasmina.growth.contest import FREE, LOST
from kasmina.lifecycle import StateTensor


@dataclass(frozen=True, slots=True)
class Readings:
    """What the Gardener has measured at an epoch's end; tensors are `[N]`, losses in nats."""

    state: StateTensor
    validation_loss: float
    stability: float  # in [0, 1], of the whole run
    learned: Learned
    score: Tensor  # what the graft surely saves against its control; -inf before
    improvement: Tensor  # what the validation loss has surely lost since the graft; -inf before
    standing: Tensor  # int32, see `contest`; only who stands at `FREE` has learned enough


Gate = Callable[[Readings], Tensor]
MOST_EPOCHS = 1_000_000  # what no patience reaches
_GATES: dict[str, Gate] = {}


def gate(field: str) -> Callable[[Gate], Gate]:
    """Register the gate of a context field; raises `KasminaError` where the field has one."""

    def register(function: Gate) -> Gate:
        if field in _GATES:
            raise KasminaError(f"context field '{field}' already has a gate: {_GATES[field]}")
        _GATES[field] = function
        return function

    return register


def gates_for(fields: Iterable[str]) -> dict[str, Gate]:
    """The gates of `fields`, in order; raises `KasminaError` naming the fields that have none."""
    fields = list(fields)
    missing = [name for name in fields if name not in _GATES]
    if missing:
        raise KasminaError(
            f"the spec's context field(s) {', '.join(missing)} have no gate; known gates: "
            f"{', '.join(sorted(_GATES))}; register one with @kasmina.growth.gate('{missing[0]}')"
        )
    return {name: _GATES[name] for name in fields}


def _where_free(readings: Readings, value: Tensor, otherwise: float) -> Tensor:
    return torch.where(readings.standing == FREE, value, otherwise)


@gate("reconstruction_loss")
def _reconstruction_loss(readings: Readings) -> Tensor:
    return _where_free(readings, readings.learned.reconstruction_loss, torch.inf)


@gate("validation_gain")
def _validation_gain(readings: Readings) -> Tensor:
    return _where_free(readings, readings.learned.validation_gain, -torch.inf)


@gate("stale_epochs")
def _stale_epochs(readings: Readings) -> Tensor:
    lost = torch.where(readings.standing == LOST, MOST_EPOCHS, 0).int()
    return torch.where(readings.standing == FREE, readings.learned.stale_epochs, lost)


@gate("alpha")
def _alpha(readings: Readings) -> Tensor:
    return readings.state["alpha"]


@gate("stability")
def _stability(readings: Readings) -> Tensor:
    return torch.full_like(readings.state["alpha"], readings.stability)


@gate("evaluation_score")
def _evaluation_score(readings: Readings) -> Tensor:
    return readings.score


@gate("improvement")
def _improvement(readings: Readings) -> Tensor:
    return readings.improvement
