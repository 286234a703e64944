"""What a run is: what must be equal where it goes on from a checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kasmina.growth.training import Run


def identity(run: Run) -> dict[str, Any]:
    """By name, without arrays: settings, shapes, and the first data that a run sees."""
    gardener, lifecycle = run.gardener, run.gardener.garden.state.lifecycle
    return {
        "task": run.task.name,
        "seed": run.config.seed,
        "width": run.config.width,
        "epochs": run.epochs,
        "compare": run.config.compare,
        "lifecycle": {"name": lifecycle.name, "digest": lifecycle.digest},
        "limits": gardener.limits.as_dict(),
        "gardener": asdict(gardener.config),
        "controller": gardener.controller.name,
        "device": str(gardener.garden.state.device),
        "optimizer": type(run.optimizer).__name__,
        "scheduler": type(run.scheduler).__name__,
        "sites": gardener.garden.describe(),
        "parameters": {name: tuple(p.shape) for name, p in run.model.named_parameters()},
        "batches per epoch": run.data.train.batches_per_epoch,
        "first validation batch": _digest(run.example),
    }


def _digest(values: Tensor) -> str:
    """Tells other data apart."""
    plain = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(plain.numpy().data, digest_size=8).hexdigest()
