"""What a site of either placement is: a module that sits beside the host and never inside it.

The site stands in the place of the host module's `forward` and calls it, so the module's name, its
parameters' names and its code stay as they are. Between two steps of the lifecycle the site acts by a `Plan` that was worked
out once; a forward pass neither waits for the device nor loops over seeds.

Legend: S seeds, A active seeds, N examples, F features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from kasmina.blueprints import BlueprintPool, Placement, SiteShape, blueprint_kind
from kasmina.lifecycle import StateTensor
from kasmina.sites.errors import SiteError
from kasmina.sites.mixing import guard
from kasmina.sites.passage import Capture, Passage
from kasmina.sites.plan import Part, Plan, Reading
from kasmina.sites.site import Mode
from kasmina.sites.telemetry import Sampler, Telemetry, empty_sample, sample

Objective = Literal["reconstruction", "functional_gradient"]
Watcher = Callable[[Tensor, Tensor], None]
_is_compiling = torch.compiler.is_compiling
_FIRST_CAPACITY = 4  # rows of a pool before it doubles


@dataclass(frozen=True)
class Place:
    """Where a site is and what may grow there.

    Attributes:
        path: the module's name, `first..last` for a span, "." for the whole model.
        first, last: names of the modules between whose input and output it is.
        first_row: the site's first row in the state tensor; it owns `seeds` rows from there.
        seeds: how many.
        shape: the tensors of the whole site; of an inline one `d_out` is the output's features.
        kinds: what may grow; `blueprint_id` is an index into it.
        hidden: hidden units of one seed.
        mode: of inline seeds.
        options: more arguments of the kinds, by kind.
    """

    path: str
    first: str
    last: str
    first_row: int
    seeds: int
    shape: SiteShape
    kinds: tuple[str, ...]
    hidden: int = 8
    mode: Mode = "residual"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class SiteLayer(nn.Module):
    """The seeds of one site; see the subclasses for what they do.

    Attributes:
        path, first_row, n_seeds, kinds, mode, shape: as in `Place`; `span` is (first, last).
        placement: `inline` or `parallel`.
        pools: the parameters, by kind.
        alpha: float32 `[S]`, a leaf that collects dL/dalpha.
        nonfinite: int64 `[S]`, elements of each blueprint's output that were not finite, since
            the seed's blueprint was allocated.
    """

    placement: ClassVar[Placement]
    nonfinite: Tensor

    def __init__(
        self,
        place: Place,
        state: StateTensor,
        seed_shape: SiteShape,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.path, self.first_row, self.n_seeds = place.path, place.first_row, place.seeds
        self.kinds, self.mode, self.shape = place.kinds, place.mode, place.shape
        self.span = (place.first, place.last)
        self._state = state
        self.pools = nn.ModuleDict()
        for name in place.kinds:
            kind = blueprint_kind(name)(seed_shape, place.hidden, **place.options.get(name, {}))
            capacity = min(place.seeds, _FIRST_CAPACITY)
            self.pools[name] = BlueprintPool(kind, capacity, device=state.device, dtype=dtype)
        seeds, device = place.seeds, state.device
        self._buffer("nonfinite", torch.zeros(seeds, dtype=torch.int64, device=device))
        self.alpha = torch.zeros(seeds, device=device, requires_grad=True)
        self.plan = Plan()
        self._fingerprint = b""
        self._quiet = True
        self._inside: Callable[..., Any] = nowhere
        self._sampler = Sampler(50)
        self._sample = empty_sample(self.shape.d_out, device)
        self._capture = Capture()
        self._watcher: Watcher | None = None

    def _buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    @property
    def objective(self) -> Objective:
        """What the site's seeds learn aside: to give the chunk back, or to lower the loss."""
        return "reconstruction" if self.mode == "replace" else "functional_gradient"

    @property
    def sample_every(self) -> int:
        """Passes between two samples of telemetry; 0 switches it off."""
        return self._sampler.every

    @sample_every.setter
    def sample_every(self, passes: int) -> None:
        self._sampler = Sampler(passes)

    def pool(self, kind: int | str) -> BlueprintPool:
        """The pool of a kind, by name or by `blueprint_id`."""
        pool = self.pools[self.kinds[kind] if isinstance(kind, int) else kind]
        assert isinstance(pool, BlueprintPool)
        return pool

    # What the lifecycle's step changes.

    def replan(self, reading: Reading) -> None:
        """Take over planes and rows of the site's seeds.

        Args:
            reading: of all seeds of the state tensor.
        """
        own = reading.of_site(self.first_row, self.n_seeds)
        fingerprint = own.fingerprint()
        if fingerprint != self._fingerprint:
            self._fingerprint = fingerprint
            self.plan = own.plan(self.kinds, self._state.device)
            self._settle()

    def reload_alpha(self) -> None:
        """Take over alpha of the site's seeds; forgets dL/dalpha."""
        self.alpha.grad = None
        if self.plan.active:
            own = slice(self.first_row, self.first_row + self.n_seeds)
            self.alpha.data.copy_(self._state["alpha"][own])

    def _settle(self) -> None:
        self._quiet = self.plan.is_dormant and self._watcher is None
        if not self.plan.shadow:
            self._capture.clear()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SiteLayer:
        """Move what is no parameter and no buffer as well."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.nonfinite.device
        if self.alpha.device != device:
            self.alpha = self.alpha.detach().to(device).requires_grad_()
            self._sample = empty_sample(self.shape.d_out, device)
            self._capture.clear()
            self._fingerprint = b""  # the plan's indices are on the old device
        return self

    def alpha_gradient(self) -> Tensor:
        """dL/dalpha of each seed, summed over the backward passes since `refresh`; `[S]`."""
        grad = self.alpha.grad
        return torch.zeros_like(self.alpha) if grad is None else grad.detach().clone()

    def training_rows(self, kind: str) -> Tensor:
        """The rows of a kind's pool that the task's loss trains now, bool `[capacity]`."""
        training = torch.zeros_like(self.pool(kind).occupied)
        for part in self.plan.active:
            if part.kind == kind:
                training[part.rows] = True if part.trains is None else part.trains
        return training

    # What the host's pass runs through.

    # What stands in the place of a module's `forward`. Its first lines are all that a dormant site
    # costs, so each subclass writes them out. A forward hook would do as well, but costs 1.3 us
    # in each pass, and five times that in a training step whose code is not in the cache.

    def divert(self, module: nn.Module) -> None:
        """Run `module` through this site from now on."""
        self._inside = diverted(module, self.run)

    @abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward: the host's own, and then the site."""

    def inside(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """What `forward`, a method of this site, has taken the place of."""
        return self._inside

    def stay_out(self, module: nn.Module, args: Any, output: Any) -> None:
        """A forward hook that does nothing; modules that have one are run part by part."""

    def _is_due(self) -> bool:
        """Whether this pass of a dormant site shall be sampled; a compiled one never is."""
        return not _is_compiling() and self._sampler.due()

    def _pass(self, x: Tensor | None, output: Any) -> Any:
        """Run a site that is not dormant, or that is to be sampled.

        Args:
            x: the site's input; an inline site does not read it.
            output: what the host's module returned: a tensor, or a tuple that begins with one.

        Returns:
            `output` itself, the same object, where nothing is mixed in.
        """
        y = first_tensor(output, self.path)
        if self._quiet:
            self._sample = sample(by_columns(y.detach(), self.shape))
            return output
        grown = self._grown(x, y) if self.plan.active else y
        if not _is_compiling():
            self._observe(self._source(x, y), grown)
        return output if grown is y else _with_first(output, grown)

    @abstractmethod
    def _grown(self, x: Tensor | None, y: Tensor) -> Tensor:
        """`y` with the active seeds mixed in."""

    @abstractmethod
    def _source(self, x: Tensor | None, y: Tensor) -> Tensor:
        """What the seeds read: the site's input or its output."""

    def _observe(self, read: Tensor, y: Tensor) -> None:
        """Keep what isolated training, a recorder or the telemetry asks for; changes nothing."""
        if self._sampler.due():
            self._sample = sample(by_columns(y.detach(), self.shape))
        if self._watcher is not None:
            self._watcher(read, y)
        if self.plan.shadow and self.training and torch.is_grad_enabled():
            self._capture.take(read, y)

    def _branch(self, part: Part, x: Tensor) -> Tensor:
        """What the blueprints of a part make of `x`; nothing but finite gradients leave it."""
        pool = self.pool(part.kind)
        params = pool.rows(part.rows)
        if part.trains is not None:
            params = {name: _partly(p, part.trains) for name, p in params.items()}
        guarded = {name: guard(p) for name, p in params.items()}
        return pool.kind.forward(guarded, guard(x))

    def _count(self, part: Part, nonfinite: Tensor) -> None:
        self.nonfinite.index_add_(0, part.slots, nonfinite)

    # What isolated training and the controller read.

    @abstractmethod
    def blueprint_input(self, x: Tensor, seeds: Tensor) -> Tensor:
        """`Passage.input` as the kinds of this site read it, for seeds int64 `[A]`."""

    @abstractmethod
    def blueprint_output(self, y: Tensor, seeds: Tensor) -> Tensor:
        """`Passage.output` or `.gradient` as the kinds write it; `[...]` shared, or `[A, ...]`."""

    @property
    def captured(self) -> Passage | None:
        """The last training pass, where the site has shadow seeds and it was backpropagated."""
        return self._capture.passage()

    @property
    def captured_input(self) -> Tensor | None:
        """What the seeds would have read in the last training pass."""
        return self._capture.input

    @property
    def captured_gradient(self) -> Tensor | None:
        """dL/doutput of the last training pass, once it was backpropagated."""
        return self._capture.gradient

    def clear_capture(self) -> None:
        """Let go of the captured pass."""
        self._capture.clear()

    def watch(self, watcher: Watcher) -> None:
        """Hand (what the seeds read, the site's output) of every pass to `watcher`."""
        self._watcher = watcher
        self._settle()

    def unwatch(self) -> None:
        """End `watch`."""
        self._watcher = None
        self._settle()

    @abstractmethod
    def telemetry(self) -> Telemetry:
        """The last sample; every `sample_every`-th pass is one, the first included."""

    def extra_repr(self) -> str:
        """What is printed of the site."""
        return f"{self.path!r}, {self.placement}, {self.n_seeds} seeds of {', '.join(self.kinds)}"


def nowhere(*args: Any, **kwargs: Any) -> Any:
    """The inside of a site that was never put into a model."""
    raise AssertionError("the site was never put into a model")


def diverted(module: nn.Module, run: Callable[..., Any]) -> Callable[..., Any]:
    """Put `run` in the place of the module's forward; returns what ran there before.

    That is no bound method: a copy or a pickle would look it up by its name and find `run`.
    """
    own: Callable[..., Any] | None = module.__dict__.get("forward")
    module.__dict__["forward"] = run
    return own if own is not None else partial(type(module).forward, module)


def first_tensor(output: Any, path: str) -> Tensor:
    """The tensor that seeds act on; raises `SiteError` where there is none."""
    first = output[0] if isinstance(output, tuple) and output else output
    if not isinstance(first, Tensor):
        raise SiteError(
            f"site {path!r}: the module returned {type(output).__name__}; seeds can act on a "
            "tensor, or on a tuple that begins with one (as nn.GRU returns). Place the site at a "
            "module inside that returns a tensor"
        )
    return first


def _with_first(output: Any, first: Tensor) -> Any:
    """`output` with another first element; named tuples stay named."""
    if isinstance(output, Tensor):
        return first
    rest = output[1:]
    return type(output)(first, *rest) if hasattr(output, "_fields") else (first, *rest)


def by_columns(y: Tensor, shape: SiteShape) -> Tensor:
    """A site's tensor as `[N, F, ...]`."""
    return y if shape.channels_first else y.reshape(-1, y.shape[-1])


def _partly(parameter: Tensor, trains: Tensor) -> Tensor:
    """`parameter` `[A, ...]`, through which a gradient passes for the seeds that train only."""
    mask = trains.view(-1, *[1] * (parameter.dim() - 1))
    return torch.where(mask, parameter, parameter.detach())
