"""One step of a run's training loop, and its validation: shared by the run and its controls."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from kasmina.growth.flops import FlopMeter
from kasmina.growth.gardener import Gardener
from kasmina.growth.task import Data, Task

PARTS = 32  # of the validation data, from which comes how sure a difference of losses is


def train_batch(task: Task, data: Data, gardener: Gardener, scheduler: LRScheduler) -> None:
    """One step of the training loop."""
    x, y = data.train.next_batch()
    if not gardener.model.training:  # a walk over all modules
        gardener.model.train()
    gardener.optimizer.zero_grad(set_to_none=True)
    key = ("train", x.shape, gardener.garden.signature())
    with gardener.meter.forward(key, FlopMeter.TRAIN):
        output = gardener.model(x)
    loss = task.loss(output, y)
    torch.autograd.backward(loss)
    if gardener.step(loss):
        scheduler.step()


def validation_loss(
    task: Task, model: nn.Module, data: Data, parts: bool = False
) -> tuple[Tensor, float, Tensor | None]:
    """Mean loss over the validation samples as a 0-d tensor, and their mean metric.

    With `parts` also the mean losses on some `PARTS` equal parts of the samples, `[C]`.
    """
    losses, metric, samples = [], 0.0, 0
    found: list[Tensor] = []
    batches = data.validation()
    for x, y in batches:
        output = model(x)
        losses.append(task.loss(output, y) * len(y))
        metric += task.metric(output, y) * len(y)
        samples += len(y)
        if parts:
            found += _by_parts(task, output.detach(), y, -(-PARTS // len(batches)))
    apart = torch.stack(found) if parts else None
    return torch.stack(losses).sum() / samples, metric / samples, apart


def _by_parts(task: Task, output: Tensor, y: Tensor, most: int) -> Iterator[Tensor]:
    parts = min(most, len(y))
    for each, target in zip(output.tensor_split(parts), y.tensor_split(parts), strict=True):
        yield task.loss(each, target)
