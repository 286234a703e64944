"""How a blueprint's output B enters the host's stream, with what a plain formula would break.

These are the twins of the kernels: the same result, by torch. Legend: A active seeds, N examples;
`x`, `b` are `[A, N, ...]`, alpha is `[A]`.

- alpha 0 selects the host's value; 0 times an infinity would be NaN.
- An element of B that is not finite counts as the identity, and no gradient enters B through it.
- A backward pass through a B that overflowed gives NaN although its gradient is 0, so what leaves
  B backwards passes a guard: nothing but finite numbers reaches the host or the pool.
- dL/dalpha comes with the backward pass, for seeds at alpha 0 too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def broadcast(alpha: Tensor, like: Tensor) -> Tensor:
    """Alpha `[A]` in the dtype of `like` `[A, ...]`, to be multiplied with it."""
    return alpha.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def not_finite(b: Tensor) -> Tensor:
    """Two passes over the memory, where `~isfinite(b)` takes five."""
    return (b - b).ne(0)


def by_seed(values: Tensor) -> Tensor:
    """Sums over all but the first axis."""
    return values.sum(tuple(range(1, values.dim())))


def finite_only(gradient: Tensor) -> Tensor:
    """A gradient without what is not finite."""
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def difference(b: Tensor, x: Tensor) -> Tensor:
    """`b - x` in float32 at least: it may be more than float16 holds where both are not."""
    wide = torch.promote_types(b.dtype, torch.float32)
    return b.to(wide) - x.to(wide)


class _Blend(Function):
    """An inline seed: `(1 - alpha) x + alpha B` (replace) or `x + alpha B` (residual)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, b: Tensor, alpha: Tensor, replace: bool
    ) -> tuple[Tensor, Tensor]:
        bad = not_finite(b)
        change = torch.where(bad, 0, difference(b, x) if replace else b)
        a = broadcast(alpha, x)
        mixed = (x + a * change).to(x.dtype)
        if replace:  # at alpha 1 the sum x + (b - x) would round; there B itself is the result
            mixed = torch.where((a == 1) & ~bad, b, mixed)
        ctx.save_for_backward(change, bad, alpha)
        ctx.replace = replace
        counts = by_seed(bad)
        ctx.mark_non_differentiable(counts)
        return torch.where(a == 0, x, mixed), counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        change, bad, alpha = ctx.saved_tensors
        through = torch.where(bad, 0, broadcast(alpha, g) * g)  # to B
        to_alpha = by_seed(g.to(alpha.dtype) * change.to(alpha.dtype))
        return (g - through if ctx.replace else g), through, to_alpha, None


class _Add(Function):
    """Parallel seeds: `y + sum over the seeds of alpha B`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, b: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        bad = not_finite(b)
        safe = torch.where(bad, 0, b)
        total = (broadcast(alpha, safe) * safe).sum(0)  # a product would round under autocast
        ctx.save_for_backward(safe, bad, alpha)
        counts = by_seed(bad)
        ctx.mark_non_differentiable(counts)
        return torch.where((alpha == 0).all(), y, y + total), counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        safe, bad, alpha = ctx.saved_tensors
        through = torch.where(bad, 0, broadcast(alpha, safe) * g)
        return g, through, _to_alpha(safe, g, alpha)


class _AddOne(Function):
    """The same for one seed that is finite, on a CPU, where a look at alpha costs nothing."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, b: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(b, alpha)
        factor = float(alpha)
        return torch.add(y, b.squeeze(0), alpha=factor) if factor else y.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, alpha = ctx.saved_tensors
        factor = float(alpha)
        through = g if factor == 1 else factor * g
        return g, through.unsqueeze(0), _to_alpha(b, g, alpha)


def _to_alpha(b: Tensor, g: Tensor, alpha: Tensor) -> Tensor:
    return torch.mv(b.flatten(1).to(alpha.dtype), g.flatten().to(alpha.dtype))


class _Taken(Function):
    """Rows of stacks; backwards they get what is finite, and those that train alone."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, trains: Tensor | None, dtype: torch.dtype, *stacks: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(rows, trains)
        ctx.stacks = [(stack.shape, stack.dtype) for stack in stacks]
        ctx.whole = len(rows) == 1 == len(stacks[0])
        if ctx.whole:
            return tuple(stack.view_as(stack).to(dtype) for stack in stacks)
        return tuple(stack.index_select(0, rows).to(dtype) for stack in stacks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *pulled: Tensor) -> tuple[Tensor | None, ...]:
        rows, trains = ctx.saved_tensors
        found = []
        for g, (shape, dtype) in zip(pulled, ctx.stacks, strict=True):
            g = finite_only(g)
            if trains is not None:
                g = torch.where(trains.view(-1, *[1] * (g.dim() - 1)), g, 0)
            g = g.to(dtype)
            found.append(g if ctx.whole else g.new_zeros(shape).index_add_(0, rows, g))
        return None, None, None, *found


class _Guard(Function):
    """The identity; backwards, what is not finite becomes 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return finite_only(g)


def blend(x: Tensor, b: Tensor, alpha: Tensor, replace: bool) -> tuple[Tensor, Tensor]:
    """Inline seeds.

    Args:
        x: the host's chunks, `[A, N, ...]`.
        b: what the blueprints make of them, same shape.
        alpha: float32 `[A]` in [0, 1].
        replace: whether B takes the chunk's place; else it is added.

    Returns:
        The new chunks, and the number of elements of `b` that are not finite, int64 `[A]`.
    """
    mixed, counts = _Blend.apply(x, b.to(x.dtype), alpha, replace)  # type: ignore[no-untyped-call]
    return mixed, counts


def add(y: Tensor, b: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Parallel seeds.

    Args:
        y: the host's output, `[N, ...]`.
        b: what the blueprints make of the site's input, `[A, N, ...]`.
        alpha: float32 `[A]` in [0, 1].

    Returns:
        The new output, and the number of elements of `b` that are not finite, int64 `[A]`.
    """
    b = b.to(y.dtype)
    if len(b) == 1 and b.device.type == "cpu" and b.sum().isfinite():
        one: Tensor = _AddOne.apply(y, b, alpha)  # type: ignore[no-untyped-call]
        return one, torch.zeros(1, dtype=torch.int64)
    total, counts = _Add.apply(y, b, alpha)  # type: ignore[no-untyped-call]
    return total, counts


def guard(x: Tensor) -> Tensor:
    """`x`, through which only finite gradients pass."""
    if not torch.is_grad_enabled() or not x.requires_grad:
        return x
    guarded: Tensor = _Guard.apply(x)  # type: ignore[no-untyped-call]
    return guarded


def taken(
    stacks: Sequence[Tensor], rows: Tensor, trains: Tensor | None, dtype: torch.dtype
) -> Sequence[Tensor]:
    """The rows int64 `[A]` of each stack `[capacity, ...]`, `[A, ...]` in `dtype`.

    Args:
        stacks: the parameters of a pool.
        rows: what to take.
        trains: bool `[A]`, through which of them a gradient passes, if it is finite; None for all.
        dtype: of what is returned.
    """
    if not torch.is_grad_enabled():
        return [stack.index_select(0, rows).to(dtype) for stack in stacks]
    found: Sequence[Tensor] = _Taken.apply(rows, trains, dtype, *stacks)  # type: ignore[no-untyped-call]
    return found
