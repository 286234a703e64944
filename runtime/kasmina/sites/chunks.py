"""Slicing of a layer's features into chunks. Legend: F features, S chunks, c widest chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kasmina.sites.errors import SiteError


class ChunkManager:
    """Splits `features` into `chunks` contiguous slices whose widths differ by at most one.

    The first `features % chunks` chunks are the wider ones.

    Raises:
        SiteError: fewer than one chunk, or more chunks than features.
    """

    def __init__(self, features: int, chunks: int) -> None:
        if not 1 <= chunks <= features:
            raise SiteError(
                f"{features} features cannot be cut into {chunks} chunks of at least one feature; "
                f"ask for 1 to {features} seeds"
            )
        narrow, wider = divmod(features, chunks)
        self.features = features
        self.chunks = chunks
        self.widths = (narrow + 1,) * wider + (narrow,) * (chunks - wider)

    @property
    def width(self) -> int:
        """Width c of the widest chunk."""
        return self.widths[0]

    @property
    def is_even(self) -> bool:
        """Whether all chunks have the same width."""
        return self.widths[0] == self.widths[-1]

    def start(self, chunk: int) -> int:
        """First feature of a chunk."""
        return sum(self.widths[:chunk])

    def columns(self) -> Tensor:
        """The features of each chunk, int64 `[S, c]`; a narrow one repeats its last feature."""
        widths = torch.tensor(self.widths)
        starts = widths.cumsum(0) - widths
        places = torch.arange(self.width).minimum(widths.unsqueeze(1) - 1)
        return starts.unsqueeze(1) + places

    def valid(self) -> Tensor:
        """Which entries of `columns` are no repetition, bool `[S, c]`."""
        return torch.arange(self.width) < torch.tensor(self.widths).unsqueeze(1)

    def split(self, x: Tensor, axis: int = -1) -> tuple[Tensor, ...]:
        """The chunks of `x` as views.

        Raises:
            SiteError: `x` has another number of features on `axis`.
        """
        if x.shape[axis] != self.features:
            raise SiteError(
                f"expected {self.features} features on axis {axis}, got a tensor of shape "
                f"{tuple(x.shape)}"
            )
        return torch.split(x, list(self.widths), axis)

    def join(self, chunks: Sequence[Tensor], axis: int = -1) -> Tensor:
        """The chunks as one tensor; a view where they are neighbouring views of one tensor.

        Chunks that carry a gradient are copied: a view through the first one would lose the
        gradients of the others.

        Raises:
            SiteError: number or widths of the chunks differ from what `split` gives.
        """
        widths = tuple(chunk.shape[axis] for chunk in chunks)
        if widths != self.widths:
            raise SiteError(f"expected chunks of widths {self.widths}, got {widths}")
        if any(chunk.requires_grad for chunk in chunks) or not _are_neighbours(chunks, axis):
            return torch.cat(list(chunks), axis)
        first = chunks[0]
        shape = list(first.shape)
        shape[axis] = self.features
        return first.as_strided(shape, first.stride())


def _are_neighbours(chunks: Sequence[Tensor], axis: int) -> bool:
    first = chunks[0]
    offset = first.storage_offset()
    for chunk in chunks:
        same = chunk.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or chunk.stride() != first.stride() or chunk.storage_offset() != offset:
            return False
        offset += chunk.shape[axis] * chunk.stride(axis)
    return True
