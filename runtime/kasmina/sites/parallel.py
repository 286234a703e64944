"""Placement parallel: seeds that read the site's input and add to its output.

Legend: S seeds, A active ones, N examples.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kasmina.blueprints import BlueprintPool, Placement
from kasmina.kernels import alone, parallel, together
from kasmina.kernels.backend import Choice, choose, fallen_back
from kasmina.kernels.inline import NoKernel, flat, modules_of
from kasmina.kernels.mixing import add, guard, taken
from kasmina.kernels.ops import Gradients
from kasmina.kernels.twin import Kind, Stacks
from kasmina.lifecycle import StateTensor
from kasmina.sites.diversion import by_columns, diverted, first_argument, nowhere
from kasmina.sites.errors import SiteError
from kasmina.sites.layer import SiteLayer, _is_capturing, _is_compiling, unproved
from kasmina.sites.place import Place
from kasmina.sites.plan import Part, Planes, everyone
from kasmina.sites.telemetry import Sample, Telemetry, shared

IN_FULL = nullcontext()  # to make an autocast that does nothing takes as long as some maps


class ParallelSite(SiteLayer):
    """`y + sum over the seeds of alpha B(x)`, where the host maps x to y.

    Around a block of maps each seed adds hidden units to the block.
    """

    placement: ClassVar[Placement] = "parallel"

    def __init__(self, place: Place, state: StateTensor, dtype: torch.dtype | None = None) -> None:
        super().__init__(place, state, place.shape, dtype)
        self._inside_first: Callable[..., Any] = nowhere
        self._entered: Tensor | None = None
        self._arrive(state.device)

    def _equip(self, device: torch.device) -> Choice:
        self._kernels: dict[int, ModuleType] = {}
        self._proved: set[torch.dtype] = set()
        self._alone: dict[int, alone.Seed] = {}
        self._only: tuple[alone.Seed, BlueprintPool, Tensor] | None = None
        choice = choose(device)
        if choice.backend == "torch":
            return choice
        lacking = list(self._lacking())
        if not self._kernels:
            return Choice("torch", f"the twins: {'; '.join(lacking)}")
        return Choice("triton", "; ".join([choice.why, *lacking]))

    def _lacking(self) -> Iterator[str]:
        """Find the kernels of the kinds; yields why a kind has none."""
        if self.shape.channels_first:
            yield "kernels want the features last, and this site has channels first"
            return
        package = self._state.lifecycle.package.__name__
        for number, name in enumerate(self.kinds):
            try:
                (module,) = modules_of(package, "parallel", name, self.pool(name).kind)
                self._kernels[number] = module
            except NoKernel as error:
                yield str(error)

    def _planned(self) -> None:
        """Find the seeds that are the only ones of their kind; their kinds may tell how to hurry."""
        self._alone, self._only = {}, None
        if self._state.device.type != "cpu":
            return
        for part in self.plan.active:
            kind = self.pool(part.kind).kind
            units = kind.together() if len(part.slots) == 1 else None
            if units is not None:
                slot, row = int(part.slots), int(part.rows)
                names = tuple(kind.shapes())
                trains = bool(part.training)
                self._alone[part.number] = alone.Seed.of(units, names, slot, row, trains)
        if len(self.plan.active) == len(self._alone) == 1 and not self.shape.tokens:
            ((number, seed),) = self._alone.items()  # in a tuple, where it is no submodule
            self._only = seed, self.pool(number), self.nonfinite

    def __getstate__(self) -> dict[str, Any]:
        named = {number: module.__name__ for number, module in self._kernels.items()}
        return {**self.__dict__, "_kernels": named}  # modules can neither be copied nor pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._kernels = {number: import_module(name) for number, name in state["_kernels"].items()}

    def divert_span(self, first: nn.Module, last: nn.Module) -> None:
        """Run a span through this site: what enters `first` is added to what leaves `last`."""
        self._inside_first = diverted(first, self.run_first)
        self._inside = diverted(last, self.run_last)

    def inside(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """See `SiteLayer.inside`."""
        return self._inside_first if forward == self.run_first else self._inside

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """See `SiteLayer.run`."""
        if self._fixed and not _is_compiling():
            self._input.check(first_argument(args, kwargs, self))
        output = self._inside(*args, **kwargs)
        if _is_compiling():
            return self._traced(first_argument(args, kwargs, self), output)
        if self._quiet and not self._is_due(output):
            return output
        captured = self._may_capture and _is_capturing()
        asleep = self._quiet and not captured
        return self._pass(None if asleep else first_argument(args, kwargs, self), output)

    def run_first(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of a span's first module: remember what enters."""
        if self._fixed and not _is_compiling():
            self._input.check(first_argument(args, kwargs, self))
        if _is_compiling() or not self._quiet or (self._may_capture and _is_capturing()):
            self._entered = first_argument(args, kwargs, self)
        return self._inside_first(*args, **kwargs)

    def run_last(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of a span's last module."""
        output = self._inside(*args, **kwargs)
        entered, self._entered = self._entered, None
        if not _is_compiling() and self._quiet and not self._is_due(output):
            return output
        if entered is None and (_is_compiling() or not self._quiet):
            first, last = self.span
            raise SiteError(
                f"site {self.path!r}: {last!r} ran, but {first!r} had not run before it in this pass, "
                "or was replaced after morph(); its seeds read what enters there. Let both run once "
                "in each pass, or morph a fresh model"
            )
        return self._traced(entered, output) if _is_compiling() else self._pass(entered, output)

    # The pass.

    def _grown(self, x: Tensor | None, y: Tensor, captured: bool, due: bool) -> Tensor:
        assert x is not None
        self._input.check(x)
        grown = None if captured else self._hurried(x, y)
        if grown is None:
            grown = self._added(x, y, self.alpha, self.stacks(), captured, self.nonfinite)
        if due:
            self._measure(grown)
        return grown

    def _hurried(self, x: Tensor, y: Tensor) -> Tensor | None:
        """What `_added` gives of a seed that is the only one, as most grown networks have it."""
        if self._only is None or self._kernels or not x.dim() == y.dim() == 2:
            return None
        seed, pool, nonfinite = self._only
        stack = pool.stack()
        if not alone.fits(y, x, stack):
            return None
        self._check((len(x), self.shape.d_out), y)
        return alone.add(y, x, self.alpha, seed, stack, nonfinite)

    def _added(
        self,
        x: Tensor,
        y: Tensor,
        alpha: Tensor,
        stacks: Stacks,
        captured: bool,
        nonfinite: Tensor,
    ) -> Tensor:
        written, read = self._as_written(y), self._as_read(x)
        kernels = self._kernels_for(written, captured)
        grown = y
        if kernels:
            for seeds in self._launched(kernels, captured, nonfinite):
                self._check((len(read), self.shape.d_out), written)
                grown = parallel.add(grown, x, alpha, stacks[seeds.kind], seeds)
        parts = [part for part in self._parts(captured, kernels) if part.number not in kernels]
        if not parts:
            return grown
        grown = self._as_written(grown)
        for part in parts:
            seed, stack = self._alone.get(part.number), stacks[part.number]
            if seed is not None and part.mixed is None and alone.fits(grown, read, stack):
                self._check((len(read), self.shape.d_out), grown)
                grown = alone.add(grown, read, alpha, seed, stack, nonfinite)
                continue
            own = alpha.index_select(0, part.slots)
            if part.mixed is not None:
                own = torch.where(part.mixed, own, 0)
            grown, found = self._mixed(part, read, grown, own, stack)
            if part.mixed is not None:
                found = torch.where(part.mixed, found, 0)
            nonfinite.index_add_(0, part.slots, found)
        return grown.reshape(y.shape)

    def _parts(self, captured: bool, kernels: dict[int, ModuleType]) -> Sequence[Part]:
        if not captured:
            return self.plan.active
        rest = len(kernels) < len(self.kinds)
        return everyone(self.live, self.kinds, self._state.lifecycle) if rest else ()

    def _prepare(self, y: Tensor) -> None:
        self._kernels_for(self._as_written(y), False)

    def _kernels_for(self, y: Tensor, captured: bool) -> dict[int, ModuleType]:
        """The kernels that can compute `y`, by kind; held before their first number is used."""
        if not self._kernels or not self._kernels_take(y.dtype):
            return {}
        if y.dtype not in self._proved:
            if captured:
                raise unproved(self.path, y)
            self._prove(y)
            self._proved.add(y.dtype)
        return self._kernels

    def _prove(self, y: Tensor) -> None:
        """Hold all kernels that a pass may launch; where one fails, take the twins."""
        joint = Planes.of(self._state.lifecycle).learning()
        try:
            for number, module in self._kernels.items():
                kind = self.pool(number).kind
                twin = Kind(tuple(kind.shapes()), kind.forward)
                parallel.hold(y, self.shape.d_in, self.stacks()[number], module, twin, joint)
        except Exception as error:  # noqa: BLE001  whatever a compiler or a driver may raise
            self.backend = fallen_back(self.alpha.device, error)
            self._kernels = {}
            warnings.warn(f"site {self.path!r}: {self.backend.why}", RuntimeWarning, stacklevel=2)

    def _launched(
        self, kernels: dict[int, ModuleType], captured: bool, nonfinite: Tensor
    ) -> Iterator[parallel.Seeds]:
        """The seeds that kernels compute, by kind; a captured graph finds out itself how many."""
        if captured:
            for number, module in kernels.items():
                yield parallel.Seeds(self.live, number, nonfinite, module, None, self.shape.d_in)
            return
        for part in self.plan.active:
            if part.number in kernels:
                known = parallel.Known(len(part.slots), part.training)
                module = kernels[part.number]
                yield parallel.Seeds(
                    self.live, part.number, nonfinite, module, known, self.shape.d_in
                )

    def _mixed(
        self, part: Part, x: Tensor, y: Tensor, alpha: Tensor, stack: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """`y` with the seeds of a part, and their elements that are not finite, by torch."""
        kind = self.pool(part.kind).kind
        if part.mixed is None and not part.training:
            stack = [each.detach() for each in stack]
        rows = taken(stack, part.rows, part.trains, y.dtype)
        params = dict(zip(kind.shapes(), rows, strict=True))
        units = kind.together()
        large = len(part.slots) * y.numel() >= together.WORTH
        if units is not None and large and y.device.type == "cpu":
            self._check((len(x), self.shape.d_out), y)
            return together.add(y, x, alpha, units, params)
        device = x.device.type
        off = (
            torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else IN_FULL
        )
        with off:
            made = kind.forward(params, guard(x.to(y.dtype)))
            if len(made) > 1 and device == "cpu" and not made.detach().sum().isfinite():
                # Each by itself: what is not finite in one shall not take others' gradients of x.
                own = [{name: p[i : i + 1] for name, p in params.items()} for i in range(len(made))]
                made = torch.cat([kind.forward(each, guard(x.to(y.dtype))) for each in own])
        self._check(tuple(made.shape[1:]), y)
        return add(y, made, alpha)

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
        assert x is not None
        out.copy_(self._added(x, y, alpha, stacks, captured, self.nonfinite))
        if due:
            self._measure(out)

    def _gradients(
        self,
        g: Tensor,
        y: Tensor,
        x: Tensor | None,
        alpha: Tensor,
        stacks: Stacks,
        captured: bool,
    ) -> Gradients:
        assert x is not None
        leaves = [each.detach().requires_grad_() for each in (x, alpha, *flat(stacks))]
        counted = torch.empty_like(self.nonfinite)  # the forward pass has counted them already
        with torch.enable_grad():
            again = self._added(
                leaves[0], y.detach(), leaves[1], self._stacked(leaves[2:]), captured, counted
            )
            found: Sequence[Tensor | None] = [None] * len(leaves)
            if again.requires_grad:
                found = torch.autograd.grad(again, leaves, g, allow_unused=True)
        to_x, to_alpha, *rest = (
            torch.zeros_like(leaf) if each is None else each
            for each, leaf in zip(found, leaves, strict=True)
        )
        return Gradients(None, to_x, to_alpha, rest)

    def _check(self, made: tuple[int, ...], y: Tensor) -> None:
        if made != y.shape:
            raise SiteError(
                f"site {self.path!r}: a blueprint gave {made} where the host "
                f"gives {tuple(y.shape)}; the host's output must keep the positions of its input, "
                "or a kind must be told how they change: give morph() an example=, use 'conv'"
            )

    def _as_read(self, x: Tensor) -> Tensor:
        if self.shape.tokens:
            return by_columns(x, self.shape)
        return x if self.shape.channels_first else x.reshape(-1, self.shape.d_in)

    def _as_written(self, y: Tensor) -> Tensor:
        return by_columns(y, self.shape)

    # What isolated training and the controller read.

    def blueprint_input(self, x: Tensor, seeds: Tensor) -> Tensor:
        """The site's input, which all seeds share: `[N, d_in]` or `[N, d_in, ...]`."""
        return self._as_read(x)

    def blueprint_output(self, y: Tensor, seeds: Tensor) -> Tensor:
        """The site's output or its gradient, which all share: `[N, d_out]` or `[N, d_out, ...]`."""
        return self._as_written(y)

    def telemetry(self) -> Telemetry:
        """The last sample; all seeds write all of the output, so they share it."""
        assert isinstance(self._sample, Sample)
        return shared(self._sample, self.n_seeds)
