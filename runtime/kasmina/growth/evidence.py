"""What the paired control would say of a graft, estimated along its ramp for every seed at once.

The control is the same network on the same batches without the seed since its graft. To first
order the loss that the seed saves against it is the path integral

    gain = sum over the ramp of  -dL/dalpha * delta alpha        [nats]

whose integrand the backward pass hands out for nothing. Seeds that ramp together share a loss; each
integrates its own partial derivative, and the parts add up to the joint gain. The interval is the
normal one over the per-batch terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Z95 = 1.959964  # two-sided 95% of a normal distribution


@dataclass(frozen=True, slots=True)
class Judgement:
    """The path integral of one seed with its 95% interval, in nats, and how many batches it saw."""

    value: float
    low: float
    high: float
    terms: int


class PathIntegral:
    """Running path integrals of `n` seeds; all tensors are float64 `[n]` on the CPU."""

    def __init__(self, n: int) -> None:
        self._sums = torch.zeros(3, n, dtype=torch.float64)  # terms, their sum, sum of squares

    def start(self, rows: Tensor) -> None:
        """Forget what the rows have gathered: they begin a new ramp."""
        self._sums[:, rows] = 0

    def add(self, rows: Tensor, gradient: Tensor, step: Tensor) -> None:
        """Add one batch: dL/dalpha before the step of alpha, and that step, both `[len(rows)]`."""
        term = -(gradient.double() * step.double())
        self._sums[:, rows] += torch.stack([torch.ones_like(term), term, term * term])

    def gain(self) -> Tensor:
        """Gain so far, float32 `[n]`; -inf where nothing was measured."""
        count, total, _ = self._sums
        return torch.where(count > 0, total, -torch.inf).float()

    def judgement(self, row: int) -> Judgement:
        """The row's gain with its interval."""
        count, total, squares = (float(x) for x in self._sums[:, row])
        if not count:
            return Judgement(float("-inf"), float("-inf"), float("inf"), 0)
        variance = max(squares - total * total / count, 0.0) * count / max(count - 1, 1.0)
        half = Z95 * variance**0.5
        return Judgement(total, total - half, total + half, int(count))

    def state_dict(self) -> dict[str, Tensor]:
        """The sums behind the integrals."""
        return {"sums": self._sums.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self._sums = state["sums"].clone()
