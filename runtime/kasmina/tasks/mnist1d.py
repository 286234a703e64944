"""MNIST-1D: digits as signals of 40 samples (Greydanus and Kobak, arXiv:2011.14439).

Made here by the package's generator from its default arguments, never downloaded. The official
test set of 1000 is the test split; the 4000 others are cut into 3500 and 500 as they come, which
is an order that the generator has shuffled.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from kasmina.growth.task import Data, Task, accuracy, adamw_cosine, cross_entropy, seeded
from kasmina.tasks.data import Split, SplitData, optional
from kasmina.tasks.growing import any_kind
from kasmina.tasks.mlp import build_mlp

if TYPE_CHECKING:
    from kasmina.sites import Site

WIDTH = 16  # 1098 parameters
BUDGET = 7434  # parameters of the static network of width 64
EPOCHS = 171  # of 35 batches of 100: 5985 steps
BATCH = 100
LAYOUT = (1, 40)
DATASET = 42  # the generator's own default
CNN_WIDTH = 12  # 1570 parameters
CNN_BUDGET = 5210  # parameters of the package's own network, width 25


def task(*, dataset: int = DATASET, permuted: bool = False, convolutional: bool = False) -> Task:
    """MNIST-1D for a narrow MLP.

    Args:
        dataset: seed of the generator; its own default makes the data that others report on.
        permuted: give the samples of each signal in another order, the same for all; the declared
            layout stays and is a lie.
        convolutional: for a small convolutional network instead.
    """
    _splits(dataset, permuted)  # a missing package is told here, not when the run has begun
    parts = [f"{dataset}"] * (dataset != DATASET) + ["permuted"] * permuted
    return Task(
        name="-".join(["mnist1d", *parts, *["cnn"] * convolutional]),
        build_model=build_cnn if convolutional else build_model,
        build_data=partial(build_data, dataset=dataset, permuted=permuted),
        loss=cross_entropy,
        metric=accuracy,
        metric_name="accuracy",
        sites=sites,
        optimizer=adamw_cosine,
        layout=LAYOUT,
        default_epochs=EPOCHS,
        default_width=CNN_WIDTH if convolutional else WIDTH,
        default_budget=CNN_BUDGET if convolutional else BUDGET,
        widths=True,
        threads=1,
    )


def sites() -> tuple[Site, ...]:
    """Where the narrow MLP grows by default: beside the whole of it."""
    return (any_kind(".", LAYOUT),)


def build_model(seed: int, width: int | None = None) -> nn.Module:
    """MLP 40 - width - width - 10."""
    return build_mlp(40, 10, WIDTH if width is None else width, seed)


def build_cnn(seed: int, width: int | None = None) -> nn.Module:
    """The package's own network: three convolutions of stride 2 and a Linear."""
    width = CNN_WIDTH if width is None else width
    with seeded(seed):
        return nn.Sequential(
            nn.Unflatten(1, LAYOUT),
            nn.Conv1d(1, width, 5, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(5 * width, 10),
        )


def build_data(seed: int, dataset: int = DATASET, permuted: bool = False) -> Data:
    """Signals of 40 standardised samples; batches of 100."""
    return SplitData(*_splits(dataset, permuted), batch_size=BATCH, seed=seed)


@cache
def _splits(dataset: int, permuted: bool) -> tuple[Split, Split, Split]:
    """Make the data set, 1 s; cached for the process."""
    with seeded(0):  # the generator seeds the global streams, which belong to the caller
        package = optional("mnist1d.data", "mnist1d")
        arguments = package.get_dataset_args()
        arguments.seed = dataset
        made = package.make_dataset(arguments)
    order = np.random.RandomState(0).permutation(LAYOUT[1]) if permuted else slice(None)
    x, x_test = (
        torch.from_numpy(made[key][:, order].astype(np.float32)) for key in ("x", "x_test")
    )
    y, y_test = (torch.from_numpy(made[key].astype(np.int64)) for key in ("y", "y_test"))
    return (
        Split("train", x[:3500], y[:3500]).checked(classes=10),
        Split("validation", x[3500:], y[3500:]).checked(classes=10),
        Split("test", x_test, y_test).checked(classes=10),
    )
