"""A blueprint that can learn nothing: what a gate must never let pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kasmina.blueprints import Blueprint, blueprint
from kasmina.blueprints.maps import linear, uniform
from kasmina.blueprints.registry import Parameters

WAVES = 1000.0  # per unit of input: neighbours in the data are thousands of periods apart


@blueprint("noise")
class Noise(Blueprint):
    """`out(sin(1000 up(x)))`: a fixed function of the input that no two examples share.

    It has parameters and a gradient like others; following it leads nowhere.
    """

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`up_weight` `[hidden, d_in]`, `out_weight` `[d_out, hidden]`."""
        return {
            "up_weight": (self.hidden, self.shape.d_in),
            "out_weight": (self.shape.d_out, self.hidden),
        }

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """As nn.Linear starts."""
        return {name: uniform(shape, shape[1], generator) for name, shape in self.shapes().items()}

    def forward(self, params: Parameters, x: Tensor) -> Tensor:
        """See `Blueprint.forward`; at a parallel site of features."""
        return linear(torch.sin(WAVES * linear(x, params["up_weight"])), params["out_weight"])

    def output(self) -> tuple[str, ...]:
        """The last map."""
        return ("out_weight",)

    def flops(self) -> int:
        """Two products with each weight."""
        return 2 * self.hidden * (self.shape.d_in + self.shape.d_out)

    def export(self, params: Parameters) -> nn.Module:
        """Nothing that was noise is ever exported.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("noise is for benchmarks; fold a model without it")
