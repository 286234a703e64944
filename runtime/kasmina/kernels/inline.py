"""The inline seeds of a site by generated kernels, and the autograd node around either backend.

This is the one place that knows how a generated kernel is called. Legend: S seeds of the site,
N examples, F features.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kasmina.kernels.backend import on_its_device
from kasmina.kernels.made import made
from kasmina.kernels.mixing import by_seed
from kasmina.kernels.tiles import Direction, Tiles, Tuning
from kasmina.kernels.twin import (
    Cut,
    Group,
    Kind,
    Places,
    Pulled,
    Stacks,
    Twin,
    differentiable,
)

DIRECTIONS = ("forward", "backward")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Columns(NamedTuple):
    """What kernels read of the seeds, on their device, `[S]` each; written in place after a step.

    They are the site's own copies and not views of the state tensor: a trial shows seeds in
    states that they are not in, and what a kernel reads was checked when it was copied.
    """

    codes: Tensor  # int8, state codes
    kinds: Tensor  # numbers of kinds at the site
    rows: Tensor  # rows of the kind's pool, -1 for none


class Kernel(NamedTuple):
    """The two generated launch functions of one kind; see `Launches` for their arguments."""

    forward: Callable[..., None]
    backward: Callable[..., None]


class Sampler(NamedTuple):
    """The generated launch functions of telemetry, which know no kind."""

    sample: Callable[..., None]  # measures every chunk
    gather: Callable[..., None]  # makes a sample of what launches have measured
    new_measures: Callable[[Tensor], Tensor]  # room for that


class NoKernel(Exception):
    """Why a kind has no generated kernel."""


def kernel(package: str, name: str, kind: Any) -> Kernel:
    """The generated kernel of a blueprint's kind; as `modules_of`."""
    forward, backward = modules_of(package, "inline", name, kind, DIRECTIONS)
    return Kernel(forward.forward, backward.backward)


def modules_of(
    package: str, placement: str, name: str, kind: Any, parts: Sequence[str] = ("",)
) -> list[Any]:
    """The generated modules of a blueprint's kind.

    Args:
        package: of the lifecycle, whose states the kernels know.
        placement: the first word of the modules' names.
        name: of the kind.
        kind: itself, which has the options of the kind as attributes, and `shapes()`.
        parts: last words of the modules' names.

    Raises:
        NoKernel: there is none.
        FormulaError: the kind has a formula, which gives no kernel, or a wrong one.
    """
    for text, entry in texts(package).items():
        chosen = all(
            getattr(kind, option, None) == value for option, value in entry.options.items()
        )
        if (
            entry.kind == name
            and chosen
            and entry.parameters.get(placement) == tuple(kind.shapes())
        ):
            names = ("_".join(filter(None, (placement, text, part))) for part in parts)
            return [_module(package, each) for each in names]
    if placement != "inline":
        raise NoKernel(
            f"no {placement} kernel is generated for blueprint {name!r}; one of your own gets inline "
            "kernels only"
        )
    written = made(package, name, kind)
    if written is None:
        raise NoKernel(f"no kernel is generated for blueprint {name!r}, which has no formula")
    return list(written)


def texts(package: str) -> Mapping[str, Any]:
    """The generated texts of a lifecycle's package by name; raises `NoKernel`."""
    found: Mapping[str, Any] = _module(package, "catalogue").TEXTS
    return found


def sampler(package: str) -> Sampler:
    """The generated launch functions of telemetry; raises `NoKernel`."""
    module = _module(package, "sample")
    return Sampler(module.sample, module.gather, module.new_measures)


def _module(package: str, name: str) -> Any:
    try:
        return importlib.import_module(f"{package}.kernels.{name}")
    except ModuleNotFoundError as error:
        raise NoKernel(f"{package} has no generated kernels/{name}.py") from error


class Way(Protocol):
    """How seeds are mixed in: `Twin` or `Launches`."""

    numbers: tuple[int, ...]  # of the kinds that are mixed in

    def forward(
        self,
        y: Tensor,
        out: Tensor,
        alpha: Tensor,
        stacks: Stacks,
        grad: bool,
        sample: Tensor | None = None,
    ) -> Any:
        """Write the site's output into `out`; returns what `backward` wants to have kept."""

    def again(self, y: Tensor, alpha: Tensor, stacks: Stacks) -> Any:
        """What `forward` would have returned for `backward`."""

    def backward(self, g: Tensor, y: Tensor, kept: Any, alpha: Tensor, stacks: Stacks) -> Pulled:
        """The gradients, from dL/doutput; `y` is the first of what `reads` gave."""

    samples: bool  # whether `forward` writes a sample

    def reads(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """What must not change between `forward` and `backward`; `arguments` are y, alpha, ..."""


class Launches:
    """Generated kernels, bound to the tensors of one site.

    Either direction is a launch a kind, which goes through the kind's own chunks; the first one
    carries over what nothing is mixed into, as well.

    Args:
        kernels: by number of the kind.
        columns: of the site.
        nonfinite: int64 `[S]`, counted up.
        sampler: of telemetry.
        replace: whether B takes the chunk's place; else it is added.
    """

    samples = True

    def __init__(
        self,
        kernels: Mapping[int, Kernel],
        columns: Columns,
        nonfinite: Tensor,
        sampler: Sampler,
        *,
        replace: bool,
    ) -> None:
        seeds, device = len(columns.codes), columns.codes.device
        self._sampler = sampler
        self.numbers: tuple[int, ...] = ()
        self._kernels, self._columns = dict(kernels), columns
        self._nonfinite, self._replace = nonfinite, replace
        # The mixed seeds of each kind first, and how many: what a launch goes through.
        self._lists = {
            number: (
                torch.zeros(seeds, dtype=torch.int32, device=device),
                torch.zeros(1, dtype=torch.int32, device=device),
            )
            for number in kernels
        }
        self._tuning, self._seeds = Tuning(device), seeds
        self._rows: int | None = None

    def select(self, slots: Mapping[int, Tensor]) -> None:
        """Take over which seeds of each kind are mixed in, int64 `[A]`; in place."""
        self.numbers = tuple(slots)
        for number, (order, count) in self._lists.items():
            chosen = slots.get(number)
            count.fill_(0 if chosen is None else len(chosen))
            if chosen is not None:
                order[: len(chosen)] = chosen

    def _tiles(self, direction: Direction, y: Tensor) -> tuple[Tiles, Tiles]:
        return self._tuning.tiles(direction, y, self._seeds, self._rows)

    def trial(self, columns: Columns, slots: Mapping[int, Tensor], rows: int) -> Launches:
        """The same kernels on other seeds, with the tiles of so many rows, whatever comes."""
        other = Launches(
            self._kernels,
            columns,
            torch.zeros_like(self._nonfinite),
            self._sampler,
            replace=self._replace,
        )
        other._tuning, other._rows = self._tuning, rows
        other.select(slots)
        return other

    @property
    def replaces(self) -> bool:
        """Whether B takes the chunk's place."""
        return self._replace

    @property
    def columns(self) -> Columns:
        """Of the site."""
        return self._columns

    def whatever_comes(self) -> Launches:
        """The same for a captured graph: a launch of every kind, whatever is mixed in now."""
        always = object.__new__(Launches)
        always.__dict__ = {**self.__dict__, "numbers": tuple(self._kernels)}
        return always

    def reads(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """See `Way`."""
        return (*arguments, *self._columns)

    @on_its_device
    def measure(self, y: Tensor, sample: Tensor) -> None:
        """Write the sample of `y` `[N, F]`, as `forward` does; nothing else is written."""
        self._sampler.sample(y, sample, tiles=self._tiles("carry", y)[0])

    @on_its_device
    def forward(
        self,
        y: Tensor,
        out: Tensor,
        alpha: Tensor,
        stacks: Stacks,
        grad: bool,
        sample: Tensor | None = None,
    ) -> None:
        """Write the site's output into `out`; see `Way`.

        Args:
            y: the host's output, `[N, F]`.
            out: of the same shape; `y` itself where it may be overwritten.
            alpha: float32 `[S]` in [0, 1].
            stacks: by kind of the site the parameters of its pool, `[capacity, ...]`.
            grad: not read: what a backward pass needs is computed again.
            sample: float32 `[S, 4]` for sum, sum of squares, maximum (NaN where there is one) and
                number of non-finite elements of each chunk of `out`; None for no telemetry.
        """
        if not self.numbers:
            self._idle(y, out, sample)
            return
        tiles, others = self._tiles("forward" if sample is None else "sampled", y)
        measures = None if sample is None else self._sampler.new_measures(y)
        carried = others if out is not y or measures is not None else None
        for number in self.numbers:
            self._kernels[number].forward(
                y,
                out,
                *self._columns,
                alpha,
                stacks[number],
                number,
                self._nonfinite,
                measures,
                *self._lists[number],
                replace=self._replace,
                tiles=tiles,
                carried=carried,
            )
            carried = None  # the first one has done it
        if measures is not None:
            self._sampler.gather(out, measures, sample)

    def _idle(self, y: Tensor, out: Tensor, sample: Tensor | None) -> None:
        """`forward` where nothing is mixed in."""
        if out is not y:
            out.copy_(y)
        if sample is not None:
            self.measure(y, sample)

    def again(self, y: Tensor, alpha: Tensor, stacks: Stacks) -> None:
        """See `Way`; the kernels keep nothing."""

    @on_its_device
    def backward(self, g: Tensor, y: Tensor, kept: None, alpha: Tensor, stacks: Stacks) -> Pulled:
        """See `Way`."""
        if not self.numbers:
            return Pulled(g.clone(), torch.zeros_like(alpha), {})
        tiles, carried = self._tiles("backward", y)
        to_y = torch.empty(g.shape, dtype=g.dtype, device=g.device)
        to_alpha = torch.empty_like(alpha)
        found = {n: [torch.empty_like(p) for p in stacks[n]] for n in self.numbers}
        for number in self.numbers:
            self._kernels[number].backward(
                g,
                y,
                to_y,
                *self._columns,
                alpha,
                stacks[number],
                found[number],
                to_alpha,
                number,
                *self._lists[number],
                replace=self._replace,
                tiles=tiles,
                carried=carried if number == self.numbers[0] else None,
            )
        return Pulled(to_y, to_alpha, found)


class WrongKernel(Exception):
    """A kernel that gives other numbers than its twin."""


def hold(
    launches: Launches,
    kinds: Sequence[Kind],
    cut: Cut,
    joint: int,
    y: Tensor,
    stacks: Stacks,
    first: int = 0,
) -> None:
    """Hold kernels against their twins, forwards and backwards, on random numbers.

    What a compiler, a driver or a GPU that nobody has tried makes of a kernel shows here, before
    a number of it is used. Seeds and parameters are its own: it tells of seeds to come as well,
    and compiles all that a pass may launch.

    Args:
        launches: the kernels.
        kinds: of the site, by number.
        cut: of the site's tensors.
        joint: code of a state that mixes blueprints in and trains them.
        y: a tensor `[N, F]` like those of the passes to come.
        stacks: by kind the parameters of its pool, for their shapes and dtypes.
        first: number of the kind that a pass begins with; those behind it are held with it.

    Raises:
        WrongKernel: they differ; says where and by how much.
    """
    with torch.inference_mode(False), differentiable():
        random = torch.Generator(y.device).manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return stepwise(torch.randn(shape, generator=random, device=y.device), 0.5)

        chosen = torch.linspace(0, cut.seeds - 1, min(cut.seeds, _SEEDS), device=y.device)
        slots = chosen.round().long()
        numbers = range(first, len(kinds))
        parts = {number: slots[place :: len(numbers)] for place, number in enumerate(numbers)}
        ours = launches.trial(_shown(launches.columns, parts, joint), parts, len(y))
        groups = [
            Group(kinds[number], number, part, _rows(part), Places(cut, part))
            for number, part in parts.items()
            if len(part)
        ]
        theirs = Twin(groups, launches.replaces, torch.zeros_like(launches.columns.rows).long())
        own = [[0.25 * drawn(_SEEDS, *p.shape[1:]).to(p) for p in stack] for stack in stacks]
        x, g = (drawn(_ROWS, y.shape[1]).to(y.dtype) for _ in "xg")
        alpha = torch.rand(cut.seeds, generator=random, device=y.device)
        found, wanted = (_results(way, cut, x, g, alpha, own) for way in (ours, theirs))
    for name, value in wanted.items():
        off = distance(found[name], value)
        if not off <= TOLERANCES[y.dtype]:
            raise WrongKernel(f"its {name} is off by {off:.2g} of the norm in {y.dtype}")


_ROWS = 40  # of a trial, so that a tile has an end
_SEEDS = 24  # of a trial at most, for more than one strip of narrow chunks
# Of norms, between a kernel and its twin.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def stepwise(values: Tensor, step: float) -> Tensor:
    """Values rounded to multiples of `step`, a power of two.

    Sums of products of such numbers are exact in 16 bits where they are near 0. So no rounding
    decides on which side of a kink, like that of relu, a unit is: it would be far off in its
    gradient, and nothing would be wrong.
    """
    return (values / step).round() * step


def _rows(part: Tensor) -> Tensor:
    return torch.arange(len(part), device=part.device)


def _shown(like: Columns, parts: Mapping[int, Tensor], code: int) -> Columns:
    """Columns of a site in which `parts` are all that is mixed in."""
    shown = Columns(*(torch.full_like(c, v) for c, v in zip(like, (code, -1, -1), strict=True)))
    for number, part in parts.items():
        shown.kinds[part] = number
        shown.rows[part] = _rows(part).to(shown.rows.dtype)
    return shown


@torch.no_grad()
def _results(
    way: Way, cut: Cut, x: Tensor, g: Tensor, alpha: Tensor, stacks: Stacks
) -> dict[str, Tensor]:
    out, sampled, own = torch.empty_like(x), torch.empty_like(x), x.clone()
    pulled = way.backward(g, x, way.forward(x, out, alpha, stacks, True), alpha, stacks)
    samples = [alpha.new_zeros((len(alpha), 4)) for _ in range(2)]
    way.forward(x, sampled, alpha, stacks, False, samples[0])
    if isinstance(way, Launches):
        way.measure(x, samples[1])
    else:
        samples = [_sample(each, cut) for each in (sampled, x)]
    way.forward(own, own, alpha, stacks, False)
    found = {
        "output": out,
        "output of a pass with a sample": sampled,
        "output in place": own,
        "gradient of the input": pulled.y,
        "gradient of alpha": pulled.alpha,
    }
    for number in way.numbers:
        for place, gradient in enumerate(pulled.stacks.get(number) or ()):
            found[f"gradient of parameter {place} of kind {number}"] = gradient
    for whose, sample in zip(("the output", "the input"), samples, strict=True):
        for place, what in enumerate(("sums", "sums of squares", "maxima")):
            found[f"{what} of {whose}"] = sample[:, place]
    return found


def _sample(y: Tensor, cut: Cut) -> Tensor:
    """What kernels write of `y` `[N, F]`, but for the count of what is not finite."""
    chunks = Places(cut).take(y.float())
    most = chunks if cut.valid is None else chunks.masked_fill(~cut.valid[:, None], -torch.inf)
    return torch.stack((by_seed(chunks), by_seed(chunks.square()), most.amax((1, 2))), 1)


def distance(found: Tensor, wanted: Tensor) -> float:
    """The norm of the difference over the norm; infinite where other elements are finite."""
    finite = wanted.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return float("inf")
    found, wanted = found[finite].double(), wanted[finite].double()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-6))


class _Pass(Function):
    """One pass through the seeds of an inline site; further arguments are what gets a gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        y: Tensor,
        alpha: Tensor,
        way: Way,
        stacks: Stacks,
        sample: Tensor | None,
        *parameters: Tensor,
    ) -> Tensor:
        out = torch.empty_like(y, memory_format=torch.contiguous_format)
        ctx.kept = way.forward(y, out, alpha, stacks, True, sample)
        ctx.save_for_backward(*way.reads(y, alpha, *parameters))  # torch tells if one changes
        ctx.way, ctx.alpha, ctx.stacks = way, alpha, stacks
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        y, *_ = ctx.saved_tensors
        pulled = ctx.way.backward(g, y, ctx.kept, ctx.alpha, ctx.stacks)
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            ctx.kept = None  # the node may live longer than what it needed
        flat = [each for number in ctx.way.numbers for each in pulled.stacks[number]]
        return pulled.y, pulled.alpha, None, None, None, *flat


def passed(
    y: Tensor, alpha: Tensor, way: Way, stacks: Stacks, sample: Tensor | None = None
) -> Tensor:
    """The site's output, contiguous and differentiable; arguments as `Launches.forward` takes."""
    parameters = [p for number in way.numbers for p in stacks[number]]
    out: Tensor = _Pass.apply(y, alpha, way, stacks, sample, *parameters)  # type: ignore[no-untyped-call]
    return out


def every_gradient(pulled: Pulled, stacks: Stacks) -> list[Tensor]:
    """Gradients of all kinds' parameters in one list; 0 for kinds that are not mixed in."""
    return [
        each
        for number, stack in enumerate(stacks)
        for each in pulled.stacks.get(number) or [torch.zeros_like(p) for p in stack]
    ]


def flat(stacks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """All kinds' parameters in one list."""
    return [parameter for stack in stacks for parameter in stack]
