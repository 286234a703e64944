"""The control of a grown run: the same training, beside which nothing is germinated or judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from kasmina.growth.batches import train_batch, validation_loss
from kasmina.growth.gardener import Gardener

if TYPE_CHECKING:
    from kasmina.growth.training import Run


class ControlRun:
    """A `twin.Trainee`: the same training loop over a copy of a run's model, without a log.

    Args:
        run: the grown one.
        model: a copy of its model.
    """

    def __init__(self, run: Run, model: nn.Module) -> None:
        self.model, self._task = model.train(), run.task
        self._data = run.task.build_data(run.config.seed)
        self.optimizer, self._scheduler = run.task.optimizer(model.parameters(), run.steps)
        self._gardener = Gardener(
            model,
            self.optimizer,
            validate=self._validate,
            config=run.gardener.config,
            stateful={"data": self._data.train, "scheduler": self._scheduler},
            meter=run.meter,
        )
        self.stateful = self._gardener.effects.stateful

    def leave_out(self, rows: Tensor) -> None:
        """See `Trainee`."""
        self._gardener.leave_out(rows)

    def batch(self) -> None:
        """See `Trainee`."""
        train_batch(self._task, self._data, self._gardener, self._scheduler)

    def parts(self) -> Tensor:
        """See `Trainee`."""
        found = self._gardener.measure().parts
        assert found is not None  # `_validate` asks for them
        return found

    def _validate(self) -> tuple[Tensor, float, Tensor | None]:
        return validation_loss(self._task, self.model, self._data, parts=True)
