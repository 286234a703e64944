"""Seeds in parallel on a GPU: `y + sum over the active seeds of alpha B(x)` as one product.

What the active seeds hold in their pool is copied side by side (a few per cent of the product's
time), so their hidden units are those of one wide layer: two products forwards, four backwards.
Where the host knows how many seeds are active, as it does between two steps of the lifecycle, the
products are torch's, over a *bucket* of at least so many seeds. Where it does not, in a graph that
outlives a step, they are grouped kernels that read the count from the device. Nothing waits for
the device in either. Semantics are those of `mixing`, but that a lane of B that is not finite is
dropped alone, also backwards, where `guard` drops all that it has spoilt.

Legend: N examples, S seeds of the site, C capacity of the pool, H hidden units of a seed, M seeds on
the axis of the units, U = M * H.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from kasmina.kernels import mixing
from kasmina.kernels.backend import on_its_device
from kasmina.kernels.inline import TOLERANCES, Columns, WrongKernel, distance, stepwise
from kasmina.kernels.twin import Kind, differentiable

TILE = 32  # rows of a place, see the kernels
_AHEAD = 256  # units behind the last one that must be 0: the deepest tile of a product
_LIMITS = {torch.float32: 1e38, torch.bfloat16: 1e38, torch.float16: 6e4}
_buckets: Counter[int] = Counter()


class Saved(NamedTuple):
    """What a forward pass leaves for its backward pass: the state of the seeds as it was."""

    selection: Tensor  # int32 [3, C]: slot, row (-1 behind the active seeds), whether it trains
    weights: Tensor  # float32 [2, C]: alpha, largest magnitude of the last map
    counts: Tensor  # int32 [4]: active, training, whether an alpha is not 0, whether one is exact
    exact: Tensor  # uint8 [tiles, C]: places that are worked out apart
    maps: Tensor  # [maps, N, U] what the maps gave, or [0]: to be computed again


class Known(NamedTuple):
    """What the host knows of a plan: how many seeds of the kind are active, how many train."""

    active: int
    training: int


class Tiles(NamedTuple):
    """Sizes of the tiles of a grouped product."""

    rows: int = 128
    columns: int = 256
    depth: int = 64
    warps: int = 8
    stages: int = 3


def power(n: int) -> int:
    """The least power of two that is not below `n`."""
    return 1 << max(n - 1, 0).bit_length()


def bucket(active: int) -> int:
    """The least bucket that holds so many seeds: at most 1/16 more, 16 buckets in an octave."""
    step = max(1, power(active) // 32)
    return -(-active // step) * step


def buckets_used() -> dict[int, int]:
    """How many passes there have been of each bucket."""
    return dict(_buckets)


def _tiles(n: int, dtype: torch.dtype) -> Tiles:
    if dtype == torch.float32:
        return Tiles(64, 64, 32, 4)
    return Tiles() if n > 512 else Tiles(64, 128, 64, 4, 4)


def _programs(device: torch.device) -> int:
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _new(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


@dataclass(frozen=True)
class _Pass:
    """The sizes of one pass, and its launches.

    `module` is the text of the kind; `known` is None where the count is on the device only.
    """

    module: ModuleType
    parameters: Sequence[Tensor]
    x: Tensor  # [N, d_in]
    d_out: int
    known: Known | None

    @cached_property
    def units(self) -> Any:
        """The module that the kind's text shares with the others of its package."""
        return sys.modules[self.module.finite.fn.__module__]

    @property
    def interpreted(self) -> bool:
        return bool(sys.modules[self.units.has_state.fn.__module__].INTERPRETED)

    @property
    def n(self) -> int:
        return len(self.x)

    @property
    def capacity(self) -> int:
        return len(self.parameters[0])

    @cached_property
    def inner(self) -> list[Tensor]:
        given = iter(self.parameters)
        return [(next(given), next(given) if bias else None)[0] for bias in self.module.BIASES]

    @cached_property
    def biases(self) -> list[Tensor]:
        return [p for p in self.parameters[:-1] if p.dim() == 2]

    @property
    def outer(self) -> Tensor:
        return self.parameters[-1]

    @property
    def hidden(self) -> int:
        return int(self.outer.shape[2])

    @cached_property
    def seen(self) -> int:
        """Seeds on the axis of the units, at most."""
        if self.known is None:
            return self.capacity
        return min(bucket(self.known.active), self.capacity)

    @property
    def ahead(self) -> int:
        """Empty seeds behind the active ones that are 0."""
        return self.capacity if self.known is not None else -(-_AHEAD // self.hidden)

    @property
    def u(self) -> int:
        return self.seen * self.hidden

    @property
    def span(self) -> int:
        return self.n * self.u

    @property
    def tiles(self) -> int:
        return -(-self.n // TILE)

    @property
    def axis(self) -> tuple[int, int]:
        return self.seen, self.ahead

    def spread(self, blocks: int, most: int) -> int:
        """Programs over blocks of seeds; where the device counts, few that loop."""
        return blocks if self.known is not None else min(blocks, most)

    @cached_property
    def places(self) -> dict[str, Any]:
        """Sizes of the kernels that go over the hidden units."""
        lanes = min(power(self.hidden), 128)
        return {"H": self.hidden, "TN": TILE, "BS": max(1, 64 // lanes), "BH": lanes}

    @property
    def places_grid(self) -> tuple[int, int]:
        return self.tiles, self.spread(-(-self.seen // self.places["BS"]), 8)

    @property
    def exact(self) -> dict[str, Any]:
        """Sizes of the kernels of exact places."""
        depth = min(64, max(16, power(self.hidden)))
        return {"H": self.hidden, "TN": TILE, "BD": 64, "BH": depth, "UPCAST": self.upcast}

    @property
    def upcast(self) -> bool:
        """The interpreter cannot multiply bfloat16."""
        return self.interpreted and self.x.dtype == torch.bfloat16

    def move_map(self, pool: Tensor, side: Tensor, saved: Saved, seen: int, back: bool) -> None:
        size = pool[0].numel()
        block = min(4096, power(size))
        grid = (-(-size // block), self.spread(seen, 64))
        self.units.move_map[grid](
            pool, side, saved.selection, saved.counts, self.capacity, size, seen, self.ahead,
            BACK=back, BLOCK=block,
        )  # fmt: skip

    def move_out(self, pool: Tensor, side: Tensor, saved: Saved, seen: int, back: bool) -> None:
        lanes, side_by_side = self.places["BH"], self.places["BS"]
        deep = max(1, 4096 // (lanes * side_by_side))
        grid = (-(-self.d_out // deep), self.spread(-(-seen // side_by_side), 64))
        self.units.move_out[grid](
            pool, side, saved.selection, saved.weights, saved.counts, self.capacity, self.d_out,
            seen * self.hidden, seen, self.ahead, H=self.hidden, BACK=back, BD=deep,
            BS=side_by_side, BH=lanes,
        )  # fmt: skip

    def inner_side(self, saved: Saved) -> list[Tensor]:
        """The maps of the input side by side, `[U, d_in]` each."""
        sides = [_new(self.x, (self.u, self.x.shape[1])) for _ in self.inner]
        for pool, side in zip(self.inner, sides, strict=True):
            self.move_map(pool, side, saved, self.seen, False)
        return sides

    def outer_side(self, saved: Saved) -> Tensor:
        """The last maps side by side, `[d_out, U]`; notes their magnitudes."""
        side = _new(self.x, (self.d_out, self.u))
        self.move_out(self.outer, side, saved, self.seen, False)
        return side

    def maps(self, inner: list[Tensor], saved: Saved) -> Tensor:
        """What the maps give, without their biases, `[maps, N, U]`."""
        made = _new(self.x, (len(inner), self.n, self.u))
        for weight, to in zip(inner, made, strict=True):
            self.product(self.x, weight.T, to, saved, axis=1)
        return made

    def product(
        self,
        a: Tensor,
        b: Tensor,
        to: Tensor,
        saved: Saved,
        *,
        axis: int,
        count: int = 0,
        start: Tensor | None = None,
        finite: bool = False,
    ) -> None:
        """Make `to = start + a b`; `axis` of (rows, columns, depth) is that of the units."""
        if self.known is None:
            _grouped(self, a, b, to, saved.counts, axis, count, start, finite)
        elif start is None:
            torch.mm(a, b, out=to)
        else:
            torch.addmm(start, a, b, out=to)
        if finite and self.known is not None:
            torch.nan_to_num(to, nan=0.0, posinf=0.0, neginf=0.0, out=to)


def _grouped(
    work: _Pass,
    a: Tensor,
    b: Tensor,
    to: Tensor,
    counts: Tensor,
    axis: int,
    count: int,
    start: Tensor | None,
    finite: bool,
) -> None:
    """A product that reaches along the units as far as the device says."""
    n, plain = a.shape[1] if axis == 0 else a.shape[0], work.interpreted
    t = Tiles(32, 32, 32) if plain else _tiles(n, a.dtype)
    whole = not plain and _fits(a) and _fits(b)
    turn_a, turn_b = whole and a.stride(1) != 1, whole and b.stride(1) != 1
    added = to if start is None else start
    work.units.product[(_programs(a.device),)](
        _described(a, turn_a, (t.rows, t.depth)) if whole else a,
        _described(b, turn_b, (t.depth, t.columns)) if whole else b,
        added, to, counts, len(a), b.shape[1], a.shape[1], *a.stride(), *b.stride(),
        *added.stride(), to.stride(0), work.hidden, AXIS=axis, COUNT=count, TURN_A=turn_a,
        TURN_B=turn_b, ADD=start is not None, FINITE=finite, WHOLE=whole,
        UPCAST=work.upcast, PRECISION=_precision(),
        BM=t.rows, BN=t.columns, BK=t.depth, GROUP=8,
        **({} if plain else {"num_warps": t.warps, "num_stages": t.stages}),
    )  # fmt: skip


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"


def _fits(matrix: Tensor) -> bool:
    """Whether the tensor memory accelerator can read it: 16 bytes divide all that matters."""
    along = 0 if matrix.stride(1) != 1 else 1
    pitch = matrix.stride(1 - along) * matrix.element_size()
    aligned = pitch % 16 == 0 and matrix.data_ptr() % 16 == 0
    return matrix.stride(along) == 1 and aligned and matrix.is_cuda and _has_tma(matrix.device)


def _has_tma(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (9, 0)


def _described(matrix: Tensor, turned: bool, box: tuple[int, int]) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    stored, block = (matrix.T, box[::-1]) if turned else (matrix, box)
    return TensorDescriptor(stored, list(stored.shape), list(stored.stride()), list(block))


def select(
    codes: Tensor, kinds: Tensor, rows: Tensor, alpha: Tensor, kind: int, work: _Pass
) -> Saved:
    """List the active seeds of a kind on the device; the rest of `Saved` is not filled yet."""
    seeds, capacity = len(codes), work.capacity
    saved = Saved(
        _new(alpha, (3, capacity), torch.int32),
        _new(alpha, (2, capacity), torch.float32),
        _new(alpha, (4,), torch.int32),
        _new(alpha, (work.tiles, capacity), torch.uint8),
        _new(alpha, (0,)),
    )
    block = min(4096, max(16, power(seeds)))
    work.units.select[(1,)](
        codes, kinds, rows, alpha, *saved[:3], kind, seeds, capacity, work.seen, BLOCK=block
    )
    return saved


@on_its_device
def forward(
    x: Tensor,
    y: Tensor,
    codes: Tensor,
    kinds: Tensor,
    rows: Tensor,
    alpha: Tensor,
    parameters: Sequence[Tensor],
    kind: int,
    nonfinite: Tensor,
    *,
    module: ModuleType,
    known: Known | None = None,
    keep: bool = False,
    out: Tensor | None = None,
) -> tuple[Tensor, Saved]:
    """`y + sum over the active seeds of one kind of alpha B(x)`.

    Args:
        x: the site's input, `[N, d_in]`, any strides.
        y: the host's output, `[N, d_out]`, any strides; float32, float16 or bfloat16. All is
            computed in its dtype.
        codes: the seeds' states, int8 `[S]`.
        kinds: their kinds, integers `[S]`.
        rows: their rows of the pool, integers `[S]`, -1 for none.
        alpha: float32 `[S]`; 0 and what is no number select y.
        parameters: of the kind's pool, `[C, ...]` each, contiguous, in the order of
            `Blueprint.shapes()`; cast to y's dtype.
        kind: the kind's number.
        nonfinite: int64 `[S]`, counted up by the elements of each seed's B that are not finite.
        module: `kasmina_generated.kernels.parallel_<text>`.
        known: from the plan of the same step; one that is too small would drop seeds. None where
            the pass must follow the device's state, as in a captured graph.
        keep: keep what the inner maps give, N * U elements each, which saves a product backwards.
        out: where the new output goes, contiguous, `[N, d_out]`; None for a tensor of its own.

    Returns:
        The new output, contiguous, bit-equal to y where no alpha is set, and what `backward` needs.
    """
    x = x.to(y.dtype)
    work = _Pass(module, parameters, x, y.shape[1], known)
    saved = select(codes, kinds, rows, alpha, kind, work)
    out = _new(y, y.shape) if out is None else out
    if y.numel() == 0:
        return out, saved
    if module.ELEMENTWISE:
        _elements(work, y, out, nonfinite, saved)
        return out, saved
    maps, hidden, outer = _hidden(work, saved)
    work.product(hidden, outer.T, out, saved, axis=2, start=y)
    module.exact_output[(work.tiles, -(-work.d_out // work.exact["BD"]))](
        maps, *work.biases, work.outer, y, out, saved.exact, nonfinite, *saved[:3], work.n,
        work.d_out, work.capacity, work.u, work.span, *y.stride(), **work.exact,
    )  # fmt: skip
    return out, saved._replace(maps=maps) if keep else saved


def again(
    x: Tensor,
    y: Tensor,
    codes: Tensor,
    kinds: Tensor,
    rows: Tensor,
    alpha: Tensor,
    parameters: Sequence[Tensor],
    kind: int,
    *,
    module: ModuleType,
    known: Known | None = None,
) -> Saved:
    """What `forward` of the same arguments would leave for `backward`, with what the maps gave."""
    work = _Pass(module, parameters, x.to(y.dtype), y.shape[1], known)
    saved = select(codes, kinds, rows, alpha, kind, work)
    if module.ELEMENTWISE or y.numel() == 0:
        return saved
    maps, _, _ = _hidden(work, saved)
    return saved._replace(maps=maps)


def _hidden(work: _Pass, saved: Saved) -> tuple[Tensor, Tensor, Tensor]:
    """What the maps give, alpha times the hidden units `[N, U]`, and the last maps side by side."""
    maps = work.maps(work.inner_side(saved), saved)
    outer = work.outer_side(saved)
    hidden = _new(work.x, (work.n, work.u))
    work.module.hidden[work.places_grid](
        maps, *work.biases, hidden, saved.exact, *saved[:3], work.n, work.capacity, work.u,
        work.span, *work.axis, _LIMITS[work.x.dtype], **work.places,
    )  # fmt: skip
    return maps, hidden, outer


def _elements_sizes(work: _Pass) -> tuple[tuple[int, int], dict[str, int]]:
    sizes = {"BN": 32, "BD": min(64, power(work.d_out))}
    return (-(-work.n // sizes["BN"]), -(-work.d_out // sizes["BD"])), sizes


def _elements(work: _Pass, y: Tensor, out: Tensor, nonfinite: Tensor, saved: Saved) -> None:
    grid, sizes = _elements_sizes(work)
    work.module.elements[grid](
        work.x, y, out, *work.parameters, nonfinite, *saved[:3], work.n, work.d_out, work.capacity,
        *work.x.stride(), *y.stride(), **sizes,
    )  # fmt: skip


@on_its_device
def backward(
    g: Tensor,
    x: Tensor,
    saved: Saved,
    parameters: Sequence[Tensor],
    seeds: int,
    *,
    module: ModuleType,
    known: Known | None = None,
    needs_x: bool = True,
    needs_parameters: bool = True,
    to_x: Tensor | None = None,
) -> tuple[Tensor | None, tuple[Tensor, ...] | None, Tensor]:
    """The gradients of `forward`; that of y is `g` itself.

    Args:
        g: of the output, `[N, d_out]`.
        x: as in `forward`.
        saved: what it returned.
        parameters: as in `forward`.
        seeds: S.
        module: as in `forward`.
        known: as in `forward`.
        needs_x: whether the gradient of x is wanted.
        needs_parameters: whether those of the parameters are.
        to_x: where the gradient of x goes, contiguous, `[N, d_in]`; None for a tensor of its own.

    Returns:
        Gradients of x `[N, d_in]`, of the parameters `[C, ...]` (0 but for the seeds that train
        jointly) and of alpha, float32 `[S]` (also of seeds at alpha 0). Nothing that is not finite
        is in the first two. The same inputs give the same bits.
    """
    given, x = x, x.to(g.dtype)
    work = _Pass(module, parameters, x, g.shape[1], known)
    gradients = tuple(torch.zeros_like(p) for p in parameters) if needs_parameters else None
    to_alpha = torch.zeros(seeds, dtype=torch.float32, device=x.device)
    gx = None
    if needs_x:
        gx = to_x if to_x is not None and to_x.dtype == x.dtype else _new(x, x.shape)
    if g.numel() == 0:
        return gx, gradients, to_alpha
    pull = _pull_elements if module.ELEMENTWISE else _pull
    pull(work, g, saved, gx, gradients, to_alpha)
    if gx is None or to_x is None or gx is to_x:
        return None if gx is None else gx.to(given.dtype), gradients, to_alpha
    return to_x.copy_(gx), gradients, to_alpha


def _pull(
    work: _Pass,
    g: Tensor,
    saved: Saved,
    gx: Tensor | None,
    gradients: tuple[Tensor, ...] | None,
    to_alpha: Tensor,
) -> None:
    module, x = work.module, work.x
    kept = saved.maps.numel() > 0
    inner = work.inner_side(saved) if gx is not None or not kept else []
    maps = saved.maps if kept else work.maps(inner, saved)
    flow, hidden = _new(x, (work.n, work.u)), _new(x, (work.n, work.u))
    work.product(g, work.outer_side(saved), flow, saved, axis=1)
    common = (work.n, work.d_out, work.capacity, work.u, work.span)
    module.exact_flow[(work.tiles, min(work.capacity, 8))](
        maps, *work.biases, work.outer, g, flow, saved.exact, saved.selection, saved.counts,
        *common, *g.stride(), **work.exact,
    )  # fmt: skip
    if gradients is not None:
        module.exact_out_gradient[(min(work.capacity, 16), -(-work.d_out // work.exact["BD"]))](
            maps, *work.biases, work.outer, g, gradients[-1], saved.exact, *saved[:3], *common,
            work.tiles, *g.stride(), **work.exact,
        )  # fmt: skip
    pulled = torch.empty_like(maps) if kept else maps
    by_tile = _new(x, (work.tiles, work.capacity), torch.float32)
    to_bias = _new(x, (len(maps), work.tiles, work.capacity * work.hidden), torch.float32)
    module.hidden_gradient[work.places_grid](
        maps, *work.biases, flow, pulled, hidden, saved.exact, by_tile, to_bias, *saved[:3],
        work.n, work.capacity, work.u, work.span, *work.axis, **work.places,
    )  # fmt: skip
    _add_up(by_tile, to_alpha, saved, work, 1, False)
    if gx is not None:
        for i, weight in enumerate(inner):
            last = i == len(inner) - 1
            work.product(pulled[i], weight, gx, saved, axis=2, start=gx if i else None, finite=last)
    if gradients is not None:
        _pull_parameters(work, g, pulled, hidden, to_bias, saved, gradients)


def _add_up(partial: Tensor, to: Tensor, saved: Saved, work: _Pass, size: int, rows: bool) -> None:
    grid = (-(-work.seen * size // 128),)
    work.units.add_up[grid](
        partial, to, saved.selection, saved.counts, work.capacity, len(partial), SIZE=size,
        ROWS=rows, BLOCK=128, DEEP=16,
    )  # fmt: skip


def _pull_parameters(
    work: _Pass,
    g: Tensor,
    pulled: Tensor,
    hidden: Tensor,
    to_bias: Tensor,
    saved: Saved,
    gradients: tuple[Tensor, ...],
) -> None:
    """The products that sum over the examples, of the seeds that train, and their way home."""
    seen = work.seen if work.known is None else min(bucket(work.known.training), work.seen)
    if seen == 0:
        return
    u, places = seen * work.hidden, iter(gradients)
    for i, bias in enumerate(work.module.BIASES):
        made = _new(work.x, (u, work.x.shape[1]))
        work.product(pulled[i][:, :u].T, work.x, made, saved, axis=0, count=1)
        work.move_map(next(places), made, saved, seen, True)
        if bias:
            _add_up(to_bias[i], next(places), saved, work, work.hidden, True)
    made = _new(work.x, (work.d_out, u))
    work.product(g.T, hidden[:, :u], made, saved, axis=1, count=1)
    work.move_out(next(places), made, saved, seen, True)


def _pull_elements(
    work: _Pass,
    g: Tensor,
    saved: Saved,
    gx: Tensor | None,
    gradients: tuple[Tensor, ...] | None,
    to_alpha: Tensor,
) -> None:
    grid, sizes = _elements_sizes(work)
    shape = (work.n, work.d_out, work.capacity, *work.x.stride(), *g.stride())
    if gx is not None:
        work.module.elements_gradient[grid](
            work.x, g, gx, *work.parameters, *saved[:3], *shape, **sizes
        )
    made = gradients or tuple(torch.empty_like(p) for p in work.parameters)
    by_tile = _new(work.x, (grid[1], work.capacity), torch.float32)
    work.module.elements_parameters[(grid[1], work.spread(work.seen, 64))](
        work.x, g, *work.parameters, *made, by_tile, *saved[:3], *shape, **sizes
    )
    _add_up(by_tile, to_alpha, saved, work, 1, False)


class Seeds(NamedTuple):
    """The seeds of one kind at a site; the fields are arguments of `forward`, and d_in."""

    columns: Columns
    kind: int
    nonfinite: Tensor
    module: ModuleType
    known: Known | None
    d_in: int


class _Added(Function):
    """The node of a pass; what goes in and out has any number of axes.

    They are made one here and not by views outside: a view holds on to what it is a view of, so
    autograd would add what else reaches x to a third tensor instead of to the gradient made here.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, alpha: Tensor, seeds: Seeds, *parameters: Tensor
    ) -> Tensor:
        ctx.seeds, keep = seeds, any(ctx.needs_input_grad)
        if seeds.known is not None:
            _buckets[min(bucket(seeds.known.active), len(parameters[0]))] += 1
        out = _new(y, y.shape)
        _, saved = forward(
            x.reshape(-1, seeds.d_in), _rows_of(y), *seeds.columns, alpha, parameters, seeds.kind,
            seeds.nonfinite, module=seeds.module, known=seeds.known, keep=keep, out=_rows_of(out),
        )  # fmt: skip
        if keep:
            ctx.save_for_backward(x, *saved, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        count, seeds, parameters = len(Saved._fields), ctx.seeds, len(ctx.needs_input_grad) - 4
        to_x = _new(x, x.shape) if ctx.needs_input_grad[1] else None
        with torch.autocast(g.device.type, enabled=False):
            _, to_parameters, to_alpha = backward(
                _rows_of(g), x.reshape(-1, seeds.d_in), Saved(*rest[:count]), rest[count:],
                len(seeds.columns.codes), module=seeds.module, known=seeds.known,
                needs_x=to_x is not None, needs_parameters=any(ctx.needs_input_grad[4:]),
                to_x=None if to_x is None else to_x.view(-1, seeds.d_in),
            )  # fmt: skip
        return g, to_x, to_alpha, None, *(to_parameters or (None,) * parameters)


def _rows_of(y: Tensor) -> Tensor:
    return y.reshape(-1, y.shape[-1])


def add(y: Tensor, x: Tensor, alpha: Tensor, parameters: Sequence[Tensor], seeds: Seeds) -> Tensor:
    """`forward` with its gradients; autocast has no say in it.

    Args:
        y: the host's output, `[..., d_out]`.
        x: the site's input, `[N, d_in]` or what can be reshaped to that.
        alpha: float32 `[S]`.
        parameters: of the kind's pool, `[C, ...]` each.
        seeds: whose.
    """
    with torch.autocast(y.device.type, enabled=False):
        out: Tensor = _Added.apply(y, x, alpha, seeds, *parameters)  # type: ignore[no-untyped-call]
    return out


def hold(
    y: Tensor, d_in: int, parameters: Sequence[Tensor], module: ModuleType, kind: Kind, joint: int
) -> None:
    """Hold every kernel of a kind against its twin, both ways, on random numbers; compiles them.

    Args:
        y: like the host's outputs that are to come, `[N, d_out]`.
        d_in: features of its inputs.
        parameters: of the kind's pool, for their shapes and dtypes.
        module: as in `forward`.
        kind: its names and what it computes.
        joint: code of a state that mixes blueprints in and trains them.

    Raises:
        WrongKernel: they differ; says where and by how much.
    """
    with (
        torch.inference_mode(False),
        differentiable(),
        torch.autocast(y.device.type, enabled=False),
    ):
        random = torch.Generator(y.device).manual_seed(0)

        def drawn(*shape: int) -> Tensor:
            return stepwise(torch.randn(shape, generator=random, device=y.device), 0.5)

        x, y, g = (drawn(_ROWS, n).to(y.dtype) for n in (d_in, y.shape[1], y.shape[1]))
        stack = [0.25 * drawn(_SEEDS, *p.shape[1:]).to(p) for p in parameters]
        alpha = torch.rand(_SEEDS, generator=random, device=y.device)
        wanted = _by_twin(y, x, g, alpha, stack, kind)
        rows = torch.arange(_SEEDS, dtype=torch.int32, device=y.device)
        codes = torch.full_like(rows, joint, dtype=torch.int8)
        columns, nonfinite = Columns(codes, torch.zeros_like(rows), rows), rows.long()
        for known in (None, Known(_SEEDS, _SEEDS)):
            out, saved = forward(
                x, y, *columns, alpha, stack, 0, nonfinite, module=module, known=known,
                keep=known is not None,
            )  # fmt: skip
            pulled = backward(g, x, saved, stack, _SEEDS, module=module, known=known)
            to_x, to_stack, to_alpha = pulled
            assert to_x is not None and to_stack is not None
            for name, found in zip(wanted, (out, to_x, to_alpha, *to_stack), strict=True):
                off = distance(found, wanted[name])
                if not off <= _tolerance(y.dtype):
                    raise WrongKernel(f"its {name} is off by {off:.2g} of the norm in {y.dtype}")


_ROWS = TILE + 8  # of a trial, so that a tile has an end
_SEEDS = 3


def _tolerance(dtype: torch.dtype) -> float:
    coarse = dtype == torch.float32 and _precision() == "tf32"
    return TOLERANCES[torch.float16 if coarse else dtype]


@torch.enable_grad()
def _by_twin(
    y: Tensor, x: Tensor, g: Tensor, alpha: Tensor, stack: Sequence[Tensor], kind: Kind
) -> dict[str, Tensor]:
    """Output and gradients, by name; in float32, so that only the kernel's own rounding is told."""
    y, x, g, *stack = (each.float() for each in (y, x, g, *stack))
    leaves = [each.detach().requires_grad_() for each in (x, alpha, *stack)]
    given = zip(kind.names, leaves[2:], strict=True)
    named = {name: mixing.guard(each.to(y.dtype)) for name, each in given}
    made = kind.formula(named, mixing.guard(leaves[0]))
    out, _ = mixing.add(y, made, leaves[1])
    found = torch.autograd.grad(out, leaves, g)
    names = (
        "gradient of the input",
        "gradient of alpha",
        *(f"gradient of {n}" for n in kind.names),
    )
    return {"output": out.detach(), **dict(zip(names, found, strict=True))}
