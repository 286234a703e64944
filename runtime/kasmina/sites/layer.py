"""What a site of either placement is: a module that sits beside the host and never inside it.

The site stands in the place of the host module's `forward` and calls it, so the module's name, its
parameters' names and its code stay as they are. Between two steps of the lifecycle the site acts
by a `Plan` that was worked out once; a forward pass neither waits for the device nor loops over
seeds. In a compiled graph the site is one op that is always there, see `kernels.ops`.

Legend: S seeds, A active seeds, N examples, F features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kasmina.blueprints import BlueprintPool, Placement, SiteShape, blueprint_kind, prove
from kasmina.kernels import ops
from kasmina.kernels.backend import Choice
from kasmina.kernels.inline import DTYPES, Columns
from kasmina.lifecycle import StateTensor
from kasmina.sites.diversion import (
    diverted,
    first_tensor,
    nowhere,
    returns_fresh,
    with_first,
)
from kasmina.sites.errors import SiteError
from kasmina.sites.fitting import Fitting
from kasmina.sites.place import Objective, Place
from kasmina.sites.plan import Plan, Reading, planes_on
from kasmina.sites.telemetry import Telemetry
from kasmina.sites.traced import Traced

_is_compiling = torch.compiler.is_compiling
_is_capturing = torch.cuda.is_current_stream_capturing
_is_transformed = torch._C._are_functorch_transforms_active
_is_tracing = torch._C._get_tracing_state
_FIRST_CAPACITY = 4  # rows of a pool before it doubles


def detours(module: nn.Module) -> Iterator[SiteLayer]:
    """The sites that a module's forward passes, the outermost first."""
    forward = vars(module).get("forward")
    while isinstance(site := getattr(forward, "__self__", None), SiteLayer):
        yield site
        forward = site.inside(forward)  # type: ignore[arg-type]


def unproved(path: str, y: Tensor) -> SiteError:
    """The refusal of kernels whose first pass is inside of a captured graph."""
    return SiteError(
        f"site {path!r}: its first pass over about {len(y)} rows of {y.dtype} is inside of a CUDA "
        "graph's capture, where its kernels can be neither compiled nor held against their twins; "
        "run the model once on such a batch before the capture"
    )


class SiteLayer(Traced):
    """The seeds of one site; see the subclasses for what they do.

    Attributes:
        path, first_row, n_seeds, kinds, mode, shape: as in `Place`; `span` is (first, last).
        placement: `inline` or `parallel`.
        pools: the parameters, by kind.
        alpha: float32 `[S]` in [0, 1], a leaf that collects dL/dalpha; `Garden.refresh` alone writes
            it, from the state tensor.
        nonfinite: int64 `[S]`, elements of each blueprint's output that were not finite, since
            the seed's blueprint was allocated.
        backend: what computes the seeds, and why.
        live: what kernels read of the seeds.
    """

    placement: ClassVar[Placement]
    nonfinite: Tensor
    backend: Choice

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
        self._fixed = place.fixed
        self._input = Fitting.of_input(place.path, place.shape, place.fixed)
        self._output = Fitting.of_output(place.path, place.shape, place.fixed)
        self._state = state
        self.pools = nn.ModuleDict()
        for name in place.kinds:
            options = {"hidden": place.hidden, **place.options.get(name, {})}
            kind = blueprint_kind(name)(seed_shape, **options)
            if not type(kind).__module__.startswith("kasmina."):  # ours are held by tests
                prove(kind, state.device)
            capacity = min(place.seeds, _FIRST_CAPACITY)
            self.pools[name] = BlueprintPool(kind, capacity, device=state.device, dtype=dtype)
        seeds, device = place.seeds, state.device
        self._buffer("nonfinite", torch.zeros(seeds, dtype=torch.int64, device=device))
        self.alpha = torch.zeros(seeds, device=device, requires_grad=True)
        self._training: dict[str, tuple[Plan, Tensor]] = {}  # by kind, of which plan
        self._inside: Callable[..., Any] = nowhere
        self._blind = False  # whether the last pass had no graph
        self._fresh = False  # whether the host's output may be overwritten

    def _buffer(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value, persistent=False)

    def _arrive(self, device: torch.device) -> None:
        """Begin on a device, without a plan."""
        self._fingerprint, self._device = b"", self.alpha.device
        self._met: set[tuple[torch.dtype, int]] = set()  # sizes of passes that were looked at
        self._forget(device)
        own = slice(self.first_row, self.first_row + self.n_seeds)
        names = ("blueprint_id", "blueprint_slot")
        columns = [self._state.codes, *(self._state[name] for name in names)]
        self.live = Columns(*(column[own].to(device, copy=True) for column in columns))
        self._may_capture = device.type == "cuda"
        planes_on(self._state.lifecycle, device)  # a captured graph cannot copy them there
        self._seat = ops.seated(self, device)
        self.backend = self._equipped = self._equip(device)

    def _kernels_take(self, dtype: torch.dtype) -> bool:
        """Whether the site's kernels compute in a dtype; `backend` says so."""
        takes = dtype in DTYPES
        if takes != (self.backend is self._equipped):
            known = ", ".join(str(each) for each in DTYPES)
            why = f"the twins: kernels compute in {known}, and the last pass was in {dtype}"
            self.backend = self._equipped if takes else Choice("torch", why)
        return takes

    @abstractmethod
    def _equip(self, device: torch.device) -> Choice:
        """Choose what computes the seeds on a device, and prepare it."""

    @property
    def objective(self) -> Objective:
        """What the site's seeds learn aside: to give the chunk back, or to lower the loss."""
        return "reconstruction" if self.mode == "replace" else "functional_gradient"

    def pool(self, kind: int | str) -> BlueprintPool:
        """The pool of a kind, by name or by `blueprint_id`."""
        pool = self.pools[self.kinds[kind] if isinstance(kind, int) else kind]
        assert isinstance(pool, BlueprintPool)
        return pool

    # What the lifecycle's step changes.

    def check(self, reading: Reading) -> Reading:
        """The site's rows of a reading; raises `SiteError` where they cannot be followed."""
        own = reading.of_site(self.first_row, self.n_seeds)
        own.refuse_misplaced(self.path, [self.pool(kind).capacity for kind in self.kinds])
        return own

    def replan(self, own: Reading) -> None:
        """Take over planes and rows of the site's seeds, as `check` gave them."""
        fingerprint = own.fingerprint()
        if fingerprint != self._fingerprint:
            self._fingerprint = fingerprint
            for column, values in zip(self.live, (own.code, own.kind, own.row), strict=True):
                column.copy_(torch.as_tensor(values))
            self.plan = own.plan(self.kinds, self._state.device)
            self._planned()
            self._settle()

    @abstractmethod
    def _planned(self) -> None:
        """Prepare the passes of a new plan."""

    def reload_alpha(self, alpha: Tensor) -> None:
        """Take over alpha of the site's seeds, from `[N]` of all; forgets dL/dalpha."""
        self.alpha.grad = None
        if self.plan.active:
            self.alpha.data.copy_(alpha[self.first_row : self.first_row + self.n_seeds])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SiteLayer:
        """Move what is no parameter and no buffer as well."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = self.nonfinite.device
        if device.type == "meta":
            raise SiteError(
                "a model with seeds cannot be moved to the meta device, where nothing has a value; move "
                "kasmina.fold(model) there"
            )
        if self.alpha.device != device:
            self.alpha = self.alpha.detach().to(device).requires_grad_()
            self._arrive(device)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._seat = ops.seated(self, self.alpha.device)  # a copy has its own

    def alpha_gradient(self) -> Tensor:
        """dL/dalpha of each seed, summed over the backward passes since `refresh`; `[S]`."""
        grad = self.alpha.grad
        return torch.zeros_like(self.alpha) if grad is None else grad.detach().clone()

    def training_rows(self, kind: str) -> Tensor:
        """The rows of a kind's pool that the task's loss trains now, bool `[capacity]`.

        The same tensor until the plan changes, or the pool's capacity.
        """
        plan, training = self._training.get(kind, (None, None))
        occupied = self.pool(kind).occupied
        if plan is not self.plan or training is None or training.shape != occupied.shape:
            training = torch.zeros_like(occupied)
            for part in self.plan.active:
                if part.kind == kind:
                    training[part.rows] = True if part.trains is None else part.trains
            self._training[kind] = self.plan, training
        return training

    # What the host's pass runs through.

    # What stands in the place of a module's `forward`. Its first lines are all that a dormant site
    # costs, so each subclass writes them out. A forward hook would do as well, but costs 1.3 us
    # in each pass, and five times that in a training step whose code is not in the cache.

    def divert(self, module: nn.Module) -> None:
        """Run `module` through this site from now on."""
        self._fresh = returns_fresh(module)
        self._inside = diverted(module, self.run)

    @abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward: the host's own, and then the site."""

    def inside(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """What `forward`, a method of this site, has taken the place of."""
        return self._inside

    def stay_out(self, module: nn.Module, args: Any, output: Any) -> None:
        """A forward hook that does nothing; modules that have one are run part by part."""

    def _is_due(self, output: Any) -> bool:
        """Whether this pass of a dormant site must be looked at.

        It is a sample, a captured graph, or one of a size that a graph may be captured of later.
        """
        return self._sampler.due() or (
            self._may_capture and (self._is_new(output) or _is_capturing())
        )

    def _is_new(self, output: Any) -> bool:
        """Whether no pass of this dtype and doubling of rows was looked at."""
        if not isinstance(output, Tensor):
            return False
        size = (output.dtype, (output.numel() // self.shape.d_out).bit_length())
        if size in self._met:
            return False
        self._met.add(size)
        return True

    def _pass(self, x: Tensor | None, output: Any) -> Any:
        """Run a site that is not dormant, or that is to be sampled.

        Args:
            x: the site's input; an inline site does not read it.
            output: what the host's module returned: a tensor, or a tuple that begins with one.

        Returns:
            `output` itself, the same object, where nothing is mixed in and the host trains.
        """
        if _is_transformed() or _is_tracing():
            return self._only_asleep(output)
        y = first_tensor(output, self)
        self._output.check(y)
        captured = self._may_capture and _is_capturing()
        if self._quiet and not captured:
            if self._may_capture:
                self._prepare(y)
            if self.sample_every > 0:
                self._measure(y)
            return output
        if y.device != self._device:
            raise SiteError(
                f"site {self.path!r}: the host's output is on {y.device}, its seeds are on "
                f"{self._device}; move the whole model, as model.to(device) does"
            )
        due = self._sampler.due() or (captured and self.sample_every > 0)
        grown = y
        if self.plan.active or captured:
            grown = self._grown(x, y, captured, due)
        elif due:
            self._measure(y)
        if self._watched:
            grown = self._shown(y if x is None else x, grown)
        return output if grown is y else with_first(output, grown)

    def _only_asleep(self, output: Any) -> Any:
        """A pass that torch.func transforms, or that torch.jit writes down; it is no sample."""
        if self._quiet:
            return output
        raise SiteError(
            f"site {self.path!r}: seeds that act can neither be transformed by torch.func (vmap, grad, "
            "...) nor traced by torch.jit; do that with kasmina.fold(model)"
        )

    def _shown(self, read: Tensor, grown: Tensor) -> Tensor:
        """What the site gives, as it goes on; whoever waits for it has seen it."""
        grad = torch.is_grad_enabled()
        again = torch._C._current_graph_task_id() != -1  # a checkpoint runs the pass again
        if grad:
            grown = self._rooted(grown)
        if not again or (grad and self._blind):
            self._observe(read, grown, grad)
        blind = not again and not grad  # as the first pass of a reentrant checkpoint is
        if blind is not self._blind:  # a module's attributes are slow to write
            self._blind = blind
        return grown

    @abstractmethod
    def _prepare(self, y: Tensor) -> None:
        """Hold the kernels of passes like `y`, whether a seed acts or not: a capture cannot."""

    @abstractmethod
    def _grown(self, x: Tensor | None, y: Tensor, captured: bool, due: bool) -> Tensor:
        """`y` with the active seeds mixed in.

        Args:
            x: as in `_pass`.
            y: the host's output.
            captured: whether a graph must follow the lifecycle: what the plan says holds now only.
            due: whether to take a sample.
        """

    # What isolated training and the controller read.

    @abstractmethod
    def blueprint_input(self, x: Tensor, seeds: Tensor) -> Tensor:
        """`Passage.input` as the kinds of this site read it, for seeds int64 `[A]`."""

    @abstractmethod
    def blueprint_output(self, y: Tensor, seeds: Tensor) -> Tensor:
        """`Passage.output` or `.gradient` as the kinds write it; `[...]` shared, or `[A, ...]`."""

    @abstractmethod
    def telemetry(self) -> Telemetry:
        """The last sample; every `sample_every`-th pass is one, the first included."""

    def extra_repr(self) -> str:
        """What is printed of the site."""
        return f"{self.path!r}, {self.placement}, {self.n_seeds} seeds of {', '.join(self.kinds)}"
