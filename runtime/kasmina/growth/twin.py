"""The true paired control: the network as it would be, had a cohort never grafted.

A task is a bundle of factories and a snapshot holds the run before the graft, data cursor and
random streams included. So the control needs not run beside every graft: where it is wanted it is
built from the snapshot and trained afterwards, on the same batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kasmina.errors import KasminaError
from kasmina.growth import rewind
from kasmina.growth.rewind import Snapshot


class Twin(Protocol):
    """Trains a control and measures it."""

    def __call__(self, snapshot: Snapshot, rows: Tensor, steps: int) -> Tensor | None:
        """Losses on the parts of the validation data, `[C]`, nats, as `Validation.parts`.

        Args:
            snapshot: of the moment before the cohort's graft.
            rows: int64, the cohort.
            steps: optimizer steps since.

        Returns:
            None where the control's training failed.
        """
        ...


class Trainee(Protocol):
    """One run of a task's own training loop, without ticks."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    stateful: dict[str, rewind.Stateful]

    def leave_out(self, rows: Tensor) -> None:
        """Take the seeds out of the network, as if they had never been germinated."""
        ...

    def batch(self) -> None:
        """One training step."""
        ...

    def parts(self) -> Tensor:
        """The losses on the parts of the validation data, `[C]`."""
        ...


@dataclass(frozen=True, slots=True)
class Replayed:
    """A `Twin` that replays the training loop.

    Args:
        trainee: makes a run over a copy of a model.
        model: the growing model.
    """

    trainee: Callable[[nn.Module], Trainee]
    model: nn.Module

    def __call__(self, snapshot: Snapshot, rows: Tensor, steps: int) -> Tensor | None:
        """See `Twin`; the random streams are left as they were."""
        streams = rewind.streams()
        try:
            run = self.trainee(copy.deepcopy(self.model))
            rewind.restore(snapshot, run.model, run.optimizer, run.stateful)
            run.leave_out(rows)
            for _ in range(steps):
                run.batch()
            parts = run.parts()
        except KasminaError:  # its loss is not finite
            return None
        finally:
            rewind.restore_streams(streams)
        return parts if bool(parts.isfinite().all()) else None
