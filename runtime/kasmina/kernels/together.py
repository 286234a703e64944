"""Parallel seeds in torch: the hidden units of all of them are one layer, and one product adds them.

The twin of the kernels in `parallel`. The sum over the seeds comes out of the product, so what one
seed puts out is never written down; where any of it might not be finite, which the largest
magnitudes tell, all seeds are computed one beside the other as `mixing.add` does. In a backward
pass a lane that is not finite is dropped alone. It looks at values on the host: for CPUs.

Legend: A active seeds, N examples, H hidden units of a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kasmina.kernels.mixing import broadcast, by_seed, finite_only, not_finite

OUT = "out_weight"  # [A, d_out, H], the last map
# Elements of all that the seeds put out from which on it is the quicker way (torch 2.13, a CPU core:
# forwards and backwards as fast at 4 seeds, 100 x 16; 4 times as fast at 26 seeds, 256 x 64).
WORTH = 2**14
_ROOM = 0.25  # of the largest number, for what rounding may add to the bound


class Units(NamedTuple):
    """What a kind computes: `out(value(map(x), ...))`.

    A map is `<name>_weight` `[A, H, d_in]` and maybe `<name>_bias` `[A, H]`; `out` has no bias.
    """

    maps: tuple[str, ...]
    value: Callable[..., Tensor]  # of what the maps give, element by element
    # Of dL/dvalue and what the maps give: the gradients of that; None lets autograd find them.
    slopes: Callable[..., Sequence[Tensor]] | None = None

    def pulled(self, flow: Tensor, given: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients of what the maps gave, from that of the value."""
        if self.slopes is not None:
            return self.slopes(flow, *given)
        with torch.enable_grad():
            leaves = [each.detach().requires_grad_() for each in given]
            value = self.value(*leaves).to(flow.dtype)
        return torch.autograd.grad(value, leaves, flow)


class _Together(Function):
    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        x: Tensor,
        alpha: Tensor,
        units: Units,
        names: Sequence[str],
        *params: Tensor,
    ) -> tuple[Tensor, Tensor]:
        rows = {name: p.to(y.dtype) for name, p in zip(names, params, strict=True)}
        given = _given(x.to(y.dtype), units, rows)
        hidden = _by_unit(units.value(*given).to(y.dtype), rows)
        ctx.exact = _may_overflow(hidden, rows[OUT])
        ctx.units, ctx.names = units, names
        ctx.save_for_backward(x, alpha, *given, *params)
        if ctx.exact:
            out, counts = _apart(y, hidden, rows[OUT], alpha)
        else:
            counts = torch.zeros(len(alpha), dtype=torch.int64, device=y.device)
            scaled = (hidden * _scale(alpha, hidden)).flatten(1)
            out = torch.addmm(y, scaled, _side(rows[OUT])) if alpha.any() else y.clone()
        ctx.mark_non_differentiable(counts)
        return out, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, *rest = ctx.saved_tensors
        given, params = rest[: len(ctx.units.maps)], rest[len(ctx.units.maps) :]
        rows = {name: p.to(g.dtype) for name, p in zip(ctx.names, params, strict=True)}
        hidden = _by_unit(ctx.units.value(*given).to(g.dtype), rows)
        pull = _pull_apart if ctx.exact else _pull
        flow, to_out = pull(g, hidden, rows[OUT], alpha)
        to_alpha = by_seed((finite_only(hidden) * flow).transpose(0, 1).to(alpha.dtype))
        pulled = ctx.units.pulled((flow * _scale(alpha, flow)).flatten(1), given)
        gradients = {OUT: to_out}
        to_x = torch.zeros_like(x, dtype=g.dtype)
        for name, each in zip(ctx.units.maps, map(finite_only, pulled), strict=True):
            weight = rows[f"{name}_weight"]
            to_x = torch.addmm(to_x, each, finite_only(weight).flatten(0, 1))
            gradients[f"{name}_weight"] = (each.T @ x.to(g.dtype)).view(weight.shape)
            gradients[f"{name}_bias"] = each.sum(0).view(weight.shape[:2])
        found = (
            finite_only(gradients[name]).to(p.dtype)
            for name, p in zip(ctx.names, params, strict=True)
        )
        return g, finite_only(to_x).to(x.dtype), to_alpha, None, None, *found


def _given(x: Tensor, units: Units, rows: Mapping[str, Tensor]) -> list[Tensor]:
    """What the maps give, `[N, A * H]` each."""
    found = []
    for name in units.maps:
        bias = rows.get(f"{name}_bias")
        weight = rows[f"{name}_weight"].flatten(0, 1)
        found.append(F.linear(x, weight, None if bias is None else bias.flatten()))
    return found


def _by_unit(values: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
    """`[N, A * H]` as `[N, A, H]`."""
    seeds, _, hidden = rows[OUT].shape
    return values.view(-1, seeds, hidden)


def _scale(alpha: Tensor, like: Tensor) -> Tensor:
    return alpha.to(like.dtype).unsqueeze(1)


def _side(out: Tensor) -> Tensor:
    """The last maps side by side, `[A * H, d_out]`."""
    return out.transpose(1, 2).flatten(0, 1)


def _may_overflow(hidden: Tensor, out: Tensor) -> bool:
    """Whether an element of what a seed puts out might not be finite."""
    if hidden.numel() == 0 or out.numel() == 0:
        return False
    bound = hidden.shape[2] * _largest(hidden) * _largest(out)
    return not bound <= _ROOM * torch.finfo(hidden.dtype).max


def _largest(values: Tensor) -> float:
    """The largest magnitude; NaN where there is one."""
    least, most = (float(each) for each in torch.aminmax(values))
    return max(-least, most)


def _apart(y: Tensor, hidden: Tensor, out: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Every seed by itself: what is not finite counts as 0, and is counted."""
    made = torch.bmm(hidden.transpose(0, 1), out.transpose(1, 2))
    bad = not_finite(made)
    safe = torch.where(bad, 0, made)
    total = (broadcast(alpha, safe) * safe).sum(0)
    return (y + total if alpha.any() else y.clone()), by_seed(bad)


def _pull(g: Tensor, hidden: Tensor, out: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the hidden units, before alpha, `[N, A, H]`, and of the last maps."""
    flow = (g @ _side(out).T).view(hidden.shape)
    scaled = (hidden * _scale(alpha, hidden)).flatten(1)
    seeds, d_out, units = out.shape
    return flow, (scaled.T @ g).view(seeds, units, d_out).transpose(1, 2)


def _pull_apart(g: Tensor, hidden: Tensor, out: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """As `_pull`; none comes through what is not finite."""
    hidden = hidden.transpose(0, 1)
    through = torch.where(not_finite(torch.bmm(hidden, out.transpose(1, 2))), 0, g)
    flow = torch.bmm(through, finite_only(out)).transpose(0, 1)
    scaled = broadcast(alpha, through) * through
    return flow, torch.bmm(scaled.transpose(1, 2), finite_only(hidden))


def add(
    y: Tensor, x: Tensor, alpha: Tensor, units: Units, params: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """`y + sum over the seeds of alpha B(x)`, in y's dtype; autocast has no say in it.

    Args:
        y: the host's output, `[N, d_out]`.
        x: the site's input, `[N, d_in]`.
        alpha: `[A]` in [0, 1]; y comes back bit by bit where all are 0.
        units: what the kind computes.
        params: name -> `[A, ...]`.

    Returns:
        The new output, and the number of elements of each seed's B that are not finite, int64
        `[A]`. Backwards nothing but finite numbers reaches x and the parameters.
    """
    with torch.autocast(y.device.type, enabled=False):
        out, counts = _Together.apply(  # type: ignore[no-untyped-call]
            y, x, alpha, units, tuple(params), *params.values()
        )
    return out, counts
