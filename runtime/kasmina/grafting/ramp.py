"""What a grafting strategy sees of the seeds whose alpha it moves. Legend: S seeds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ramp:
    """The ramps of S seeds at one optimizer step; every tensor is `[S]`, on one device.

    A strategy sees every ramp as one from 0 to 1, wherever alpha begins and ends. A measurement is
    None where no strategy of these seeds reads it, else a tensor: NaN where it is not known yet, and
    for a seed on its way down, which goes by no measurement.

    Attributes:
        steps: optimizer steps since the ramp began without those in which it was paused, integer,
            0 at its beginning.
        length: steps that the ramp shall take, integer; below 1 counts as 1.
        alpha: float32, the share of the way that is behind, in [0, 1].
        stability: float32 in [0, 1], 1 for a steady training loss, see `Ledger.stability`.
        drift: float32, `|w - m| / |m|` of the host's weights w against their moving average m.
        trend: float32, moving average of the change of the validation loss in nats an epoch,
            negative is better.
        score: float32, the seed's own gain so far in nats.
    """

    steps: Tensor
    length: Tensor
    alpha: Tensor
    stability: Tensor | None = None
    drift: Tensor | None = None
    trend: Tensor | None = None
    score: Tensor | None = None

    @property
    def progress(self) -> Tensor:
        """Share of the ramp's steps that is behind, float32 in [0, 1]; exactly 1 at the end."""
        return (self.steps / self.length.clamp_min(1)).clamp(0, 1).float()
