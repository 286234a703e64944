"""The kind that looks back along a sequence: `causal_conv`.

Legend: S seeds, R rows of all examples, T tokens, h hidden channels, k kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from kasmina.blueprints import plain
from kasmina.blueprints.maps import filled, linear, plain_linear, uniform
from kasmina.blueprints.options import Legal, Whole
from kasmina.blueprints.registry import Blueprint, Parameters, blueprint
from kasmina.blueprints.shape import BlueprintError, SiteShape


@blueprint("causal_conv")
class CausalConv(Blueprint):
    """`out(silu(conv(x)))`, where a token sees itself and the `kernel - 1` before it.

    Causal by zeros in front of the sequence (van den Oord et al. 2016, WaveNet, section 2.1). At a
    site of sequences whose rows are tokens, parallel or inline.

    Args:
        shape: the place; its layout must be one of tokens.
        hidden: channels between the convolution and the map of each token.
        kernel: tokens that one output sees, 1 to 1,023.
    """

    options: ClassVar[Mapping[str, Legal]] = {**Blueprint.options, "kernel": Whole(most=1023)}

    def __init__(self, shape: SiteShape, hidden: int, kernel: int = 5) -> None:
        super().__init__(shape, hidden)
        if not shape.tokens:
            raise BlueprintError(
                f"blueprint {self.name!r} needs the order of tokens, and the rows of this site are "
                f"none (layout {shape.layout}); give Site(..., layout=('sequence', tokens, "
                "features)) where each token is a row, or use 'conv' for signals and pictures"
            )
        self.check({"kernel": kernel})
        self.kernel = kernel

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`conv_weight` `[h, d_in, k]`, `conv_bias`, `out_weight` `[d_out, h]`; inline `out_bias`."""
        found: dict[str, tuple[int, ...]] = {
            "conv_weight": (self.hidden, self.shape.d_in, self.kernel),
            "conv_bias": (self.hidden,),
            "out_weight": (self.shape.d_out, self.hidden),
        }
        if self.shape.placement == "inline":
            found["out_bias"] = (self.shape.d_out,)
        return found

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """As nn.Conv1d and nn.Linear start."""
        fan_in = {"conv": self.shape.d_in * self.kernel, "out": self.hidden}
        return {
            name: uniform(shape, fan_in[name.partition("_")[0]], generator)
            for name, shape in self.shapes().items()
        }

    def forward(self, params: Parameters, x: Tensor) -> Tensor:
        """See `Blueprint.forward`; seeds are channels, or groups where each has its own input."""
        weight, bias = params["conv_weight"], params["conv_bias"]
        seeds, inline = len(weight), self.shape.placement == "inline"
        rows = torch.unflatten(x, -2, (-1, self.shape.tokens))  # [(S,) B, T, d_in]
        read = rows.movedim(0, -2).flatten(-2) if inline else rows
        made = plain.look_back(
            read.transpose(1, 2), weight.flatten(0, 1), bias.flatten(), seeds if inline else 1
        )
        hidden = torch.unflatten(made, 1, (seeds, -1)).permute(1, 0, 3, 2).flatten(1, 2)
        return linear(hidden, params["out_weight"], params.get("out_bias"))  # [S, R, d_out]

    def output(self) -> tuple[str, ...]:
        """The last map."""
        return tuple(name for name in self.shapes() if name.startswith("out"))

    def flops(self) -> int:
        """Two products with each weight at each token."""
        weights = (prod(s) for name, s in self.shapes().items() if name.endswith("_weight"))
        return 2 * self.shape.tokens * sum(weights)

    def export(self, params: Parameters) -> nn.Module:
        """The plain CausalConv."""
        weight, bias = params["conv_weight"], params["conv_bias"]
        convolution = nn.Conv1d(
            weight.shape[1], weight.shape[0], self.kernel, device="meta", dtype=weight.dtype
        )
        out = plain_linear(params["out_weight"], params.get("out_bias"))
        return plain.CausalConv(filled(convolution, weight, bias), out, self.shape.tokens)
