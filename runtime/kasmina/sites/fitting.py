"""Which tensors a site was placed for; others are refused, also while all its seeds sleep.

A site without a declared layout takes any length and any size of picture, as far as its host does
and as long as the host writes the positions that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor

from kasmina.blueprints import SiteShape
from kasmina.sites.errors import SiteError


@dataclass(frozen=True, slots=True)
class Fitting:
    """What one side of a site must be.

    Attributes:
        path: of the site.
        side: which side.
        features: how many there must be, on axis 1 where `channels_first`, else on the last one.
        channels_first: see there.
        layout: shape of one example, where no other is legal; None where features are all.
        flat: whether `features` are a whole example; it may come flattened or not.
    """

    path: str
    side: Literal["input", "output"]
    features: int
    channels_first: bool
    layout: tuple[int, ...] | None = None
    flat: bool = False

    @classmethod
    def of_input(cls, path: str, shape: SiteShape, fixed: bool) -> Fitting:
        """What the seeds read; `fixed` says that no other positions are legal at it."""
        side: Literal["input", "output"] = "output" if shape.placement == "inline" else "input"
        flat = not shape.channels_first and not shape.tokens and shape.layout is not None
        layout = shape.layout if fixed or flat else None
        return cls(path, side, shape.d_in, shape.channels_first, layout, flat)

    @classmethod
    def of_output(cls, path: str, shape: SiteShape, fixed: bool) -> Fitting:
        """What leaves it."""
        layout = shape.out_layout if shape.channels_first and fixed else None
        if shape.tokens:
            layout = (shape.tokens, shape.d_out)
        return cls(path, "output", shape.d_out, shape.channels_first, layout)

    def check(self, x: Tensor) -> None:
        """Raise `SiteError` where `x` is none of them."""
        if not x.is_floating_point():
            raise SiteError(
                f"site {self.path!r}: its {self.side} is of {x.dtype}; seeds compute with "
                "floating-point numbers alone, so place the site where these pass"
            )
        if x.layout is not torch.strided:
            raise SiteError(
                f"site {self.path!r}: its {self.side} is {x.layout}; seeds compute with strided "
                "tensors alone, so place the site behind .to_dense()"
            )
        shape = x.shape
        if self.flat:
            fits = shape[-1:] == (self.features,) or self._holds(shape[1:])
        elif self.layout is not None:
            fits = shape[1:] == self.layout
        elif self.channels_first:
            fits = len(shape) > 1 and shape[1] == self.features
        else:
            fits = shape[-1:] == (self.features,)
        if not fits:
            raise self._refused(tuple(shape))

    def _holds(self, example: tuple[int, ...]) -> bool:
        """Whether an example that is not flattened is the declared one, or another view of it."""
        assert self.layout is not None
        return example == self.layout or (
            len(example) != len(self.layout) and prod(example) == self.features
        )

    def _refused(self, shape: tuple[int, ...]) -> SiteError:
        if self.layout is None:
            axis = 1 if self.channels_first else -1
            legal = f"it was placed for {self.features} features on axis {axis}"
            todo = (
                "features= or channels_first= of its Site, or example= of morph(), say what comes"
            )
        else:
            listed = ", ".join(map(str, self.layout))
            legal = f"[B, {listed}]" + (f" or [B, {self.features}]" if self.flat else "")
            legal = f"its layout is {self.layout}, so {legal} alone is legal"
            todo = (
                "pad or cut the batch, or morph a fresh model with the layout that comes, or without "
                "one and without the kinds that need it"
            )
        return SiteError(
            f"site {self.path!r}: its {self.side} has the shape {shape}, but {legal}; {todo}"
        )
