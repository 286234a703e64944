"""What a grafting strategy sees of the seeds whose alpha it moves. Legend: S seeds."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ramp:
    """The ramps of S seeds at one optimizer step; every tensor is `[S]`, on one device.

    Attributes:
        steps: optimizer steps since the ramp began, integer, 0 at its beginning.
        length: steps that the ramp shall take, integer; below 1 counts as 1.
        alpha: float32, the blend factor now, in [0, 1].
        stability: float32 in [0, 1], 1 for a steady loss; None where it is not measured.
        drift: float32, relative change of the host's weights against their moving average; None
            where it is not measured.
        trend: float32, change of the validation loss an epoch in nats, negative is better; None
            where it is not measured.
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
        """Share of the ramp that is behind, float32 in [0, 1]; exactly 1 at the end."""
        return (self.steps / self.length.clamp_min(1)).clamp(0, 1).float()
