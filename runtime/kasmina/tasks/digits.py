"""scikit-learn's handwritten digits: 1797 images of 8 x 8, ten classes.

Splits of 1257, 270 and 270 by `RandomState(0).permutation`, as in the anchors that the growth
figures are compared with.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from kasmina.growth.task import Data, Task, accuracy, adamw_cosine, cross_entropy
from kasmina.tasks.data import Split, SplitData, optional
from kasmina.tasks.growing import any_kind
from kasmina.tasks.mlp import build_mlp

if TYPE_CHECKING:
    from kasmina.sites import Site

WIDTH = 4  # 330 parameters
BUDGET = 3466  # parameters of the static network of width 32
EPOCHS = 105  # of 19 batches of 64: 1995 steps
BATCH = 64
LAYOUT = (1, 8, 8)


def task(*, split: int = 0, permuted: bool = False) -> Task:
    """Handwritten digits for a narrow MLP.

    Args:
        split: seed of the permutation that the splits are cut from.
        permuted: give the pixels in another order, the same for all; the declared layout stays and
            is a lie.
    """
    _splits(split, permuted)  # a missing package is told here, not when the run has begun
    parts = [f"{split}"] * (split > 0) + ["permuted"] * permuted
    return Task(
        name="-".join(["digits", *parts]),
        build_model=build_model,
        build_data=partial(build_data, split=split, permuted=permuted),
        loss=cross_entropy,
        metric=accuracy,
        metric_name="accuracy",
        sites=sites,
        optimizer=adamw_cosine,
        layout=LAYOUT,
        default_epochs=EPOCHS,
        default_width=WIDTH,
        default_budget=BUDGET,
        widths=True,
        threads=1,
    )


def sites() -> tuple[Site, ...]:
    """Where the narrow MLP grows by default: beside the whole of it."""
    return (any_kind(".", LAYOUT),)


def build_model(seed: int, width: int | None = None) -> nn.Module:
    """MLP 64 - width - width - 10."""
    return build_mlp(64, 10, WIDTH if width is None else width, seed)


def build_data(seed: int, split: int = 0, permuted: bool = False) -> Data:
    """Images as 64 features in [0, 1]; batches of 64."""
    return SplitData(*_splits(split, permuted), batch_size=BATCH, seed=seed)


@cache
def _splits(split: int, permuted: bool) -> tuple[Split, Split, Split]:
    bunch = optional("sklearn.datasets", "digits").load_digits()
    order = np.random.RandomState(split).permutation(len(bunch.data))
    pixels = np.random.RandomState(0).permutation(64) if permuted else slice(None)
    x = torch.from_numpy(bunch.data[order][:, pixels].astype(np.float32) / 16.0)  # ink is 0 to 16
    y = torch.from_numpy(bunch.target[order].astype(np.int64))
    bounds = {"train": (0, 1257), "validation": (1257, 1527), "test": (1527, 1797)}
    train, validation, test = (
        Split(name, x[start:end], y[start:end]).checked(classes=10)
        for name, (start, end) in bounds.items()
    )
    return train, validation, test
