"""The parts of exported blueprints that torch does not have; imports torch only."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Affine(nn.Module):
    """`x * scale + shift`, feature by feature."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(features))
        self.shift = nn.Parameter(torch.empty(features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the zero function; the gradient of both parameters is not zero there."""
        nn.init.zeros_(self.scale)
        nn.init.zeros_(self.shift)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., features]` onto itself."""
        return x * self.scale + self.shift


class SwiGLU(nn.Module):
    """`down(silu(gate(x)) * up(x))` (Shazeer 2020)."""

    def __init__(self, gate: nn.Linear, up: nn.Linear, down: nn.Linear) -> None:
        super().__init__()
        self.gate, self.up, self.down = gate, up, down

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., d_in]` to `[..., d_out]`."""
        hidden = nn.functional.silu(self.gate(x)) * self.up(x)
        return self.down(hidden)  # type: ignore[no-any-return]


class OverChannels(nn.Module):
    """Applies a map of features to the channels of `[B, C, ...]`, position by position."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, ...]` to `[B, C', ...]`."""
        mapped: Tensor = self.inner(x.movedim(1, -1))
        return mapped.movedim(-1, 1)
