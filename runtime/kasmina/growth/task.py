"""What a run needs to know about its job: a `Task` is a bundle of factories.

Nothing in a task is an instance. Twins, controls, resume and rewind all build the model and the
data again, from a seed, and expect the same result each time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from kasmina.sites.site import is_layout

if TYPE_CHECKING:
    from kasmina.sites import Site

Batch = tuple[Tensor, Tensor]  # inputs [B, ...], targets [B, ...]
Parameters = Iterable[nn.Parameter] | Iterable[tuple[str, nn.Parameter]]


class Batches(Protocol):
    """An endless stream of training batches with a cursor.

    Epoch `e` is a permutation that depends on (seed, e) alone, so the cursor (epoch, index) says
    everything about what comes next.
    """

    @property
    def batches_per_epoch(self) -> int:
        """How many batches make one epoch; at least 1."""
        ...

    def next_batch(self) -> Batch:
        """Return the batch under the cursor and move the cursor on."""
        ...

    def state_dict(self) -> dict[str, int]:
        """Return the cursor: `epoch` and `index`, both of the next batch."""
        ...

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Move the cursor to where `state_dict` was taken.

        Raises:
            ValueError: the state is not a cursor of this data.
        """
        ...


class Data(Protocol):
    """The three splits of a task. Only validation may drive choices; test is read once."""

    @property
    def train(self) -> Batches:
        """The training stream; each `Data` has one cursor of its own."""
        ...

    def validation(self) -> list[Batch]:
        """Return the validation split, in the same order each time."""
        ...

    def test(self) -> list[Batch]:
        """Return the test split, in the same order each time; empty where the task has none."""
        ...


class BuildModel(Protocol):
    """Builds the start network; the same seed and width give the same parameters."""

    def __call__(self, seed: int, width: int | None = None) -> nn.Module:
        """Build without touching the caller's random streams; None means the default width."""
        ...


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global streams inside, and give them back after.

    CUDA streams are covered where CUDA is in use already.
    """
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch has no type here
    devices = list(range(torch.cuda.device_count())) if in_use else []
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed % 2**63)
            if devices:
                torch.cuda.manual_seed_all(seed % 2**63)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def adam_cosine(params: Parameters, steps: int) -> tuple[Optimizer, LRScheduler]:
    """Adam at 1e-2 with a cosine to 0 over `steps`, and 0 after that.

    The closed form depends on the step alone, so a rewound scheduler is exact.
    """
    optimizer = Adam(params, lr=1e-2)
    return optimizer, _cosine(optimizer, steps)


def adamw_cosine(
    params: Parameters, steps: int, decay: float = 0.3
) -> tuple[Optimizer, LRScheduler]:
    """AdamW at 1e-2 with the same cosine, and `decay` of all weights."""
    optimizer = AdamW(params, lr=1e-2, weight_decay=decay)
    return optimizer, _cosine(optimizer, steps)


def _cosine(optimizer: Optimizer, steps: int) -> LRScheduler:
    def factor(step: int) -> float:
        return 0.5 * (1.0 + math.cos(math.pi * min(step / max(steps, 1), 1.0)))

    return LambdaLR(optimizer, factor)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy, nats; output [B, ..., classes], target [B, ...] of class indices."""
    return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())


def accuracy(output: Tensor, target: Tensor) -> float:
    """Share of right answers, in [0, 1]; output [B, ..., classes], target [B, ...]."""
    return float((output.argmax(-1) == target).double().mean())


@dataclass(frozen=True, kw_only=True)
class Task:
    """One job: how to build its model and data, and how to judge an output.

    Attributes:
        name: as the user types it.
        build_model: the start network from a seed.
        build_data: the data with a fresh cursor; the seed orders the training batches only, the
            splits are the same for every seed.
        loss: mean loss of one batch, as a 0-d tensor.
        metric: mean score of one batch in [0, 1], higher is better.
        sites: the default sites, made on demand.
        metric_name: what the metric is called where people read it.
        layout: shape of one input without its batch axis, as in `Site`, where its features are a
            flattened signal, image or sequence; None for features without neighbours.
        optimizer: optimizer and scheduler from the parameters and the planned steps.
        default_epochs: epochs of a run.
        default_width: width of the start network; None where `widths` is False.
        default_budget: parameters up to which the network may grow; None leaves it to the run.
        widths: whether `build_model` can build other widths.
        threads: torch threads that `kasmina grow` runs it with; None leaves torch's choice. A small
            network is quickest on one, by far where other programs want the cores as well.

    Raises:
        ValueError: a field is out of its range; the message names it.
    """

    name: str
    build_model: BuildModel
    build_data: Callable[[int], Data]
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: Callable[[Tensor, Tensor], float]
    sites: Callable[[], tuple[Site, ...]]
    metric_name: str = "score"
    layout: tuple[int | str, ...] | None = None
    optimizer: Callable[[Parameters, int], tuple[Optimizer, LRScheduler]] = adam_cosine
    default_epochs: int = 20
    default_width: int | None = None
    default_budget: int | None = None
    widths: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.layout is not None and not is_layout(self.layout):
            raise ValueError(
                f"task {self.name!r}: layout {self.layout} is neither (channels, length), "
                "(channels, height, width) nor ('sequence', tokens, features) of positive sizes; "
                "use None for plain features"
            )
        if self.default_epochs < 1:
            raise ValueError(
                f"task {self.name!r}: default_epochs is {self.default_epochs}; it must be 1 or more"
            )
        if self.widths != (self.default_width is not None):
            raise ValueError(
                f"task {self.name!r}: widths={self.widths} but default_width="
                f"{self.default_width}; a task with widths has a default, one without has None"
            )


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
    """Mean loss and metric over the samples of `batches`, in evaluation mode.

    Every module returns to the mode it was in. Without a batch both are NaN.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        loss = metric = 0.0
        samples = 0
        for x, y in batches:
            output = model(x)
            loss += float(task.loss(output, y)) * len(y)
            metric += task.metric(output, y) * len(y)
            samples += len(y)
    finally:
        for module, training in modes:
            module.training = training
    return (loss / samples, metric / samples) if samples else (math.nan, math.nan)
