"""The kinds that look at all of an example: `attention` and `squeeze_excite`.

Legend: S seeds, B examples, T tokens or positions, h hidden units.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from kasmina.blueprints import plain
from kasmina.blueprints.maps import linear, plain_linear, uniform
from kasmina.blueprints.options import Legal, OneOf
from kasmina.blueprints.plain import FLAT, attend, tokens_of
from kasmina.blueprints.registry import Blueprint, Parameters, blueprint
from kasmina.blueprints.shape import BlueprintError, SiteShape


@blueprint("attention")
class Attention(Blueprint):
    """One head of attention: `out(softmax(q k^T / sqrt(h)) v)` (Vaswani et al. 2017, equation 1).

    Tokens are the positions of a channel-first site or of the declared layout, or the rows of a
    site of sequences. Where one row holds a whole example, tokens are embedded first and get a
    learned place, and what they attend to is averaged into the output map; elsewhere each token
    writes its own output, and knows of places what the host tells it.

    Args:
        shape: the place; must have a layout, or be channel-first with equal positions.
        hidden: width of the head.
        causal: whether a token sees those before it only; by default at sites of sequences, where
            a language model's seed could read the answer else. Possible there only.
    """

    options: ClassVar[Mapping[str, Legal]] = {
        **Blueprint.options,
        "causal": OneOf(None, True, False),
    }

    def __init__(self, shape: SiteShape, hidden: int, causal: bool | None = None) -> None:
        super().__init__(shape, hidden)
        self.check({"causal": causal})
        if shape.moves_positions:
            raise BlueprintError(
                f"blueprint 'attention' writes at the positions that it reads, but the site changes "
                f"them from {shape.layout} to {shape.out_layout}; use blueprint='conv', or "
                "placement='inline'"
            )
        if not shape.channels_first and shape.layout is None:
            raise BlueprintError(
                "blueprint 'attention' needs tokens, and this site's features have no layout; give "
                "Site(..., layout=(1, 40)) or layout=('sequence', tokens, features), or an "
                "example= to morph()"
            )
        self.form = self._form()
        self.causal = self.form == "tokens" if causal is None else causal
        if self.causal and self.form != "tokens":
            raise BlueprintError(
                "blueprint 'attention': causal=True is for sites of sequences, [B, tokens, "
                "features]; here one output is made of all positions"
            )

    def _form(self) -> str:
        if self.shape.channels_first:
            return "channels"
        if self.shape.tokens:
            return "tokens"
        if self.shape.placement == "inline":
            raise BlueprintError(
                "blueprint 'attention' cannot transform a chunk of plain features, which have no "
                "positions; use placement='parallel', or a site of channels or sequences"
            )
        return "sequence" if self.shape.sequence else "signal"

    @property
    def _axes(self) -> tuple[int, ...]:
        layout = self.shape.layout or ()
        axes = {"signal": (layout[:1] or (1,)) + (prod(layout[1:]),), "sequence": layout}
        return {**axes, "tokens": layout[:1], "channels": ()}[self.form]

    @property
    def _tokens(self) -> int:
        """Of one example; 1 where they are not known."""
        layout = self.shape.layout
        if layout is None:
            return 1
        return layout[0] if self.shape.sequence else prod(layout[1:])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`q_weight`, `k_weight`, `v_weight`, `out_weight`; with places `embed_weight`, `place`."""
        width = self.hidden
        found: dict[str, tuple[int, ...]] = {}
        read = self.shape.d_in
        if self.form in FLAT:
            read = width
            features = self.shape.d_in // self._tokens
            found = {"embed_weight": (width, features), "place": (self._tokens, width)}
        found |= {f"{name}_weight": (width, read) for name in "qkv"}
        found["out_weight"] = (self.shape.d_out, width)
        if self.shape.placement == "inline":
            found["out_bias"] = (self.shape.d_out,)
        return found

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Every map as nn.Linear starts, places as a map of their width."""
        return {
            name: uniform(shape, self.hidden if name == "out_bias" else shape[-1], generator)
            for name, shape in self.shapes().items()
        }

    def forward(self, params: Parameters, x: Tensor) -> Tensor:
        """See `Blueprint.forward`."""
        inline = self.shape.placement == "inline"
        read = x.flatten(0, 1) if inline and self.form == "channels" else x
        tokens = tokens_of(read, self.form, self._axes)  # [B, T, F], or inline [S(,) B, T, F]
        count = tokens.shape[-2]
        rows = tokens.reshape(*([len(x)] if inline else []), -1, tokens.shape[-1])
        if self.form in FLAT:
            embedded = torch.unflatten(linear(rows, params["embed_weight"]), 1, (-1, count))
            rows = (embedded + params["place"].unsqueeze(1)).flatten(1, 2)
        q, k, v = (
            torch.unflatten(linear(rows, params[f"{n}_weight"]), 1, (-1, count)) for n in "qkv"
        )
        mixed = attend(q, k, v, self.causal)  # [S, B, T, h]
        if self.form in FLAT:
            return linear(mixed.mean(2), params["out_weight"])
        made = linear(mixed.flatten(1, 2), params["out_weight"], params.get("out_bias"))
        if self.form == "tokens":
            return made
        apart = torch.unflatten(made, 1, (-1, count)).transpose(2, 3)  # [S, B, d_out, T]
        return torch.unflatten(apart, 3, x.shape[3:] if inline else x.shape[2:])

    def output(self) -> tuple[str, ...]:
        """The last map."""
        return tuple(name for name in self.shapes() if name.startswith("out"))

    def flops(self) -> int:
        """The maps of every token, and two products of every pair of tokens."""
        shapes, tokens = self.shapes(), self._tokens
        inner = sum(
            prod(s) for n, s in shapes.items() if n.endswith("_weight") and n != "out_weight"
        )
        out = prod(shapes["out_weight"]) * (1 if self.form in FLAT else tokens)
        return 2 * (inner * tokens + 2 * tokens * tokens * self.hidden + out)

    def export(self, params: Parameters) -> nn.Module:
        """The plain AttentionHead."""
        maps = {
            name.removesuffix("_weight"): plain_linear(
                params[name], params.get(name.replace("weight", "bias"))
            )
            for name in self.shapes()
            if name.endswith("_weight")
        }
        return plain.AttentionHead(maps, self.form, self._axes, self.causal, params.get("place"))


@blueprint("squeeze_excite")
class SqueezeExcite(Blueprint):
    """`x * scale * sigmoid(up(relu(down(s))))`, s the mean of each channel (Hu et al. 2018).

    Channels are those of a channel-first site or of the declared layout; at other sites each
    feature is its own mean, also in sequences, where a mean over tokens would tell of later ones.
    The scale, one number a channel, is not in the paper: it lets the line search before a graft
    find the size. Starts as the zero function.

    Args:
        shape: the place; writes what it reads, so a parallel seed needs equal features there.
        hidden: units between `down` and `up`.
    """

    def __init__(self, shape: SiteShape, hidden: int) -> None:
        super().__init__(shape, hidden)
        if shape.d_in != shape.d_out or shape.moves_positions:
            raise BlueprintError(
                "blueprint 'squeeze_excite' scales what it reads, but this site reads "
                f"{shape.layout or shape.d_in} and writes {shape.out_layout or shape.d_out}; use "
                "'conv' or 'mlp' here, or placement='inline'"
            )
        flat = not shape.channels_first and not shape.sequence and shape.placement == "parallel"
        self._flat = shape.layout if flat else None
        self._spread = shape.channels_first or self._flat is not None

    @property
    def _channels(self) -> int:
        return self._flat[0] if self._flat is not None else self.shape.d_in

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`down_weight` `[hidden, C]`, `up_weight` `[C, hidden]`, their biases, `scale` `[C]`."""
        c, h = self._channels, self.hidden
        maps: dict[str, tuple[int, ...]] = {"down_weight": (h, c), "down_bias": (h,)}
        return {**maps, "up_weight": (c, h), "up_bias": (c,), "scale": (c,)}

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Maps as nn.Linear starts, the scale at 0."""
        fan_in = {"down": self._channels, "up": self.hidden}
        return {
            name: torch.zeros(shape, device=generator.device)
            if name == "scale"
            else uniform(shape, fan_in[name.partition("_")[0]], generator)
            for name, shape in self.shapes().items()
        }

    def forward(self, params: Parameters, x: Tensor) -> Tensor:
        """See `Blueprint.forward`."""
        shaped = x if self._flat is None else torch.unflatten(x, -1, self._flat)
        channels = 2 if self.shape.placement == "inline" else 1
        squeezed = shaped.flatten(channels + 1).mean(-1) if self._spread else shaped
        hidden = torch.relu(linear(squeezed, params["down_weight"], params["down_bias"]))
        gate = torch.sigmoid(linear(hidden, params["up_weight"], params["up_bias"]))
        gate = gate * params["scale"].unsqueeze(1)  # [S, B, C]
        gate = gate.reshape(*gate.shape, *[1] * (shaped.dim() - channels - 1))
        made = gate * shaped
        return made if self._flat is None else made.flatten(2)

    def output(self) -> tuple[str, ...]:
        """The scale."""
        return ("scale",)

    def flops(self) -> int:
        """Both maps; products element by element are left out, as torch's counter does."""
        rows = 1 if self._spread else self.shape.positions
        return 2 * 2 * self._channels * self.hidden * rows

    def export(self, params: Parameters) -> nn.Module:
        """The plain SqueezeExcite."""
        down, up = (
            plain_linear(params[f"{n}_weight"], params[f"{n}_bias"]) for n in ("down", "up")
        )
        return plain.SqueezeExcite(down, up, params["scale"], self._flat, self._spread)
