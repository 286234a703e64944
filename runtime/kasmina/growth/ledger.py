"""What the Gardener remembers of a run besides the state tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kasmina.growth.evidence import PathIntegral


@dataclass(slots=True)
class Clock:
    """Optimizer steps and epochs of the run as it stands; a rewind sets both back."""

    step: int = 0
    epoch: int = 0

    @property
    def steps_an_epoch(self) -> float:
        """Optimizer steps of an epoch so far, on average; 0 before the first."""
        return self.step / max(self.epoch, 1)

    def state_dict(self) -> dict[str, int]:
        """Both counters."""
        return {"step": self.step, "epoch": self.epoch}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take back what `state_dict` gave."""
        self.step, self.epoch = state["step"], state["epoch"]


class Ledger:
    """Measurements of `n` seeds between ticks; a rewind brings all of it back.

    Attributes:
        integral: the path integral of every ramp.
        loss_at_graft: float32 `[n]`, validation loss in nats when the ramp began; NaN before.
        train_loss: mean training loss of the epoch so far, and of the one before; NaN before.
    """

    def __init__(self, n: int) -> None:
        self.integral = PathIntegral(n)
        self.loss_at_graft = torch.full((n,), torch.nan)
        self._sum, self._count, self._before = 0.0, 0, float("nan")
        self._steady = 0.0

    def add_loss(self, loss: float) -> None:
        """Count one batch's training loss, nats."""
        self._sum += loss
        self._count += 1

    @property
    def train_loss(self) -> float:
        """Mean training loss of the epoch so far; NaN where no step was made."""
        return self._sum / self._count if self._count else float("nan")

    def stability(self) -> float:
        """1 minus the relative rise of the training loss from epoch to epoch, in [0, 1].

        A fall is no unrest: on a task that is learned to the end the loss falls by a third an
        epoch for ever. Before an epoch's first step it is that of the epoch before.
        """
        if not self._count:
            return self._steady
        now, before = self.train_loss, self._before
        if not now < float("inf") or not before < float("inf"):
            return 0.0
        return min(1.0, max(0.0, 1.0 - (now - before) / max(abs(before), 1e-12)))

    def end_epoch(self) -> None:
        """Start the next epoch's mean."""
        if self._count:
            self._steady, self._before = self.stability(), self.train_loss
        self._sum, self._count = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "integral": self.integral.state_dict(),
            "loss_at_graft": self.loss_at_graft.clone(),
            "loss": torch.tensor([self._sum, self._count, self._before], dtype=torch.float64),
            "steady": self._steady,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.integral.load_state_dict(state["integral"])
        self.loss_at_graft = state["loss_at_graft"].clone()
        loss: Tensor = state["loss"]
        self._sum, self._count, self._before = float(loss[0]), int(loss[1]), float(loss[2])
        self._steady = float(state["steady"])
