"""Placement parallel: seeds that read the site's input and add to its output.

Legend: S seeds, A active ones, N examples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kasmina.blueprints import Placement
from kasmina.lifecycle import StateTensor
from kasmina.sites.errors import SiteError
from kasmina.sites.layer import Place, SiteLayer, by_columns, diverted, nowhere
from kasmina.sites.mixing import add
from kasmina.sites.telemetry import Telemetry, shared


class ParallelSite(SiteLayer):
    """`y + sum over the seeds of alpha B(x)`, where the host maps x to y.

    Around a block of maps each seed adds hidden units to the block.
    """

    placement: ClassVar[Placement] = "parallel"

    def __init__(self, place: Place, state: StateTensor, dtype: torch.dtype | None = None) -> None:
        super().__init__(place, state, place.shape, dtype)
        self._inside_first: Callable[..., Any] = nowhere
        self._entered: Tensor | None = None

    def divert_span(self, first: nn.Module, last: nn.Module) -> None:
        """Run a span through this site: what enters `first` is added to what leaves `last`."""
        self._inside_first = diverted(first, self.run_first)
        self._inside = diverted(last, self.run_last)

    def inside(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """See `SiteLayer.inside`."""
        return self._inside_first if forward == self.run_first else self._inside

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """See `SiteLayer.run`."""
        output = self._inside(*args, **kwargs)
        if self._quiet and not self._is_due():
            return output
        return self._pass(None if self._quiet else self._read(args, kwargs), output)

    def run_first(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of a span's first module: remember what enters."""
        if not self._quiet:
            self._entered = self._read(args, kwargs)
        return self._inside_first(*args, **kwargs)

    def run_last(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of a span's last module."""
        output = self._inside(*args, **kwargs)
        if self._quiet and not self._is_due():
            return output
        entered, self._entered = self._entered, None
        return self._pass(entered, output)

    def _read(self, args: Any, kwargs: Any) -> Tensor:
        return first_argument(args, kwargs, self.path)

    def _grown(self, x: Tensor | None, y: Tensor) -> Tensor:
        assert x is not None
        grown, read = self._as_written(y), self._as_read(x)
        for part in self.plan.active:
            made = self._branch(part, read)
            self._check(made, grown)
            grown, nonfinite = add(grown, made, self.alpha.index_select(0, part.slots))
            self._count(part, nonfinite)
        return grown.reshape(y.shape)

    def _check(self, made: Tensor, y: Tensor) -> None:
        if made.shape[1:] != y.shape:
            raise SiteError(
                f"site {self.path!r}: a blueprint gave {tuple(made.shape[1:])} where the host "
                f"gives {tuple(y.shape)}; the host's output must keep the positions of its input, "
                "or a kind must be told how they change: give morph() an example=, use 'conv'"
            )

    def _as_read(self, x: Tensor) -> Tensor:
        return x if self.shape.channels_first else x.reshape(-1, self.shape.d_in)

    def _as_written(self, y: Tensor) -> Tensor:
        return by_columns(y, self.shape)

    def _source(self, x: Tensor | None, y: Tensor) -> Tensor:
        assert x is not None
        return x

    def blueprint_input(self, x: Tensor, seeds: Tensor) -> Tensor:
        """The site's input, which all seeds share: `[N, d_in]` or `[N, d_in, ...]`."""
        return self._as_read(x)

    def blueprint_output(self, y: Tensor, seeds: Tensor) -> Tensor:
        """The site's output or its gradient, which all share: `[N, d_out]` or `[N, d_out, ...]`."""
        return self._as_written(y)

    def telemetry(self) -> Telemetry:
        """The last sample; all seeds write all of the output, so they share it."""
        return shared(self._sample, self.n_seeds)


def first_argument(args: Any, kwargs: Any, path: str) -> Tensor:
    """The tensor that a module was called with first; raises `SiteError` where there is none."""
    first = args[0] if args else next(iter(kwargs.values()), None)
    if not isinstance(first, Tensor):
        raise SiteError(
            f"site {path!r}: the module was called with {type(first).__name__} as its first "
            "argument; parallel seeds read that and need a tensor. Use placement='inline', or "
            "place the site at a module that takes a tensor first"
        )
    return first
