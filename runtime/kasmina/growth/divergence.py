"""When a graft goes wrong: the triggers at which a cohort is taken back.

The first two are those of the system that this one completes: more than 10% worse than before, more
than 5% of the seeds failing. The others are what no training gets over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from kasmina.errors import KasminaError


class NonFiniteLoss(KasminaError):
    """The loss is NaN or infinite and no cohort is there to be taken back."""


@dataclass(frozen=True, slots=True)
class Triggers:
    """When a cohort on trial counts as diverged; each infinity switches one off.

    Attributes:
        worse: rise of the validation loss since the graft, relative, that it surely exceeds.
        failing: share of the cohort whose blueprints put out what is not finite; fewer are
            withdrawn alone.
        loss: a batch's loss over the larger of the running mean and the validation loss at the
            graft.
        gradient: norm of a batch's gradient over its running mean.
    """

    worse: float = 0.10
    failing: float = 0.05
    loss: float = 10.0
    gradient: float = 100.0

    def __post_init__(self) -> None:
        for name in ("worse", "failing", "loss", "gradient"):
            value = getattr(self, name)
            if not value > 0:
                raise KasminaError(
                    f"Triggers({name}={value}): a trigger must be above 0; float('inf') switches it "
                    "off"
                )


class Detector:
    """Watches the batches of a run for what diverges.

    Args:
        triggers: when.
        parameters: of the model; their gradients' norm is read while a cohort is on trial.
    """

    KEPT = 0.95  # of the running means, a batch

    def __init__(self, triggers: Triggers, parameters: Iterable[nn.Parameter]) -> None:
        self._triggers, self._parameters = triggers, list(parameters)
        self._loss = self._norm = math.nan

    def batch(self, loss: float, on_trial: bool, before: float, overflows: bool = False) -> str:
        """Why this batch must not be learned from, or "".

        Args:
            loss: of the batch, nats, before the optimizer's step.
            on_trial: whether a cohort is there to be taken back.
            before: validation loss when it began to graft, nats; NaN where there is none.
            overflows: whether a gradient that is not finite is but a scaler's search for its scale.
        """
        if not math.isfinite(loss):
            return f"the training loss is {loss}"
        if on_trial:
            known = (abs(each) for each in (self._loss, before) if math.isfinite(each))
            usual = max(known, default=0.0)  # its size: a likelihood's loss may be below 0
            if usual > 0 and loss > self._triggers.loss * usual:
                return f"the training loss is {loss:.4g}, where {usual:.4g} is usual"
            found = self._gradient(overflows)
            if found:
                return found
        self._loss = _mean(self._loss, loss, self.KEPT)
        return ""

    def _gradient(self, overflows: bool) -> str:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = float(get_total_norm(gradients)) if gradients else 0.0
        if not math.isfinite(norm):
            return "" if overflows else f"the gradient's norm is {norm}"
        if self._norm > 0 and norm > self._triggers.gradient * self._norm:
            return f"the gradient's norm is {norm:.4g}, where {self._norm:.4g} is usual"
        self._norm = _mean(self._norm, norm, self.KEPT)
        return ""

    def worse(self, before: float, now: float, error: float) -> str:
        """Why a cohort is to be taken back at an epoch's end, or "".

        Args:
            before: validation loss when it began to graft, nats.
            now: validation loss.
            error: standard error of their difference; 0 if not known.
        """
        if math.isnan(now):
            return f"the validation loss is nan, and was {before:.4g} before the graft"
        surely = now if math.isnan(error) else now - 2 * error
        if surely > before + self._triggers.worse * abs(before):  # a loss may be below 0
            return (
                f"the validation loss is {now:.4g}, more than {self._triggers.worse:.0%} above the "
                f"{before:.4g} before the graft"
            )
        return ""

    def failing(self, failed: Tensor, cohort: Tensor) -> bool:
        """Whether so many rows of a cohort have failed that all of it must go."""
        share = int(torch.isin(cohort, failed).sum()) / max(len(cohort), 1)
        return share > self._triggers.failing

    def state_dict(self) -> dict[str, float]:
        """The running means."""
        return {"loss": self._loss, "norm": self._norm}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take back what `state_dict` gave."""
        self._loss, self._norm = state["loss"], state["norm"]


def _mean(before: float, value: float, kept: float) -> float:
    return value if math.isnan(before) else kept * before + (1 - kept) * value
