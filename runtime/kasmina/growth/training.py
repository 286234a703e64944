"""One grown training run of a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.growth.batches import train_batch, validation_loss
from kasmina.growth.config import GardenerConfig, GrowConfig
from kasmina.growth.controller import Controller
from kasmina.growth.flops import FlopMeter
from kasmina.growth.gardener import Gardener
from kasmina.growth.identity import identity
from kasmina.growth.outside import Outside
from kasmina.growth.paired import ControlRun
from kasmina.growth.rewind import Stateful
from kasmina.growth.saving import Keeper, Saving
from kasmina.growth.static import Stop, count
from kasmina.growth.task import Data, Task
from kasmina.growth.twin import Replayed
from kasmina.observe.log import EventLog
from kasmina.sites import morph


class Run:
    """One grown training run: what it is made of, its loop, and what its log tells of it."""

    def __init__(
        self,
        task: Task,
        config: GrowConfig,
        controller: Controller,
        log: EventLog | None,
        gardening: dict[str, Any],
        saving: Saving | None,
        outside: Outside | None = None,
    ) -> None:
        self.task, self.config, self.outside = task, config, outside
        self.data = task.build_data(config.seed)
        self.example = _example(task, self.data)
        self.epochs = config.epochs or task.default_epochs
        self.steps = self.epochs * self.data.train.batches_per_epoch
        self.model = task.build_model(config.seed, config.width)
        self.params_start = count(self.model)
        budget = self._budget()
        self._morph()
        self.optimizer, self.scheduler = task.optimizer(self.model.parameters(), self.steps)
        self.meter = FlopMeter()
        self.stateful: dict[str, Stateful] = {
            "data": self.data.train,
            "scheduler": self.scheduler,
        }
        gardening = {"budget": budget, "epochs": self.epochs, **gardening}
        self.gardener = self._gardener(controller, GardenerConfig(**gardening), log)
        self.keeper = None if saving is None else self._keeper(saving, log)
        self._begin(saving)
        self.model.train()

    def _budget(self) -> int | None:
        given, default = self.config.budget, self.task.default_budget
        budget = given if given is not None else default
        _check_budget(budget, self.params_start, "" if given else "task's default ")
        return budget

    def _morph(self) -> None:
        morph(
            self.model,
            sites=self.task.sites(),
            lifecycle=self.config.lifecycle,
            run=f"{self.task.name}-{self.config.seed}",
            seed=self.config.seed,
            example=self.example,
        )

    def _gardener(
        self, controller: Controller, config: GardenerConfig, log: EventLog | None
    ) -> Gardener:
        return Gardener(
            self.model,
            self.optimizer,
            validate=self._validate,
            controller=controller,
            config=config,
            limits=self.config.limits,
            log=log,
            stateful=self.stateful,
            meter=self.meter,
            twin=Replayed(partial(ControlRun, self), self.model),
        )

    def _validate(self) -> tuple[Tensor, float, Tensor | None]:
        return validation_loss(self.task, self.model, self.data, parts=self.gardener.judging)

    def _begin(self, saving: Saving | None) -> None:
        """Go on from a checkpoint, or tell how the run starts; a bus serves either."""
        found = None if saving is None else saving.found
        if self.keeper is not None and found is not None:
            self.keeper.resume(found)
        if self.outside is not None:
            fresh = saving is None or not saving.resumes
            self.outside.start(self.gardener, self.keeper, fresh=fresh)
        if found is None:
            self._start()

    def train(self, stop: Stop) -> str:
        """Train to the end, or until `stop`; a rewind sets the clock back, so this may repeat."""
        if self.keeper is None:
            return self._train(stop, lambda: None)
        self.keeper.save()
        status = self._train(stop, self.keeper.save_if_due)
        self.keeper.save("high", blocking=True)
        return status

    def _train(self, stop: Stop, after_step: Callable[[], None]) -> str:
        clock, per_epoch = self.gardener.clock, self.data.train.batches_per_epoch
        if self.outside is not None:
            self.outside.after_step(
                stop
            )  # a run that goes on may have been asked at this very step
        while clock.step < self.steps:
            if stop():
                return "interrupted"
            self.batch()
            if clock.step and clock.step % per_epoch == 0 and clock.step // per_epoch > clock.epoch:
                self.gardener.tick()
                self._epoch()
            after_step()
            if self.outside is not None:
                self.outside.after_step(stop)
        return "finished"

    def _keeper(self, saving: Saving, log: EventLog | None) -> Keeper:
        per_epoch = self.data.train.batches_per_epoch
        return Keeper(saving, self.gardener, log, identity(self), per_epoch, self.outside)

    def states(self) -> dict[str, int]:
        """How many seeds are in which state; states without a seed are left out."""
        state = self.gardener.garden.state
        names = Counter(state.lifecycle.State(code).name for code in state.codes.tolist())
        return dict(sorted(names.items()))

    def batch(self) -> None:
        """One step of the training loop."""
        train_batch(self.task, self.data, self.gardener, self.scheduler)

    def _start(self) -> None:
        garden = self.gardener.garden
        lifecycle = garden.state.lifecycle
        self.gardener.journal.write(
            "run_started",
            task=self.task.name,
            seed=self.config.seed,
            metric=self.task.metric_name,
            spec={
                "name": lifecycle.name,
                "digest": lifecycle.digest,
                "initial": lifecycle.initial.name,
                "terminal": [s.name for s in lifecycle.State if lifecycle.tables.IS_TERMINAL[s]],
            },
            config={
                "width": self.config.width,
                "rent": self.gardener.config.rent,
                "limits": self.gardener.limits.as_dict(),
            },
            parameters=self.params_start,
            sites=garden.describe(),
            epochs=self.epochs,
            budget=self.gardener.config.budget,
        )

    def _epoch(self) -> None:
        validation = self.gardener.validation
        self.gardener.journal.write(
            "epoch",
            train_loss=self.gardener.epoch_loss,
            validation_loss=validation.loss,
            validation_metric=validation.metric,
            parameters=self.gardener.parameters(),
            flops=self.meter.total,
            states=self.states(),
        )

    def finish(self, status: str, test_metric: float, error: str | None = None) -> None:
        """Write the end of the run into its log, and what ended it too early."""
        self.gardener.journal.write(
            "run_finished",
            status=status,
            validation_metric=self.gardener.validation.metric,
            test_metric=test_metric,
            parameters=self.gardener.parameters(),
            train_flops=self.meter.total,
            states=self.states(),
            architecture=self.gardener.garden.architecture(),
            error=error,
        )


def _example(task: Task, data: Data) -> Tensor:
    """One validation batch; raises `KasminaError` where there is nothing to learn or to judge by."""
    if data.train.batches_per_epoch < 1:
        raise KasminaError(
            f"task '{task.name}': an epoch of its training data has "
            f"{data.train.batches_per_epoch} batches; it must have 1 or more"
        )
    batches = [batch for batch in data.validation() if len(batch[0])]
    if not batches:
        raise KasminaError(
            f"task '{task.name}': the validation split is empty; growth is judged on validation "
            "data, so give the task some"
        )
    return batches[0][0]


def _check_budget(budget: int | None, start: int, whose: str) -> None:
    if budget is not None and budget < start:
        raise KasminaError(
            f"the {whose}budget of {budget} parameters is below the start network's {start}; give "
            f"--budget {start} or more, or a smaller --width"
        )
