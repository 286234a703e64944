"""What a grafting strategy sees of the seeds whose alpha it moves. Legend: S seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ramp:
    """The ramps of S seeds at one optimizer step; every tensor is `[S]`, on one device.

    A strategy sees every ramp as one from 0 to 1, wherever alpha begins and ends.

    Attributes:
        steps: optimizer steps since the ramp began without those in which it was paused, integer,
            0 at its beginning.
        length: steps that the ramp shall take, integer; below 1 counts as 1.
        alpha: float32, the share of the way that is behind, in [0, 1].
        stability: float32 in [0, 1], 1 for a steady training loss, see `Ledger.stability`; None
            where it is not measured.
        drift: float32, `|w - m| / |m|` of the host's weights w against their moving average m;
            None where it is not measured.
        trend: float32, moving average of the change of the validation loss in nats an epoch,
            negative is better; None where it is not measured.
        score: float32, the seed's own gain so far in nats; None where it is not measured.
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

    def unmeasured(self) -> Ramp:
        """The same without measurements; then every strategy ends after `length` steps."""
        return replace(self, stability=None, drift=None, trend=None, score=None)
