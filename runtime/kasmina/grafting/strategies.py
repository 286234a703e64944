"""The built-in strategies.

`linear` and `cosine` follow a fixed curve of p, the share of the ramp's steps behind. The others
change their pace by what is measured:

    alpha' = alpha + pace / length,        alpha' >= steps / length - 1

so pace 1 is the linear ramp, and whatever is measured a ramp ends after twice its length: a seed
that never gets on would block its cohort until the lifecycle rolls it back. A measurement that is
missing or NaN leaves the pace at 1.
"""

from __future__ import annotations

from math import pi
from typing import ClassVar

import torch
from torch import Tensor

from kasmina.grafting.ramp import Ramp
from kasmina.grafting.registry import strategy


@strategy("linear")
class Linear:
    """alpha = p: the fade-in of Karras et al. 2018, Progressive Growing of GANs."""

    reads: ClassVar[tuple[str, ...]] = ()

    def alpha(self, ramp: Ramp) -> Tensor:
        """See `GraftingStrategy.alpha`."""
        return ramp.progress


@strategy("cosine")
class Cosine:
    """alpha = (1 - cos(pi p)) / 2: slow at both ends.

    The half period of Loshchilov & Hutter 2017, SGDR, upside down.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    def alpha(self, ramp: Ramp) -> Tensor:
        """See `GraftingStrategy.alpha`."""
        p = ramp.progress
        return torch.where(p >= 1, torch.ones_like(p), (1 - torch.cos(pi * p)) / 2)


def paced(ramp: Ramp, pace: Tensor | None) -> Tensor:
    """Alpha after one more step at `pace` `[S]`, 0 or more; None is 1."""
    length = ramp.length.clamp_min(1).float()
    if pace is None:
        return ramp.progress
    known = torch.where(pace.isnan(), 1.0, pace)
    alpha = ramp.alpha + known / length
    alpha = torch.maximum(alpha, ramp.steps / length - 1).clamp(0, 1)
    # A sum of steps of 1 / length misses 1 by rounding; a tenth of a step before it is the end.
    return torch.where(alpha >= 1 - 0.1 / length, 1.0, alpha)


def bounded(exponent: Tensor) -> Tensor:
    """`2 ** exponent`, the exponent held in [-1, 1]: between half and twice the pace."""
    return torch.exp2(exponent.clamp(-1, 1))


@strategy("drift_controlled")
class DriftControlled:
    """Linear, but waits while the host's weights drift: pace 0 where `drift > threshold`, else 1.

    The drift is `|w - m| / |m|` against the moving average `m <- 0.9 m + 0.1 w`, as the earlier
    system had it (GraftingContext, `drift_threshold`); the average is that of Polyak & Juditsky
    1992, in the exponential form of Tarvainen & Valpola 2017, Mean teachers. While the weights
    are on their way the host is not where the blueprint was trained for it to be.

    Adam at 1e-2 drifts by 0.01 to 0.1 on our tasks; 0.05 waits in its restless part.
    """

    reads: ClassVar[tuple[str, ...]] = ("drift",)
    threshold: ClassVar[float] = 0.05

    def alpha(self, ramp: Ramp) -> Tensor:
        """See `GraftingStrategy.alpha`."""
        if ramp.drift is None:
            return paced(ramp, None)
        return paced(ramp, (~(ramp.drift > self.threshold)).float())


@strategy("momentum")
class Momentum:
    """Faster while validation gets better: pace `2 ** (-trend / scale)`, in [1/2, 2].

    The trend is a moving average of the validation loss's change, which is what the velocity of
    Polyak 1964 (the heavy ball) is of the gradient: steps in the same direction add up.
    `scale` is 0.05 nats an epoch.
    """

    reads: ClassVar[tuple[str, ...]] = ("trend",)
    scale: ClassVar[float] = 0.05

    def alpha(self, ramp: Ramp) -> Tensor:
        """See `GraftingStrategy.alpha`."""
        return paced(ramp, None if ramp.trend is None else bounded(-ramp.trend / self.scale))


@strategy("adaptive")
class Adaptive:
    """A ramp as long as the loss is unsteady: length times `2 ** (1 - 2 stability)`.

    That is half the length at stability 1, the length at 1/2, twice the length at 0, all the way
    through the ramp. Blending as slowly as the host can follow is what Net2Net (Chen et al. 2016)
    has no need of, whose new units begin without effect; a trained blueprint has one.
    """

    reads: ClassVar[tuple[str, ...]] = ("stability",)

    def alpha(self, ramp: Ramp) -> Tensor:
        """See `GraftingStrategy.alpha`."""
        return paced(ramp, None if ramp.stability is None else bounded(2 * ramp.stability - 1))


@strategy("performance_linked")
class PerformanceLinked:
    """Faster for a seed that earns it: pace `2 ** (score / scale)`, in [1/2, 2].

    The score is the seed's own path integral of `-dL/dalpha` so far (as Sundararajan et al. 2017
    attribute an output along a path), so seeds that ramp together each go by their own. `scale`
    is 0.02 nats, below which not even the integral's sign is sure (docs/architecture.md).
    """

    reads: ClassVar[tuple[str, ...]] = ("score",)
    scale: ClassVar[float] = 0.02

    def alpha(self, ramp: Ramp) -> Tensor:
        """See `GraftingStrategy.alpha`."""
        return paced(ramp, None if ramp.score is None else bounded(ramp.score / self.scale))
