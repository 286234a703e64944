"""The main job: train a task's start network and let it grow."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.errors import KasminaError
from kasmina.growth.batches import train_batch, validation_loss
from kasmina.growth.controller import Controller
from kasmina.growth.flops import FlopMeter
from kasmina.growth.gardener import Gardener, GardenerConfig
from kasmina.growth.outside import Outside
from kasmina.growth.rewind import Stateful
from kasmina.growth.saving import Keeper, Saving
from kasmina.growth.static import (
    Comparison,
    Stop,
    count,
    static_final,
    train_static,
)
from kasmina.growth.task import Data, Task, evaluate
from kasmina.growth.twin import Replayed
from kasmina.lifecycle import Lifecycle
from kasmina.observe.log import EventLog, LogError
from kasmina.sites import morph


@dataclass(frozen=True, slots=True)
class GrowConfig:
    """What one run is told; None takes the task's default.

    Attributes:
        width: width of the start network.
        budget: parameters that the network may have in the end.
        epochs: epochs to train, 1 or more.
        seed: of the start network, the batches and everything of Kasmina's own.
        compare: also train the static start network and a static one of the final size.
        lifecycle: another lifecycle than the built-in one.
        limits: overrides of its limits.
    """

    width: int | None = None
    budget: int | None = None
    epochs: int | None = None
    seed: int = 0
    compare: bool = False
    lifecycle: Lifecycle | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to; the metric is in [0, 1], FLOPs include all that growing cost."""

    task: str
    seed: int
    status: str  # finished | interrupted
    validation_metric: float
    test_metric: float
    params_start: int
    params_final: int
    steps: int
    train_flops: int
    wall_s: float
    states: dict[str, int]
    comparisons: tuple[Comparison, ...]
    model: nn.Module


def grow(
    task: Task,
    config: GrowConfig,
    *,
    controller: Controller,
    log: EventLog | None = None,
    stop: Stop = lambda: False,
    gardening: Mapping[str, Any] | None = None,
    saving: Saving | None = None,
    outside: Outside | None = None,
) -> RunResult:
    """Train `task` and let it grow; the test split is read once, at the end.

    Args:
        task: what to train.
        config: how long, how large, from which seed.
        controller: decides where and when seeds germinate.
        log: where every event is written.
        stop: asked after each step; True ends the run in order.
        gardening: settings of `GardenerConfig` that differ from its defaults.
        saving: where the run is saved, and what it goes on from.
        outside: the run on a bus; it is closed in the end.

    Raises:
        ResumeRefused: what it should go on from is of another run.
        KasminaError: budget below the start size, NaN in the loss, a spec that does not fit.
    """
    with outside or nullcontext():
        return _grow(task, config, controller, log, stop, dict(gardening or {}), saving, outside)


def _grow(
    task: Task,
    config: GrowConfig,
    controller: Controller,
    log: EventLog | None,
    stop: Stop,
    gardening: dict[str, Any],
    saving: Saving | None,
    outside: Outside | None,
) -> RunResult:
    started = time.perf_counter()
    run = _Run(task, config, controller, log, gardening, saving, outside)
    try:
        status = run.train(stop)
    except LogError:
        raise  # there is nowhere to write the end to
    except Exception as error:
        run.finish("failed", float("nan"), f"{type(error).__name__}: {error}")
        raise
    if status != "finished":  # the last tick's validation is of a network that was another one
        run.gardener.validation = run.gardener.measure()
    test = evaluate(task, run.model, run.data.test())[1]
    earlier_s = run.keeper.earlier_s if run.keeper else 0.0
    wall_s = earlier_s + time.perf_counter() - started  # without the static networks
    comparisons = tuple(_comparisons(run, stop)) if config.compare else ()
    result = RunResult(
        task=task.name,
        seed=config.seed,
        status=status,
        validation_metric=run.gardener.validation.metric,
        test_metric=test,
        params_start=run.params_start,
        params_final=run.gardener.parameters(),
        steps=run.gardener.clock.step,
        train_flops=run.meter.total,
        wall_s=wall_s,
        states=run.states(),
        comparisons=comparisons,
        model=run.model,
    )
    run.finish(status, test)
    if outside is not None:
        outside.close(finished=status == "finished")
    return result


class _Run:
    """One grown training run."""

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
        self.epochs = config.epochs or task.default_epochs
        self.steps = self.epochs * self.data.train.batches_per_epoch
        self.model = task.build_model(config.seed, config.width)
        self.params_start = count(self.model)
        budget = config.budget if config.budget is not None else task.default_budget
        _check_budget(budget, self.params_start, "" if config.budget else "task's default ")
        morph(
            self.model,
            sites=task.sites(),
            lifecycle=config.lifecycle,
            run=f"{task.name}-{config.seed}",
            seed=config.seed,
            example=_example(task, self.data),
        )
        self.optimizer, self.scheduler = task.optimizer(self.model.parameters(), self.steps)
        self.meter = FlopMeter()
        self.stateful: dict[str, Stateful] = {
            "data": self.data.train,
            "scheduler": self.scheduler,
        }
        self.gardener: Gardener = Gardener(
            self.model,
            self.optimizer,
            validate=lambda: validation_loss(
                task, self.model, self.data, parts=self.gardener.judging
            ),
            controller=controller,
            config=GardenerConfig(budget=budget, epochs=self.epochs, **gardening),
            limits=config.limits,
            log=log,
            stateful=self.stateful,
            meter=self.meter,
            twin=Replayed(self._control, self.model),
        )
        self.keeper = None if saving is None else self._keeper(saving, log)
        found = None if saving is None else saving.found
        if self.keeper is not None and found is not None:
            self.keeper.resume(found)
        if outside is not None:
            outside.start(self.gardener, self.keeper, fresh=saving is None or not saving.resumes)
        if found is None:
            self._start()
        self.model.train()

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
            self._batch()
            if clock.step and clock.step % per_epoch == 0 and clock.step // per_epoch > clock.epoch:
                self.gardener.tick()
                self._epoch()
            after_step()
            if self.outside is not None:
                self.outside.after_step(stop)
        return "finished"

    def _keeper(self, saving: Saving, log: EventLog | None) -> Keeper:
        gardener, lifecycle = self.gardener, self.gardener.garden.state.lifecycle
        identity = {
            "task": self.task.name,
            "seed": self.config.seed,
            "width": self.config.width,
            "epochs": self.epochs,
            "compare": self.config.compare,
            "lifecycle": {"name": lifecycle.name, "digest": lifecycle.digest},
            "limits": gardener.limits.as_dict(),
            "gardener": asdict(gardener.config),
            "controller": gardener.controller.name,
            "device": str(gardener.garden.state.device),
            "optimizer": type(self.optimizer).__name__,
            "scheduler": type(self.scheduler).__name__,
            "sites": gardener.garden.describe(),
            "parameters": {name: tuple(p.shape) for name, p in self.model.named_parameters()},
            "batches per epoch": self.data.train.batches_per_epoch,
            "first validation batch": _digest(_example(self.task, self.data)),
        }
        per_epoch = self.data.train.batches_per_epoch
        return Keeper(saving, gardener, log, identity, per_epoch, self.outside)

    def states(self) -> dict[str, int]:
        """How many seeds are in which state; states without a seed are left out."""
        state = self.gardener.garden.state
        names = Counter(state.lifecycle.State(code).name for code in state.codes.tolist())
        return dict(sorted(names.items()))

    def _batch(self) -> None:
        train_batch(self.task, self.data, self.gardener, self.scheduler)

    def _control(self, model: nn.Module) -> _Control:
        return _Control(self, model)

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


class _Control:
    """A `twin.Trainee`: the same training loop over a copy of a run's model, without a log."""

    def __init__(self, run: _Run, model: nn.Module) -> None:
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
        self.stateful = self._gardener.rewindable()

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


def _digest(values: Tensor) -> str:
    """Tells other data apart."""
    plain = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(plain.numpy().data, digest_size=8).hexdigest()


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


def _comparisons(run: _Run, stop: Stop) -> Iterator[Comparison]:
    seed, task = run.config.seed, run.task
    networks = {"static start": task.build_model(seed, run.config.width)}
    size = run.gardener.parameters()
    networks |= dict([static_final(task, seed, size, run.model)])
    for name, model in networks.items():
        if stop():
            return
        comparison, curve = train_static(task, model, name, seed, run.steps, stop)
        if stop():  # a network that was trained by half compares with nothing
            return
        run.gardener.journal.write(
            "comparison",
            name=name,
            parameters=comparison.parameters,
            test_metric=comparison.test_metric,
            train_flops=comparison.train_flops,
            curve=curve,
        )
        yield comparison


def _check_budget(budget: int | None, start: int, whose: str) -> None:
    if budget is not None and budget < start:
        raise KasminaError(
            f"the {whose}budget of {budget} parameters is below the start network's {start}; give "
            f"--budget {start} or more, or a smaller --width"
        )
