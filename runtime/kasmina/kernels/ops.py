"""The seeds of a site as one op of torch's, so that a compiled graph holds them whatever they do.

An op is given tensors and the number of the site's seat, and does what the site does in that very
moment: the lifecycle is not part of the graph, so no step of it compiles anything again. It is
functional, because an op may not return one of its inputs, except for `grow_`, which writes into
the host's output where no backward pass follows.

`y` is the host's output, `x` the site's input (None for an inline site, whose seeds read `y`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from kasmina.kernels.twin import differentiable

_DEFINED = torch.library.Library("kasmina", "DEF")  # type: ignore[no-untyped-call]
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)


class Gradients(NamedTuple):
    """What a backward pass through a site gives; `y` is None where it gets dL/doutput itself."""

    y: Tensor | None
    x: Tensor | None
    alpha: Tensor  # [S]
    parameters: list[Tensor]  # of all kinds, one after the other


class Grower(Protocol):
    """A site, as the ops know it."""

    def grow(
        self,
        y: Tensor,
        x: Tensor | None,
        alpha: Tensor,
        parameters: Sequence[Tensor],
        out: Tensor,
        grad: bool,
    ) -> None:
        """Write the site's output into `out`."""

    def pull(
        self,
        g: Tensor,
        y: Tensor,
        x: Tensor | None,
        alpha: Tensor,
        parameters: Sequence[Tensor],
    ) -> Gradients:
        """The gradients, from dL/doutput."""


_NUMBERS = count(2)  # torch.compile takes sizes of 0 and 1 for constants
_SITES: WeakValueDictionary[int, Any] = WeakValueDictionary()


def seated(site: Grower, device: torch.device) -> Tensor:
    """Give a site a seat, a tensor without elements whose width is the seat's number.

    Of a module's whole numbers torch.compile makes constants, and would compile a layer that
    occurs twelve times twelve times; of sizes it learns that they vary.

    Returns:
        A seat of its own, `[0, number]`; it is free again when the site is gone.
    """
    number = next(_NUMBERS)
    _SITES[number] = site
    return torch.empty(0, number, device=device)


def _site(seat: int) -> Grower:
    site: Grower | None = _SITES.get(seat)
    if site is None:
        raise RuntimeError(
            f"the site with seat {seat} is gone: a compiled graph has outlived its model, or was "
            "loaded into another process; compile the model again"
        )
    return site


for _schema in (
    "grow(Tensor y, Tensor? x, Tensor alpha, Tensor[] parameters, SymInt seat, bool grad) -> Tensor",
    "grow_(Tensor(a!) y, Tensor alpha, Tensor[] parameters, SymInt seat) -> ()",
    (
        "grow_backward(Tensor g, Tensor y, Tensor? x, Tensor alpha, Tensor[] parameters, SymInt seat)"
        " -> (Tensor, Tensor, Tensor[])"
    ),
):
    _DEFINED.define(_schema, tags=_TAGS)  # type: ignore[no-untyped-call]


def _empty(like: Tensor) -> Tensor:
    """Contiguous, as everything that an op gives."""
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


@torch.library.impl("kasmina::grow", "CompositeExplicitAutograd", lib=_DEFINED)
@torch.no_grad()
def _grow(
    y: Tensor, x: Tensor | None, alpha: Tensor, parameters: list[Tensor], seat: int, grad: bool
) -> Tensor:
    out = _empty(y)
    _site(seat).grow(y, x, alpha, parameters, out, grad)
    return out


@torch.library.impl("kasmina::grow_", "CompositeExplicitAutograd", lib=_DEFINED)
@torch.no_grad()
def _grow_in_place(y: Tensor, alpha: Tensor, parameters: list[Tensor], seat: int) -> None:
    _site(seat).grow(y, None, alpha, parameters, y, False)


@torch.library.impl("kasmina::grow_backward", "CompositeExplicitAutograd", lib=_DEFINED)
@torch.no_grad()
def _grow_backward(
    g: Tensor, y: Tensor, x: Tensor | None, alpha: Tensor, parameters: list[Tensor], seat: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    with differentiable():
        found = _site(seat).pull(g, y, x, alpha, parameters)
    read = found.y if x is None else found.x
    assert read is not None
    return read.contiguous(), found.alpha, [each.contiguous() for each in found.parameters]


def _fake_grow(
    y: Tensor, x: Tensor | None, alpha: Tensor, parameters: list[Tensor], seat: int, grad: bool
) -> Tensor:
    return _empty(y)


def _fake_grow_in_place(y: Tensor, alpha: Tensor, parameters: list[Tensor], seat: int) -> None:
    return None


def _fake_grow_backward(
    g: Tensor, y: Tensor, x: Tensor | None, alpha: Tensor, parameters: list[Tensor], seat: int
) -> tuple[Tensor, Tensor, list[Tensor]]:
    return _empty(y if x is None else x), _empty(alpha), [_empty(p) for p in parameters]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    y, x, alpha, parameters, ctx.seat, _ = inputs
    ctx.count = len(parameters)
    ctx.inline = x is None
    ctx.save_for_backward(y, *([] if x is None else [x]), alpha, *parameters)


def _pull(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    y, *rest = ctx.saved_tensors
    x = None if ctx.inline else rest.pop(0)
    alpha, *parameters = rest
    to_read, to_alpha, to_parameters = torch.ops.kasmina.grow_backward(
        g, y, x, alpha, parameters, ctx.seat
    )
    to_y, to_x = (to_read, None) if x is None else (g, to_read)
    return to_y, to_x, to_alpha, to_parameters, None, None


for _name, _fake in (("grow", _fake_grow), ("grow_", _fake_grow_in_place)):
    torch.library.register_fake(f"kasmina::{_name}", _fake, lib=_DEFINED)
torch.library.register_fake("kasmina::grow_backward", _fake_grow_backward, lib=_DEFINED)
torch.library.register_autograd("kasmina::grow", _pull, setup_context=_save, lib=_DEFINED)
