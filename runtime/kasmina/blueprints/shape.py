"""What a blueprint must know of the place that it grows in, and what it costs there."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from kasmina.errors import KasminaError

Placement = Literal["inline", "parallel"]


class BlueprintError(KasminaError, ValueError):
    """A blueprint that does not exist, or that cannot grow where it was asked to."""


@dataclass(frozen=True, slots=True)
class SiteShape:
    """The tensors that one seed of a site maps.

    Attributes:
        placement: `inline` maps a chunk of the site's output onto itself, `parallel` the site's
            input onto its output.
        d_in: features that a seed reads; for an inline seed the width of its chunk.
        d_out: features that a seed writes; equal to `d_in` for an inline seed.
        layout: shape of one example of the site's input, `(channels, length)`, `(channels, height,
            width)` or, with `sequence`, `(tokens, features)`; None where it is unknown or where
            the features have no neighbours.
        channels_first: whether the site's tensors are `[B, C, ...]`; else features come last.
        out_layout: shape of one example of the output, where `channels_first` and known.
        sequence: whether the layout is one of tokens, each with its features.
    """

    placement: Placement
    d_in: int
    d_out: int
    layout: tuple[int, ...] | None = None
    channels_first: bool = False
    out_layout: tuple[int, ...] | None = None
    sequence: bool = False

    def __post_init__(self) -> None:
        if min(self.d_in, self.d_out) < 1:
            raise BlueprintError(f"a seed needs features; got d_in={self.d_in}, d_out={self.d_out}")
        if self.placement == "inline" and self.d_in != self.d_out:
            raise BlueprintError(
                f"an inline seed maps its chunk onto itself, so d_in={self.d_in} and "
                f"d_out={self.d_out} must be equal"
            )
        if self.layout is None or self.channels_first or self.tokens:
            return
        if prod(self.layout) != self.d_in:
            raise BlueprintError(
                f"layout {self.layout} holds {prod(self.layout)} values, but the site's input has "
                f"{self.d_in} features; the product of the layout must be {self.d_in}"
                + (f", or its last number {self.d_in}" if self.sequence else "")
            )

    @property
    def moves_positions(self) -> bool:
        """Whether a parallel seed must write other positions than it reads, as far as is known."""
        if self.placement != "parallel" or None in (self.layout, self.out_layout):
            return False
        assert self.layout is not None
        assert self.out_layout is not None
        return self.channels_first and self.layout[1:] != self.out_layout[1:]

    @property
    def tokens(self) -> int:
        """Tokens of one example where each is a row of what the seeds read, `[B * tokens, d_in]`.

        0 where a row is an example.
        """
        if self.layout is None or not self.sequence or self.channels_first:
            return 0
        rows = self.placement == "inline" or self.d_in == self.layout[1]
        return self.layout[0] if rows else 0

    @property
    def positions(self) -> int:
        """Places of one example at which a map over the features alone is applied."""
        if self.tokens:
            return self.tokens
        if not self.channels_first or self.out_layout is None:
            return 1
        return prod(self.out_layout[1:])


@dataclass(frozen=True, slots=True)
class Cost:
    """What one seed costs: trainable numbers, FLOPs of a forward pass of one example, bytes.

    2 FLOPs for a multiply-add; additions of biases and activations are left out, as
    `torch.utils.flop_counter` does. Bytes are those of float32 parameters.
    """

    parameters: int
    flops_per_example: int
    bytes: int
