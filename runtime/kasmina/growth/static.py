"""Networks that do not grow, trained as a grown run was: what growing is compared with."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from kasmina.growth.flops import FlopMeter
from kasmina.growth.task import Task, evaluate, seeded
from kasmina.sites import fold
from kasmina.sites.plain import GrownInline, GrownParallel, SpanEnd

Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A static network trained with the same steps on the same batches."""

    name: str
    parameters: int
    test_metric: float
    train_flops: int
    wall_s: float


def train_static(
    task: Task,
    model: nn.Module,
    name: str,
    seed: int,
    steps: int,
    stop: Stop = lambda: False,
) -> tuple[Comparison, list[tuple[int, float]]]:
    """Train `model` as the grown run was, without growing; returns also its validation curve."""
    started = time.perf_counter()
    data, meter, curve = task.build_data(seed), FlopMeter(), []
    optimizer, scheduler = task.optimizer(model.parameters(), steps)
    for step in range(1, steps + 1):
        if stop():
            break
        x, y = data.train.next_batch()
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with meter.forward(x.shape, FlopMeter.TRAIN):
            output = model(x)
        torch.autograd.backward(task.loss(output, y))
        optimizer.step()
        scheduler.step()
        if step % data.train.batches_per_epoch == 0:
            curve.append((step, evaluate(task, model, data.validation())[1]))
    test = evaluate(task, model, data.test())[1]
    wall = time.perf_counter() - started
    return Comparison(name, count(model), test, meter.total, wall), curve


def static_final(task: Task, seed: int, parameters: int, grown: nn.Module) -> tuple[str, nn.Module]:
    """A static network of the grown one's size.

    The task's own network at the width that comes nearest; where the task has no widths, the grown
    architecture itself, initialised afresh.
    """
    if task.widths:
        return "static final", task.build_model(seed, nearest_width(task, seed, parameters))
    return "static grown architecture", reinitialised(task, grown, seed)


def reinitialised(task: Task, grown: nn.Module, seed: int) -> nn.Module:
    """What `fold` makes of a grown model of `task`, with fresh initial values.

    Branches draw theirs; the host has those of the task's network, parameters that no module can
    draw again among them.
    """
    begun = deepcopy(grown)  # its host has the names of the task's network; a folded one may not
    begun.load_state_dict(task.build_model(seed).state_dict(), strict=False)
    fresh = fold(begun)
    with seeded(seed):
        for around in fresh.modules():
            if isinstance(around, (GrownInline, GrownParallel, SpanEnd)):
                for module in around.branches.modules():
                    if callable(reset := getattr(module, "reset_parameters", None)):
                        reset()
    return fresh


def nearest_width(task: Task, seed: int, parameters: int) -> int:
    """The width whose network has the number of parameters nearest to `parameters`."""

    def size(width: int) -> int:
        return count(task.build_model(seed, width))

    high = 1
    while size(high) < parameters:
        high *= 2
    place = bisect_left(range(1, high), parameters, key=size) + 1
    return min({max(place - 1, 1), place}, key=lambda width: abs(size(width) - parameters))


def count(model: nn.Module) -> int:
    """Trainable and frozen parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())
