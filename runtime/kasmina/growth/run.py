"""The main job: train a task's start network and let it grow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from kasmina.growth.config import GrowConfig
from kasmina.growth.controller import Controller
from kasmina.growth.outside import Outside
from kasmina.growth.saving import Saving
from kasmina.growth.static import Comparison, Stop, static_final, train_static
from kasmina.growth.task import Task, evaluate
from kasmina.growth.training import Run
from kasmina.observe.log import EventLog, LogError


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

    A run that finishes has no seed under way: see `kasmina.growth.ending`.

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
    run = Run(task, config, controller, log, gardening, saving, outside)
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


def _comparisons(run: Run, stop: Stop) -> Iterator[Comparison]:
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
