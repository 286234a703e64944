"""The twins of the inline kernels: every chunk of a site in one pass of a few torch operations.

Legend: S seeds, A of them that are computed, N examples, F features, c the widest chunk's width;
`x` and `b` are `[A, N, c, ...]`, alpha is `[A]`. Semantics are those of `mixing`.

Everything is computed in the dtype of the host's output: a blueprint in float32 under autocast
computes in bfloat16, eager and compiled alike, and its gradients come back in its own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kasmina.kernels.mixing import broadcast, by_seed, difference, finite_only, not_finite

Formula = Callable[[Mapping[str, Tensor], Tensor], Tensor]
Stacks = Sequence[Sequence[Tensor]]  # by kind of the site, `[capacity, ...]` each


class Kind(NamedTuple):
    """A blueprint's kind: names of its parameters in their order, and what it computes."""

    names: tuple[str, ...]
    formula: Formula


class Cut(NamedTuple):
    """How `[N, F, ...]` is cut into chunks; `columns` and `valid` as ChunkManager gives them."""

    seeds: int
    columns: Tensor  # int64 [S, c]
    valid: Tensor | None  # bool [S, c]; None where all chunks have the same width


class Places:
    """Where the chunks of some seeds are; made after a step, not in a pass.

    Args:
        cut: of the whole tensor.
        slots: int64 `[A]`, whose chunks; None for all of them.
    """

    __slots__ = ("_columns", "_cut", "_filled", "_slots", "_valid")

    def __init__(self, cut: Cut, slots: Tensor | None = None) -> None:
        self._cut, self._slots = cut, slots
        self._columns = cut.columns if slots is None else cut.columns[slots]  # [A, c]
        self._valid, self._filled = cut.valid, None
        if cut.valid is not None:
            self._valid = cut.valid if slots is None else cut.valid[slots]
            self._filled = self._valid.flatten().nonzero().squeeze(1)

    def take(self, y: Tensor) -> Tensor:
        """The chunks, `[N, F, ...]` to `[A, N, c, ...]`; 0 where a narrow one has no feature."""
        if self._valid is None:
            chunks = y.reshape(self._shape(y))
            if self._slots is not None:
                chunks = chunks.index_select(1, self._slots)
            return chunks.transpose(0, 1)
        flat = y.index_select(1, self._columns.flatten())
        chunks = flat.view(len(y), *self._columns.shape, *y.shape[2:]).transpose(0, 1)
        return self.only_features(chunks)

    def _shape(self, y: Tensor) -> tuple[int, ...]:
        return len(y), *self._cut.columns.shape, *y.shape[2:]

    def only_features(self, chunks: Tensor) -> Tensor:
        """`chunks` `[A, N, c, ...]` with 0 where a narrow one has no feature."""
        if self._valid is None:
            return chunks
        valid = self._valid.view(len(chunks), 1, -1, *[1] * (chunks.dim() - 3))
        return torch.where(valid, chunks, 0)

    def put(self, y: Tensor, chunks: Tensor) -> None:
        """Write chunks `[A, N, c, ...]` into their places of a contiguous `y` `[N, F, ...]`."""
        values = chunks.transpose(0, 1)
        if self._filled is None:
            _copy(y.view(self._shape(y)), self._slots, values)
        else:
            columns = self._columns.flatten()[self._filled]
            y.index_copy_(1, columns, values.flatten(1, 2).index_select(1, self._filled))


def _copy(to: Tensor, slots: Tensor | None, values: Tensor) -> None:
    """Write `values` `[N, A, c, ...]` over the chunks `slots` of `to` `[N, S, c, ...]`."""
    if slots is None:
        to.copy_(values)
    elif to.device.type == "cpu" and values.dim() == 3 and values.stride(2) == 1:
        _blocks(to)[:, slots.numpy()] = _blocks(values)
    else:
        to.index_copy_(1, slots, values)


def _blocks(chunks: Tensor) -> NDArray[np.void]:
    """A view of `[N, A, c]` as `[N, A]` blocks of bytes.

    NumPy copies a block at once, where index_copy_ moves number by number: half the time.
    """
    size = chunks.shape[2] * chunks.element_size()
    return chunks.view(torch.uint8).numpy().view(f"V{size}")[:, :, 0]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Seeds of one kind that are computed together, as they stood when they were selected.

    `rows` are rows of the kind's pool. `mixed` tells which of the seeds count, `trains` whose
    parameters get a gradient; None for all.
    """

    kind: Kind
    number: int
    slots: Tensor  # int64 [A]
    rows: Tensor | slice  # int64 [A], or a slice of neighbours
    places: Places
    mixed: Tensor | None = None  # bool [A]
    trains: Tensor | None = None  # bool [A]

    def of(self, stack: Tensor) -> Tensor:
        """The seeds' rows of a parameter of the pool, `[A, ...]`."""
        return (
            stack[self.rows] if isinstance(self.rows, slice) else stack.index_select(0, self.rows)
        )

    def put(self, y: Tensor, chunks: Tensor) -> None:
        """Write the chunks `[A, N, c, ...]` of the seeds that count into `y` `[N, F, ...]`."""
        if self.mixed is not None:
            mixed = self.mixed.view(-1, *[1] * (chunks.dim() - 1))
            chunks = torch.where(mixed, chunks, self.places.take(y))
        self.places.put(y, chunks)


@dataclass(slots=True)
class Made:
    """What a group's blueprints made of their chunks, for the backward pass."""

    group: Group
    alpha: Tensor  # [A], 0 where a seed does not count
    leaves: list[Tensor]  # chunks [A, N, c, ...], then parameters [A, ...]
    output: Tensor  # B of them, [A, N, c, ...]
    bad: Tensor | None  # bool, where it is not finite; None where it is finite everywhere


def make(group: Group, y: Tensor, alpha: Tensor, stack: Sequence[Tensor], grad: bool) -> Made:
    """Run a group's blueprints; to be called without gradients.

    Args:
        group: whose.
        y: the host's output, `[N, F, ...]`.
        alpha: `[S]` in [0, 1].
        stack: the parameters of the kind's pool, `[capacity, ...]` each.
        grad: whether `pull` will be asked for the gradients of what is made.
    """
    leaves = [group.places.take(y), *(group.of(p).to(y.dtype) for p in stack)]
    if grad:
        leaves = [each.detach().requires_grad_() for each in leaves]
    output = _computed(group, leaves, y, grad)
    alpha = alpha.index_select(0, group.slots)
    if group.mixed is not None:
        alpha = torch.where(group.mixed, alpha, 0)
    return Made(group, alpha, leaves, output, _bad(output.detach()))


def _computed(group: Group, leaves: list[Tensor], y: Tensor, grad: bool) -> Tensor:
    if torch.is_autocast_enabled(y.device.type):
        with torch.autocast(y.device.type, enabled=False):
            return _computed(group, leaves, y, grad)
    named = dict(zip(group.kind.names, leaves[1:], strict=True))
    with torch.set_grad_enabled(grad):
        output = group.kind.formula(named, leaves[0])
        return group.places.only_features(output.to(y.dtype))


@contextmanager
def differentiable() -> Iterator[None]:
    """Inside, gradients can be asked for; an op's body is below autograd, where they cannot."""
    keys = torch._C.DispatchKey
    with (
        torch._C._SetExcludeDispatchKeyGuard(keys.AutogradFunctionality, False),
        torch._C._SetExcludeDispatchKeyGuard(keys.ADInplaceOrView, False),
    ):
        yield


def _bad(output: Tensor) -> Tensor | None:
    """A CPU looks at the sum first: it is finite only where all elements are."""
    wide = torch.float32 if output.dtype.itemsize < 4 else output.dtype
    if output.device.type == "cpu" and math.isfinite(output.sum(dtype=wide)):
        return None
    return not_finite(output)


def mix(made: Made, replace: bool) -> Tensor:
    """The new chunks, `[A, N, c, ...]`."""
    x, b = made.leaves[0].detach(), made.output.detach()
    a = broadcast(made.alpha, x)
    known = made.alpha.tolist() if x.device.type == "cpu" else (0.0, 1.0)
    mixed = torch.lerp(x, b, a) if replace else torch.addcmul(x, a, b)
    if replace and 1.0 in known:
        mixed = torch.where(a == 1, b, mixed)  # also where x is infinite
    if made.bad is not None:
        mixed = torch.where(made.bad, x, mixed)
    return torch.where(a == 0, x, mixed) if 0.0 in known else mixed


class Pulled(NamedTuple):
    """Gradients of one backward pass."""

    y: Tensor  # [N, F, ...], contiguous
    alpha: Tensor  # [S]
    stacks: dict[int, list[Tensor]]  # by kind; kinds that are not mixed in are left out


def pull(made: Made, g: Tensor, replace: bool) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
    """The gradients of a group's chunks `[A, N, c, ...]`, alphas `[A]` and parameters `[A, ...]`.

    Args:
        made: what `make` gave.
        g: dL/doutput, `[N, F, ...]`.
        replace: as in the forward pass.
    """
    g = made.group.places.take(g)
    x, b = made.leaves[0].detach(), made.output.detach()
    change = difference(b, x) if replace else b
    through = g * broadcast(made.alpha, g)
    if made.bad is not None:
        change, through = torch.where(made.bad, 0, change), torch.where(made.bad, 0, through)
    found: Sequence[Tensor | None] = [None] * len(made.leaves)
    if made.output.requires_grad:
        keep = torch._C._autograd._get_current_graph_task_keep_graph()
        found = torch.autograd.grad(
            made.output, made.leaves, through, retain_graph=keep, allow_unused=True
        )
    inner, *parameters = [None if each is None else finite_only(each) for each in found]
    chunks = g - through if replace else g
    to_alpha = by_seed(g.to(made.alpha.dtype) * change.to(made.alpha.dtype))
    if made.group.mixed is not None:
        to_alpha = torch.where(made.group.mixed, to_alpha, 0)
    return chunks if inner is None else chunks + inner, to_alpha, parameters


def count(made: Made, nonfinite: Tensor) -> None:
    """Add the elements that were not finite to `nonfinite`, int64 `[S]`."""
    if made.bad is not None:
        found = by_seed(made.bad)
        if made.group.mixed is not None:
            found = torch.where(made.group.mixed, found, 0)
        nonfinite.index_add_(0, made.group.slots, found)


def add_rows(to: Tensor, group: Group, rows: Tensor) -> None:
    """Add the gradients `rows` `[A, ...]` of those that train to `to` `[capacity, ...]`."""
    if group.trains is not None:
        rows = torch.where(group.trains.view(-1, *[1] * (rows.dim() - 1)), rows, 0)
    if isinstance(group.rows, slice):
        to[group.rows] += rows
    else:
        to.index_add_(0, group.rows, rows.to(to.dtype))


class Twin:
    """The inline seeds of a site in torch.

    Args:
        groups: the seeds that are mixed in, one group a kind.
        replace: whether B takes the chunk's place; else it is added.
        nonfinite: int64 `[S]`, counted up.
    """

    def __init__(self, groups: Sequence[Group], replace: bool, nonfinite: Tensor) -> None:
        self.samples = False
        self._groups, self._replace, self._nonfinite = tuple(groups), replace, nonfinite
        self.numbers = tuple(group.number for group in groups)

    def reads(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """See `inline.Way`; what it keeps holds on to all else that it read."""
        _, alpha, *_ = arguments
        return (alpha,)

    def forward(
        self,
        y: Tensor,
        out: Tensor,
        alpha: Tensor,
        stacks: Stacks,
        grad: bool,
        sample: Tensor | None = None,
    ) -> list[Made]:
        """Write the site's output into `out`; to be called without gradients.

        Args:
            y: the host's output, `[N, F, ...]`.
            out: contiguous, of the same shape; `y` itself where it may be overwritten.
            alpha: `[S]` in [0, 1].
            stacks: by kind of the site the parameters of its pool, `[capacity, ...]`.
            grad: whether `backward` will be called with what this returns.
            sample: not written; see `telemetry.sample`.
        """
        if out is not y:
            out.copy_(y)
        found = []
        for group in self._groups:
            made = make(group, y, alpha, stacks[group.number], grad)
            group.put(out, mix(made, self._replace))
            count(made, self._nonfinite)
            found.append(made)
        return found

    def again(self, y: Tensor, alpha: Tensor, stacks: Stacks) -> list[Made]:
        """See `inline.Way`."""
        return [make(group, y, alpha, stacks[group.number], True) for group in self._groups]

    def backward(
        self, g: Tensor, y: Tensor, kept: Sequence[Made], alpha: Tensor, stacks: Stacks
    ) -> Pulled:
        """The gradients of `y`, of alpha and of the stacks, from dL/doutput."""
        to_y = torch.empty(g.shape, dtype=g.dtype, device=g.device).copy_(g)
        to_alpha, found = zeros_for(alpha, {n: stacks[n] for n in self.numbers})
        for made in kept:
            chunks, alphas, parameters = pull(made, g, self._replace)
            made.group.put(to_y, chunks)
            to_alpha.index_add_(0, made.group.slots, alphas)
            for to, rows in zip(found[made.group.number], parameters, strict=True):
                if rows is not None:
                    add_rows(to, made.group, rows)
        return Pulled(to_y, to_alpha, found)


def zeros_for(
    alpha: Tensor, stacks: Mapping[int, Sequence[Tensor]]
) -> tuple[Tensor, dict[int, list[Tensor]]]:
    """Where gradients of alpha and of stacks go; few launches fill all of them with 0."""
    found = {number: [torch.empty_like(p) for p in stack] for number, stack in stacks.items()}
    every = [each for stack in found.values() for each in stack]
    if every:
        torch._foreach_zero_(every)
    return torch.zeros_like(alpha), found
