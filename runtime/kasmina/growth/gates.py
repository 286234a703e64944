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
from kasmina.growth.evidence import PathIntegral
from kasmina.lifecycle import StateTensor


@dataclass(frozen=True, slots=True)
class Readings:
    """What the Gardener has measured at an epoch's end; tensors are `[N]`, losses in nats."""

    state: StateTensor
    validation_loss: float
    stability: float  # in [0, 1], of the whole run
    learned: Learned
    integral: PathIntegral
    loss_at_graft: Tensor  # validation loss when the seed's ramp began; NaN before


Gate = Callable[[Readings], Tensor]
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


@gate("reconstruction_loss")
def _reconstruction_loss(readings: Readings) -> Tensor:
    return readings.learned.reconstruction_loss


@gate("validation_gain")
def _validation_gain(readings: Readings) -> Tensor:
    return readings.learned.validation_gain


@gate("stale_epochs")
def _stale_epochs(readings: Readings) -> Tensor:
    return readings.learned.stale_epochs


@gate("alpha")
def _alpha(readings: Readings) -> Tensor:
    return readings.state["alpha"]


@gate("stability")
def _stability(readings: Readings) -> Tensor:
    return torch.full_like(readings.state["alpha"], readings.stability)


@gate("evaluation_score")
def _evaluation_score(readings: Readings) -> Tensor:
    return readings.integral.gain()


@gate("improvement")
def _improvement(readings: Readings) -> Tensor:
    gain = readings.loss_at_graft - readings.validation_loss
    return torch.where(gain.isnan(), -torch.inf, gain)
