"""Placement inline: seeds that transform the host's output, chunk by chunk.

Legend: S seeds, A active ones, N examples, F features, c the widest chunk's width.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from kasmina.blueprints import Placement
from kasmina.kernels.backend import Choice, choose, fallen_back
from kasmina.kernels.inline import (
    Launches,
    NoKernel,
    Way,
    every_gradient,
    hold,
    kernel,
    passed,
    sampler,
)
from kasmina.kernels.ops import Gradients
from kasmina.kernels.twin import Cut, Group, Kind, Places, Stacks, Twin
from kasmina.lifecycle import StateTensor
from kasmina.sites.chunks import ChunkManager
from kasmina.sites.diversion import by_columns, first_tensor
from kasmina.sites.layer import SiteLayer, _is_capturing, _is_compiling, unproved
from kasmina.sites.place import Place
from kasmina.sites.plan import Part, Planes, everyone, neighbours
from kasmina.sites.telemetry import ChunkSample, Telemetry, by_chunk


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
        # What kernels were held for: dtype, doubling of the rows, the kind that a pass begins with.
        self._proved: set[tuple[torch.dtype, int, int]] = set()
        self._first = 0
        choice = choose(device)
        if choice.backend == "torch":
            return choice
        try:
            self._launches = self._launching()
        except NoKernel as error:
            return Choice("torch", f"the twins: {error}")
        return choice

    def _launching(self) -> Launches:
        if self.shape.channels_first:
            raise NoKernel("kernels want the features last, and this site has channels first")
        package = self._state.lifecycle.package.__name__
        kernels = {
            number: kernel(package, name, self.pool(name).kind)
            for number, name in enumerate(self.kinds)
        }
        self._measured = torch.zeros(self.n_seeds, 4, device=self.nonfinite.device)
        return Launches(
            kernels,
            self.live,
            self.nonfinite,
            sampler(package),
            replace=self.mode == "replace",
        )

    def _launches_for(self, y: Tensor, captured: bool = False) -> Launches | None:
        """The kernels, where they can compute `y` `[N, F]`; held before their first number is used."""
        if self._launches is None or not self._kernels_take(y.dtype):
            return None
        case = (y.dtype, y.shape[0].bit_length(), 0 if captured else self._first)
        if case not in self._proved:
            if captured:
                raise unproved(self.path, y)
            self._prove(y, case)
        return self._launches

    def _prove(self, y: Tensor, case: tuple[torch.dtype, int, int]) -> None:
        """Hold the kernels of a pass against the twins, and those that a captured graph has."""
        assert self._launches is not None
        kinds = [self._kind(name) for name in self.kinds]
        joint = Planes.of(self._state.lifecycle).learning()
        try:
            for first in {0, case[2]}:
                hold(self._launches, kinds, self._cut, joint, y, self.stacks(), first)
                self._proved.add((*case[:2], first))
        except Exception as error:  # noqa: BLE001  whatever a compiler or a driver may raise
            self.backend = fallen_back(self.alpha.device, error)
            self._launches = None
            warnings.warn(f"site {self.path!r}: {self.backend.why}", RuntimeWarning, stacklevel=2)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """See `SiteLayer.run`."""
        output = self._inside(*args, **kwargs)
        if _is_compiling():
            return self._traced(None, output)
        if self._fixed:
            self._input.check(first_tensor(output, self))
        if self._quiet and not self._is_due(output):
            return output
        return self._pass(None, output)

    # The pass.

    def _planned(self) -> None:
        self._groups = [self._group(part) for part in self.plan.active]
        self._twin = Twin(self._groups, self.mode == "replace", self.nonfinite)
        self._first = self._twin.numbers[0] if self._groups else 0
        if self._launches is not None:
            self._launches.select({part.number: part.slots for part in self.plan.active})

    def _group(self, part: Part, places: Places | None = None) -> Group:
        return Group(
            self._kind(part.kind),
            part.number,
            part.slots,
            part.rows if part.mixed is not None else neighbours(part.rows),
            Places(self._cut, part.slots) if places is None else places,
            part.mixed,
            part.trains,
        )

    def _kind(self, name: str) -> Kind:
        kind = self.pool(name).kind
        return Kind(tuple(kind.shapes()), kind.forward)

    def _way(self, y: Tensor, captured: bool) -> Way:
        """What mixes the seeds into `y`; a captured graph gets what follows the lifecycle."""
        launches = self._launches_for(y, captured)
        if launches is not None:
            return launches.whatever_comes() if captured else launches
        if not captured:
            return self._twin
        parts = everyone(self.live, self.kinds, self._state.lifecycle)
        groups = [self._group(part, self._everywhere) for part in parts]
        return Twin(groups, self.mode == "replace", self.nonfinite)

    def _grown(self, x: Tensor | None, y: Tensor, captured: bool, due: bool) -> Tensor:
        columns, stacks = by_columns(y, self.shape), self.stacks()
        way = self._way(columns, captured)
        measured = self._measured if due and way.samples else None
        if torch.is_grad_enabled():
            out = passed(columns, self.alpha, way, stacks, measured)
        else:
            out = columns if self._is_mine(y, captured) else _like(columns)
            way.forward(columns, out, self.alpha, stacks, False, measured)
        if columns is not y:
            out = y if out is columns else out.view(y.shape)
        if due:
            self._told(out, measured)
        return out

    def _prepare(self, y: Tensor) -> None:
        self._launches_for(by_columns(y, self.shape))

    def _is_mine(self, y: Tensor, captured: bool) -> bool:
        """Whether nobody else can hold what the host returned."""
        return self._fresh and not captured and self._recorder is None and y.is_contiguous()

    def _write(
        self,
        y: Tensor,
        x: Tensor | None,
        alpha: Tensor,
        stacks: Stacks,
        out: Tensor,
        captured: bool,
        due: bool,
    ) -> None:
        columns = by_columns(y, self.shape)
        to = columns if out is y else by_columns(out, self.shape)
        way = self._way(columns, captured)
        measured = self._measured if due and way.samples else None
        way.forward(columns, to, alpha, stacks, grad=False, sample=measured)
        if due:
            self._told(out, measured)

    def _gradients(
        self,
        g: Tensor,
        y: Tensor,
        x: Tensor | None,
        alpha: Tensor,
        stacks: Stacks,
        captured: bool,
    ) -> Gradients:
        columns, g = by_columns(y, self.shape), by_columns(g, self.shape)
        way = self._way(columns, captured)
        kept = way.again(columns, alpha, stacks)
        pulled = way.backward(g, columns, kept, alpha, stacks)
        return Gradients(pulled.y.view(y.shape), None, pulled.alpha, every_gradient(pulled, stacks))

    def _told(self, out: Tensor, measured: Tensor | None) -> None:
        """Keep the sample that a pass has written, or take one where it has not."""
        if measured is not None:
            self._sample = ChunkSample(measured, out.numel() // self.shape.d_out)
        else:
            self._measure(out)

    def _measure(self, y: Tensor) -> None:
        columns = by_columns(y.detach(), self.shape)
        launches = self._launches_for(columns, self._may_capture and _is_capturing())
        if launches is None:
            super()._measure(y)
            return
        launches.measure(columns, self._measured)
        self._sample = ChunkSample(self._measured, y.numel() // self.shape.d_out)

    # What isolated training and the controller read.

    def blueprint_input(self, x: Tensor, seeds: Tensor) -> Tensor:
        """The seeds' chunks of the host's output, `[A, N, c, ...]`."""
        return Places(self._cut, seeds).take(by_columns(x, self.shape))

    def blueprint_output(self, y: Tensor, seeds: Tensor) -> Tensor:
        """The seeds' chunks of the output or of its gradient, `[A, N, c, ...]`."""
        return Places(self._cut, seeds).take(by_columns(y, self.shape))

    def telemetry(self) -> Telemetry:
        """The last sample of each seed's chunk."""
        if isinstance(self._sample, ChunkSample):
            return self._sample.telemetry(self.valid.sum(1))
        return by_chunk(self._sample, self.columns, self.valid)


def _like(y: Tensor) -> Tensor:
    return torch.empty_like(y, memory_format=torch.contiguous_format)
