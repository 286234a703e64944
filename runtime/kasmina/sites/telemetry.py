"""The health of what passes a site, per seed. Legend: S seeds, F features, c chunk width."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One sample, a tensor `[S]` each, float32 unless said; all NaN or 0 before the first sample.

    Attributes:
        total: sum of the elements.
        squares: sum of their squares.
        maximum: largest element; NaN where there is one.
        nonfinite: elements that are NaN or infinite, int64.
        count: elements, int64.
    """

    total: Tensor
    squares: Tensor
    maximum: Tensor
    nonfinite: Tensor
    count: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean of the elements; NaN where there are none."""
        return self.total / self.count

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of the elements; NaN where there are none."""
        return (self.squares / self.count - self.mean.square()).clamp_min(0).sqrt()


def nothing(seeds: int, device: torch.device) -> Telemetry:
    """Telemetry of seeds that were never sampled."""
    zero = torch.zeros(seeds, device=device)
    none = torch.zeros(seeds, dtype=torch.int64, device=device)
    return Telemetry(zero, zero, torch.full_like(zero, torch.nan), none, none)


class Sampler:
    """Says when a sample is due: at the first call and at every `every`-th after it; 0 never."""

    __slots__ = ("_calls", "every")

    def __init__(self, every: int) -> None:
        self.every = every
        self._calls = -1

    def due(self) -> bool:
        """Count a call."""
        self._calls += 1
        return self.every > 0 and self._calls % self.every == 0


@torch.no_grad()
def measure(y: Tensor, columns: Tensor, valid: Tensor) -> Telemetry:
    """Sample the chunks of a tensor; sums are in float32 and in a fixed order.

    Args:
        y: `[N, F, ...]`.
        columns: features of each chunk, int64 `[S, c]`.
        valid: which of them count, bool `[S, c]`.
    """
    by_feature = y.float().transpose(0, 1).flatten(1)  # [F, N * ...]
    places = by_feature.shape[1]
    maxima = by_feature.amax(1) if places else by_feature.new_full((len(by_feature),), torch.nan)

    def gathered(values: Tensor) -> Tensor:
        return torch.where(valid, values[columns], 0).sum(1)

    return Telemetry(
        total=gathered(by_feature.sum(1)),
        squares=gathered(by_feature.square().sum(1)),
        maximum=maxima[columns].amax(1),
        nonfinite=gathered((~by_feature.isfinite()).sum(1)),
        count=valid.sum(1) * places,
    )


def shared(sample: Telemetry, seeds: int) -> Telemetry:
    """One sample of a whole output, for seeds that all write all of it."""
    fields = (sample.total, sample.squares, sample.maximum, sample.nonfinite, sample.count)
    return Telemetry(*(value.expand(seeds) for value in fields))
