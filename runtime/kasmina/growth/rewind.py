"""Snapshots before a cohort grafts, and the return to one, to the bit."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn


class Stateful(Protocol):
    """Anything with `state_dict` and `load_state_dict`: scheduler, scaler, data cursor, ledger."""

    def state_dict(self) -> Any:
        """Everything that must come back."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Take back what `state_dict` gave."""
        ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that decides how a run goes on."""

    number: int
    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    others: dict[str, Any]
    streams: dict[str, Any]

    def parts(self) -> dict[str, Any]:
        """Field by field, as a checkpoint keeps it; `Snapshot(**parts)` is equal."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def streams() -> dict[str, Any]:
    """The state of every random stream: torch's, CUDA's, NumPy's and Python's."""
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(),
        "python": (version, np.array(words, dtype=np.uint32), gauss),  # 625 words, as one array
    }


def restore_streams(streams: Mapping[str, Any]) -> None:
    """Set every random stream to what `streams` gave."""
    torch.set_rng_state(streams["torch"])
    torch.cuda.set_rng_state_all(streams["cuda"][: torch.cuda.device_count()])
    np.random.set_state(streams["numpy"])
    version, words, gauss = streams["python"]
    random.setstate((version, tuple(words.tolist()), gauss))


def gather(
    number: int,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    others: Mapping[str, Stateful],
) -> Snapshot:
    """The model (buffers too), the optimizer, `others` and every random stream; not copied."""
    return Snapshot(
        number=number,
        step=step,
        model={name: value.detach() for name, value in model.state_dict().items()},
        optimizer=optimizer.state_dict(),
        others={name: other.state_dict() for name, other in others.items()},
        streams=streams(),
    )


def take(
    number: int,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    others: Mapping[str, Stateful],
) -> Snapshot:
    """What `gather` gives, copied."""
    live = gather(number, step, model, optimizer, others)
    return replace(
        live,
        model={name: value.clone() for name, value in live.model.items()},
        optimizer=copy.deepcopy(live.optimizer),
        others=copy.deepcopy(live.others),
    )


@torch.no_grad()
def restore(
    snapshot: Snapshot,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    others: Mapping[str, Stateful],
) -> None:
    """Return to `snapshot`; it stays usable for another return."""
    model.load_state_dict(snapshot.model)
    optimizer.load_state_dict(copy.deepcopy(snapshot.optimizer))
    for name, other in others.items():
        other.load_state_dict(copy.deepcopy(snapshot.others[name]))
    restore_streams(snapshot.streams)
    for parameter in model.parameters():
        parameter.grad = None
