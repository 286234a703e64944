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


class Transposed(nn.Module):
    """`[B, T, F]` as `[B, F, T]`."""

    def forward(self, x: Tensor) -> Tensor:
        """Swap the two."""
        return x.transpose(1, 2)


def look_back(x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
    """`silu` of a convolution over what was: `[B, C, T]` to `[B, C', T]`, zeros in front."""
    before = nn.functional.pad(x, (weight.shape[-1] - 1, 0))
    return nn.functional.silu(nn.functional.conv1d(before, weight, bias, groups=groups))


class CausalConv(nn.Module):
    """`out(silu(conv(x)))`, each token seeing itself and those before it.

    Args:
        conv: without padding.
        out: of each token.
        tokens: T.
    """

    def __init__(self, conv: nn.Conv1d, out: nn.Linear, tokens: int) -> None:
        super().__init__()
        self.conv, self.out, self.tokens = conv, out, tokens

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B * T, F]` or `[B, T, F]` to the same with the features of `out`."""
        rows = x if x.dim() == 3 else torch.unflatten(x, 0, (-1, self.tokens))
        assert self.conv.bias is not None
        made = look_back(rows.transpose(1, 2), self.conv.weight, self.conv.bias)
        mapped: Tensor = self.out(made.transpose(1, 2))
        return mapped if x.dim() == 3 else mapped.flatten(0, 1)


class SqueezeExcite(nn.Module):
    """`x * scale * sigmoid(up(relu(down(s))))`, where s is the mean of each channel of x.

    Args:
        down: from the channels to the hidden units.
        up: back.
        scale: `[C]`.
        channels: shape `(channels, ...)` of an example that comes flattened, else None.
        spread: whether the channels are on axis 1 of `[B, C, ...]`; else on the last, by themselves.
    """

    def __init__(
        self,
        down: nn.Linear,
        up: nn.Linear,
        scale: Tensor,
        channels: tuple[int, ...] | None,
        spread: bool,
    ) -> None:
        super().__init__()
        self.down, self.up, self.channels, self.spread = down, up, channels, spread
        self.scale = nn.Parameter(scale.detach().clone())

    def reset_parameters(self) -> None:
        """Start as the zero function; the gradient of the scale is not zero there."""
        nn.init.zeros_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, C, ...]`, `[..., C]` or `[B, C * ...]` onto itself."""
        shaped = x if self.channels is None else torch.unflatten(x, -1, self.channels)
        squeezed = shaped.flatten(2).mean(2) if self.spread else shaped
        gate = self.scale * torch.sigmoid(self.up(torch.relu(self.down(squeezed))))
        if self.spread:
            gate = gate.view(*gate.shape, *[1] * (shaped.dim() - 2))
        return (shaped * gate).reshape(x.shape)


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1).

    Args:
        q: `[..., T, h]`.
        k: the same.
        v: the same.
        causal: whether a token sees itself and those before it only.
    """
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return torch.matmul(scores.softmax(-1), v)


class AttentionHead(nn.Module):
    """One head of attention over the tokens or positions of an example.

    Args:
        maps: `q`, `k`, `v`, `out`, and `embed` where there are places.
        form: how the tokens lie in the input: `signal` `[B, C * P]`, `sequence` `[B, T * F]`,
            `tokens` `[B * T, F]` or `[B, T, F]`, `channels` `[B, C, ...]`.
        axes: `(C, P)`, `(T, F)` or `(T,)` of these; empty for `channels`.
        causal: see `attend`.
        place: what is added to each embedded token, `[T, h]`; None for nothing.
    """

    def __init__(
        self,
        maps: dict[str, nn.Linear],
        form: str,
        axes: tuple[int, ...],
        causal: bool,
        place: Tensor | None,
    ) -> None:
        super().__init__()
        self.maps = nn.ModuleDict(maps)
        self.form, self.axes, self.causal = form, axes, causal
        self.place = None if place is None else nn.Parameter(place.detach().clone())

    def reset_parameters(self) -> None:
        """Start the places as an nn.Linear of their width starts."""
        if self.place is not None:
            bound = self.place.shape[1] ** -0.5
            nn.init.uniform_(self.place, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """See `form`; `signal` and `sequence` give `[B, d_out]`, the others keep their tokens."""
        apart = self.form == "tokens" and x.dim() == 3
        rows = x if apart else tokens_of(x, self.form, self.axes)
        if self.place is not None:
            rows = self.maps["embed"](rows) + self.place
        q, k, v = (self.maps[name](rows) for name in "qkv")
        mixed = attend(q, k, v, self.causal)
        if self.form in FLAT:
            mixed = mixed.mean(-2)
        made: Tensor = self.maps["out"](mixed)
        return made if apart else tokens_back(made, x, self.form)


FLAT = ("signal", "sequence")  # forms in which one row holds all tokens


def tokens_of(x: Tensor, form: str, axes: tuple[int, ...]) -> Tensor:
    """The tokens of each example, `[..., B, T, F]`; `form` and `axes` as in `AttentionHead`."""
    if form == "signal":
        return torch.unflatten(x, -1, axes).transpose(-1, -2)
    if form == "sequence":
        return torch.unflatten(x, -1, axes)
    if form == "tokens":
        return torch.unflatten(x, -2, (-1, *axes))
    return x.flatten(2).transpose(-1, -2)


def tokens_back(made: Tensor, x: Tensor, form: str) -> Tensor:
    """What was made of the tokens in the form in which `x` had them."""
    if form == "tokens":
        return made.flatten(-3, -2)
    if form == "channels":
        return torch.unflatten(made.transpose(-1, -2), -1, x.shape[2:])
    return made
