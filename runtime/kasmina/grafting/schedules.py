"""Strategies that follow a fixed curve over the ramp; p is the share of the ramp behind."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from kasmina.grafting.ramp import Ramp
from kasmina.grafting.registry import GraftingStrategyRegistry


@GraftingStrategyRegistry.register("linear")
class Linear:
    """alpha = p: the fade-in of Karras et al. 2018, Progressive Growing of GANs."""

    def alpha(self, ramp: Ramp) -> Tensor:
        """See `GraftingStrategy.alpha`."""
        return ramp.progress


@GraftingStrategyRegistry.register("cosine")
class Cosine:
    """alpha = (1 - cos(pi p)) / 2: slow at both ends.

    The half period of Loshchilov & Hutter 2017, SGDR, upside down.
    """

    def alpha(self, ramp: Ramp) -> Tensor:
        """See `GraftingStrategy.alpha`."""
        p = ramp.progress
        return torch.where(p >= 1, torch.ones_like(p), (1 - torch.cos(pi * p)) / 2)
