"""Placement inline: seeds that transform the host's output, chunk by chunk.

Legend: S seeds, A active ones, N examples, F features, c the widest chunk's width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kasmina.blueprints import Placement
from kasmina.lifecycle import StateTensor
from kasmina.sites.chunks import ChunkManager
from kasmina.sites.layer import Place, SiteLayer, by_columns
from kasmina.sites.mixing import blend
from kasmina.sites.plan import Part
from kasmina.sites.telemetry import Telemetry, by_chunk


class InlineSite(SiteLayer):
    """`x + alpha B(x)` (residual) or `(1 - alpha) x + alpha B(x)` (replace), for each chunk x.

    Chunks are slices of the output's features; those whose width is one less than the widest are
    padded with a 0 that B reads, and what B puts out there is dropped.
    """

    placement: ClassVar[Placement] = "inline"
    columns: Tensor  # int64 [S, c], see ChunkManager
    valid: Tensor  # bool [S, c]

    def __init__(self, place: Place, state: StateTensor, dtype: torch.dtype | None = None) -> None:
        chunks = ChunkManager(place.shape.d_out, place.seeds)
        shape = replace(place.shape, d_in=chunks.width, d_out=chunks.width)
        super().__init__(place, state, shape, dtype)
        self.chunks = chunks
        self._buffer("columns", chunks.columns().to(state.device))
        self._buffer("valid", chunks.valid().to(state.device))

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """See `SiteLayer.run`."""
        output = self._inside(*args, **kwargs)
        if self._quiet and not self._is_due():
            return output
        return self._pass(None, output)

    def _grown(self, x: Tensor | None, y: Tensor) -> Tensor:
        grown = by_columns(y, self.shape)
        for part in self.plan.active:
            grown = self._mixed(part, grown)
        return grown.reshape(y.shape)

    def _mixed(self, part: Part, y: Tensor) -> Tensor:
        """`y` `[N, F, ...]` with the seeds of one part mixed in."""
        chunks = self._gather(y, part.slots)
        alpha = self.alpha.index_select(0, part.slots)
        made = self._padded(self._branch(part, chunks), part.slots)
        mixed, nonfinite = blend(chunks, made, alpha, self.mode == "replace")
        self._count(part, nonfinite)
        return self._scatter(y, mixed, part.slots)

    def _gather(self, y: Tensor, seeds: Tensor) -> Tensor:
        """The chunks of some seeds: `[N, F, ...]` to `[A, N, c, ...]`."""
        if self.chunks.is_even:
            return self._as_chunks(y).index_select(1, seeds).transpose(0, 1)
        columns = self.columns[seeds]  # [A, c]
        flat = y.index_select(1, columns.flatten())
        chunks = flat.view(len(y), *columns.shape, *y.shape[2:]).transpose(0, 1)
        return self._padded(chunks, seeds)

    def _scatter(self, y: Tensor, chunks: Tensor, seeds: Tensor) -> Tensor:
        """`y` `[N, F, ...]` with the chunks `[A, N, c, ...]` of some seeds in their places."""
        values = chunks.transpose(0, 1)
        if self.chunks.is_even:
            return self._as_chunks(y).index_copy(1, seeds, values).view(y.shape)
        valid = self.valid[seeds].flatten().nonzero().squeeze(1)
        columns = self.columns[seeds].flatten()[valid]
        return y.index_copy(1, columns, values.flatten(1, 2).index_select(1, valid))

    def _as_chunks(self, y: Tensor) -> Tensor:
        """`[N, F, ...]` as `[N, S, c, ...]`, where all chunks have the same width."""
        return y.reshape(len(y), self.n_seeds, self.chunks.width, *y.shape[2:])

    def _padded(self, chunks: Tensor, seeds: Tensor) -> Tensor:
        """`[A, N, c, ...]` with 0 where a narrow chunk has no feature."""
        if self.chunks.is_even:
            return chunks
        valid = self.valid[seeds].view(len(seeds), 1, -1, *[1] * (chunks.dim() - 3))
        return torch.where(valid, chunks, 0)

    def _source(self, x: Tensor | None, y: Tensor) -> Tensor:
        return y

    def blueprint_input(self, x: Tensor, seeds: Tensor) -> Tensor:
        """The seeds' chunks of the host's output, `[A, N, c, ...]`."""
        return self._gather(by_columns(x, self.shape), seeds)

    def blueprint_output(self, y: Tensor, seeds: Tensor) -> Tensor:
        """The seeds' chunks of the output or of its gradient, `[A, N, c, ...]`."""
        return self._gather(by_columns(y, self.shape), seeds)

    def telemetry(self) -> Telemetry:
        """The last sample of each seed's chunk."""
        return by_chunk(self._sample, self.columns, self.valid)
