"""Placement inline: seeds that transform the host's output, chunk by chunk.

Legend: S seeds, A active ones, N examples, F features, c the widest chunk's width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kasmina.blueprints import Placement
from kasmina.kernels.backend import Choice, choose
from kasmina.kernels.inline import (
    DTYPES,
    Kernel,
    Launches,
    NoKernel,
    Way,
    every_gradient,
    kernel,
    passed,
)
from kasmina.kernels.ops import Gradients
from kasmina.kernels.twin import Cut, Group, Kind, Places, Stacks, Twin
from kasmina.lifecycle import StateTensor
from kasmina.sites.chunks import ChunkManager
from kasmina.sites.diversion import by_columns
from kasmina.sites.layer import SiteLayer, _is_capturing, _is_compiling
from kasmina.sites.place import Place
from kasmina.sites.plan import Part, everyone, neighbours
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
        self._arrive(state.device)

    def _equip(self, device: torch.device) -> Choice:
        valid = None if self.chunks.is_even else self.valid
        self._cut = Cut(self.n_seeds, self.columns, valid)
        self._everywhere = Places(self._cut)
        self._groups: list[Group] = []
        self._launches: Launches | None = None
        choice = choose(device)
        if choice.backend == "torch":
            return choice
        try:
            self._launches = Launches(
                self._kernels(), self.live, self.nonfinite, self.mode == "replace"
            )
        except NoKernel as error:
            return Choice("torch", f"the twins: {error}")
        return choice

    def _kernels(self) -> dict[int, Kernel]:
        """The generated kernel of each kind, by its number."""
        if self.shape.channels_first:
            raise NoKernel("kernels want the features last, and this site has channels first")
        package, found = self._state.lifecycle.package.__name__, {}
        for number, name in enumerate(self.kinds):
            text = self.pool(name).kind.text
            if text is None:
                raise NoKernel(f"there is no generated kernel for blueprint {name!r}")
            found[number] = kernel(package, text)
        return found

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """See `SiteLayer.run`."""
        output = self._inside(*args, **kwargs)
        if _is_compiling():
            return self._traced(None, output)
        if self._quiet and not self._is_due():
            return output
        return self._pass(None, output)

    # The pass.

    def _planned(self) -> None:
        self._groups = [self._group(part) for part in self.plan.active]
        self._twin = Twin(self._groups, self.mode == "replace", self.nonfinite)
        if self._launches is not None:
            self._launches.select({part.number: part.slots for part in self.plan.active})

    def _group(self, part: Part, places: Places | None = None) -> Group:
        kind = self.pool(part.kind).kind
        return Group(
            Kind(tuple(kind.shapes()), kind.forward),
            part.number,
            part.slots,
            part.rows if part.mixed is not None else neighbours(part.rows),
            Places(self._cut, part.slots) if places is None else places,
            part.mixed,
            part.trains,
        )

    def _way(self, y: Tensor, captured: bool) -> Way:
        """What mixes the seeds into `y`; a captured graph gets what follows the lifecycle."""
        if self._launches is not None and y.dtype in DTYPES:
            return self._launches.whatever_comes() if captured else self._launches
        if not captured:
            return self._twin
        parts = everyone(self.live, self.kinds, self._state.lifecycle)
        groups = [self._group(part, self._everywhere) for part in parts]
        return Twin(groups, self.mode == "replace", self.nonfinite)

    def _grown(self, x: Tensor | None, y: Tensor, captured: bool) -> Tensor:
        columns, stacks = by_columns(y, self.shape), self.stacks()
        way = self._way(columns, captured)
        if torch.is_grad_enabled():
            return passed(columns, self.alpha, way, stacks).view(y.shape)
        mine = self._fresh and not captured and self._recorder is None and y.is_contiguous()
        out = y if mine else torch.empty(y.shape, dtype=y.dtype, device=y.device)
        to = columns if mine else by_columns(out, self.shape)
        way.forward(columns, to, self.alpha, stacks, grad=False)
        return out

    def _write(
        self, y: Tensor, x: Tensor | None, alpha: Tensor, stacks: Stacks, out: Tensor
    ) -> None:
        columns = by_columns(y, self.shape)
        to = columns if out is y else by_columns(out, self.shape)
        self._way(columns, self._captured()).forward(columns, to, alpha, stacks, grad=False)

    def _gradients(
        self, g: Tensor, y: Tensor, x: Tensor | None, alpha: Tensor, stacks: Stacks
    ) -> Gradients:
        columns, g = by_columns(y, self.shape), by_columns(g, self.shape)
        way = self._way(columns, self._captured())
        kept = way.again(columns, alpha, stacks)
        pulled = way.backward(g, columns, kept, alpha, stacks)
        return Gradients(pulled.y.view(y.shape), None, pulled.alpha, every_gradient(pulled, stacks))

    def _captured(self) -> bool:
        return self._may_capture and _is_capturing()

    # What isolated training and the controller read.

    def blueprint_input(self, x: Tensor, seeds: Tensor) -> Tensor:
        """The seeds' chunks of the host's output, `[A, N, c, ...]`."""
        return Places(self._cut, seeds).take(by_columns(x, self.shape))

    def blueprint_output(self, y: Tensor, seeds: Tensor) -> Tensor:
        """The seeds' chunks of the output or of its gradient, `[A, N, c, ...]`."""
        return Places(self._cut, seeds).take(by_columns(y, self.shape))

    def telemetry(self) -> Telemetry:
        """The last sample of each seed's chunk."""
        return by_chunk(self._sample, self.columns, self.valid)
