"""The cohort that is on trial: which seeds it has, and when it is taken back.

It has touched the host and is neither kept nor ended, so its snapshot is still there. What it is
taken back for is up to the `Detector`; here it is asked, and obeyed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kasmina.growth.controller import Command
from kasmina.growth.divergence import Detector, NonFiniteLoss, Triggers
from kasmina.growth.planes import mask_in, rows_of

if TYPE_CHECKING:
    from kasmina.growth.gardener import Gardener

TOUCHING = ("blend", "full")  # planes in which a seed reaches the host
EMERGENCY, CANCEL = "emergency", "cancel"  # the commands that the Gardener itself gives


class Trial:
    """Watches over a Gardener's cohort under way.

    Args:
        gardener: whose.
        triggers: when a cohort counts as diverged.

    Attributes:
        detector: what watches batches and validations.
        is_on: whether a cohort was on trial at the last `refresh`.
    """

    def __init__(self, gardener: Gardener, triggers: Triggers) -> None:
        self._gardener = gardener
        self.detector = Detector(triggers, gardener.model.parameters())
        self._before: float | None = None
        self.is_on = False

    def rows(self) -> Tensor:
        """Rows that have a snapshot to return to and have not ended."""
        state = self._gardener.garden.state
        ended = state.lifecycle.table("IS_TERMINAL", state.device)[state.codes.long()]
        return rows_of((state["checkpoint_id"] >= 0) & ~ended)

    def saved(self) -> Tensor:
        """Bool `[N]`: seeds on trial whose cohort's snapshot is still there to return to."""
        state, effects = self._gardener.garden.state, self._gardener.effects
        saved = torch.zeros(len(state), dtype=torch.bool)
        rows = self.rows().cpu()
        numbers = state["checkpoint_id"].cpu()[rows].tolist()
        held = [effects.snapshot(number) is not None for number in numbers]
        saved[rows] = torch.tensor(held, dtype=torch.bool)
        return saved

    def refresh(self) -> None:
        """Take over what a step of the lifecycle has changed."""
        self.is_on = len(self.rows()) > 0
        can_return = self.is_on and self._gardener.effects.rewindable()
        self._before = self._loss_at_graft() if can_return else None

    def diverges(self, loss: float, overflows: bool) -> bool:
        """Whether a batch's loss, or its gradient, has taken the cohort back.

        Args:
            loss: of the batch, nats.
            overflows: see `Detector.batch`.

        Raises:
            NonFiniteLoss: there is no cohort.
        """
        before = self._before
        reason = self.detector.batch(loss, before is not None, before or 0.0, overflows)
        if not reason:
            return False
        if before is None:
            clock = self._gardener.clock
            raise NonFiniteLoss(
                f"the training loss is {loss} at step {clock.step} (epoch {clock.epoch}) and no "
                "seed is on trial, so it is the host's own: look for NaN in the data, a learning "
                "rate that is too high or an unstable loss"
            )
        self.take_back(reason)
        return True

    def take_back(self, reason: str) -> None:
        """Stop the cohort at once, and undo what it has done."""
        self._command(EMERGENCY, self.rows(), reason)

    def stop_broken(self) -> None:
        """Take a cohort back where too many of it put out what is not finite.

        Fewer are withdrawn alone, and what is no part of it any more is stopped by itself.
        """
        garden = self._gardener.garden
        if not garden.any_nonfinite():
            return
        touching = mask_in(garden.state, "plane", *TOUCHING)
        rows = rows_of(touching & (garden.nonfinite() > 0))
        reason, cohort = "the blueprint put out a NaN or an infinity", self.rows()
        alone = torch.isin(rows, cohort)
        if self.detector.failing(rows, cohort):
            alone &= False
        self._command(EMERGENCY, rows[~alone], reason)
        self._command(CANCEL, rows[alone], reason)

    def worse(self) -> list[Command]:
        """What takes a cohort back that has made the validation loss surely worse."""
        gardener = self._gardener
        rows: list[int] = self.rows().tolist() if gardener.effects.rewindable() else []
        if not rows:
            return []
        error = max(gardener.judge.sampling(row) for row in rows)
        reason = self.detector.worse(self._loss_at_graft(), gardener.validation.loss, error)
        return [Command(EMERGENCY, row, reason, "detector") for row in rows if reason]

    def _loss_at_graft(self) -> float:
        """Validation loss when the cohort began to graft; infinite where none was known."""
        found = self._gardener.ledger.loss_at_graft[self.rows().cpu()]
        known = found[~found.isnan()]
        return float(known.max()) if len(known) else math.inf

    def _command(self, event: str, rows: Tensor, reason: str) -> None:
        """Give `rows` a command at once, between two ticks."""
        if len(rows):
            self._gardener.garden.state.increment(rows, "error_count")
            self._gardener.obey([Command(event, r, reason, "detector") for r in rows.tolist()])
