"""The host of the small classification tasks: inputs - width - width - classes, ReLU."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from kasmina.growth.task import seeded


def build_mlp(inputs: int, classes: int, width: int, seed: int) -> nn.Sequential:
    """Build an MLP whose hidden part is one block.

    Args:
        inputs: features of a sample.
        classes: logits.
        width: units of both hidden layers, 1 or more.
        seed: of the initialisation.

    Returns:
        A module [B, inputs] -> [B, classes]. A parallel site at `features` spans both hidden
        maps, so that what grows there adds hidden units; `head` is the last map.
    """
    with seeded(seed):
        features = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width))
        head = nn.Linear(width, classes)
    return nn.Sequential(OrderedDict(features=features, activation=nn.ReLU(), head=head))
