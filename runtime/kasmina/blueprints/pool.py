"""Where the parameters of all seeds of one kind at one site live."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kasmina.blueprints.registry import Blueprint
from kasmina.errors import KasminaError

# Of parameter, old capacity, new capacity: makes ready what must grow as well, and gives what puts
# it into its place.
Grown = Callable[[nn.Parameter, int, int], Callable[[], None]]


class PoolFull(KasminaError):
    """There is no memory for more rows; the pool is as it was."""


class BlueprintPool(nn.Module):
    """Stacked parameters `[capacity, ...]` of one kind; a seed holds one row of each.

    A full pool doubles. Its Parameters stay the same objects, so an optimizer's references hold;
    each callable in `grown` is told (parameter, old capacity, new capacity) beforehand so that an
    optimizer's state can be padded: what needs memory comes first, and where there is none nothing
    is changed; what it returns is called after the parameter has its new rows. Free rows are zero. A copy of a pool has no callables in `grown`: they
    belong to whoever trains the original.

    Args:
        kind: what the rows are parameters of.
        capacity: rows to begin with, 1 or more.
        device: where the parameters live.
        dtype: of the parameters.

    Raises:
        PoolFull: there is no memory for so many rows.
    """

    occupied: Tensor  # bool [capacity]

    def __init__(
        self,
        kind: Blueprint,
        capacity: int = 4,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if capacity < 1:
            raise ValueError(f"a pool needs a capacity of 1 or more, got {capacity}")
        self.kind = kind
        self.grown: list[Grown] = []
        for name, shape in kind.shapes().items():
            size = (capacity, *shape)
            try:
                stacked = torch.zeros(size, device=device, dtype=dtype)
            except (RuntimeError, MemoryError) as error:
                if not _tells_of_memory(error):
                    raise
                raise PoolFull(
                    f"no memory for {name!r} of blueprint {kind.name!r}, {size} numbers; use fewer or "
                    "smaller seeds"
                ) from error
            self.register_parameter(name, nn.Parameter(stacked))
        self.register_buffer("occupied", torch.zeros(capacity, dtype=torch.bool, device=device))

    @property
    def name(self) -> str:
        """The name of the kind."""
        return self.kind.name

    @property
    def capacity(self) -> int:
        """Rows, free ones included."""
        return len(self.occupied)

    def used(self) -> list[int]:
        """The rows that are taken, ascending."""
        rows: list[int] = self.occupied.nonzero().flatten().tolist()
        return rows

    def stacked(self) -> dict[str, nn.Parameter]:
        """The Parameters by name, each `[capacity, ...]`."""
        return {name: self.get_parameter(name) for name in self.kind.shapes()}

    def stack(self) -> tuple[Tensor, ...]:
        """The Parameters, each `[capacity, ...]`, in the order of the kind's shapes; quick."""
        return tuple(self._parameters.values())  # type: ignore[arg-type]  # none of them is None

    def rows(self, index: Tensor) -> dict[str, Tensor]:
        """The parameters of rows `index` `[S]` by name, `[S, ...]`; differentiable."""
        return {name: value.index_select(0, index) for name, value in self.stacked().items()}

    @torch.no_grad()
    def allocate(self, generator: torch.Generator) -> int:
        """Take the lowest free row and initialise it.

        Raises:
            PoolFull: there is no memory for the row, or to double the pool; nothing was changed.
        """
        try:
            fresh = self.kind.init(generator)
        except (RuntimeError, MemoryError) as error:
            if not _tells_of_memory(error):
                raise
            raise self._full(f"make a row for blueprint {self.kind.name!r}") from error
        free = (~self.occupied).nonzero()
        if len(free) == 0:
            self._resize(2 * self.capacity)
            free = (~self.occupied).nonzero()
        row = int(free[0])
        for name, value in fresh.items():
            self.get_parameter(name)[row].copy_(value)
        self.occupied[row] = True
        return row

    @torch.no_grad()
    def free(self, row: int) -> None:
        """Zero the row and give it back.

        Raises:
            ValueError: nobody holds the row.
        """
        if not 0 <= row < self.capacity or not self.occupied[row]:
            raise ValueError(f"row {row} is not taken; taken: {self.used()}")
        for parameter in self.stacked().values():
            parameter[row].zero_()
        self.occupied[row] = False

    def _resize(self, capacity: int) -> None:
        """Add zero rows up to `capacity`; all of it or, with `PoolFull`, nothing."""
        with torch.inference_mode(False):  # whose tensors could never be trained
            self._grow(capacity)

    def _grow(self, capacity: int) -> None:
        old = self.capacity
        stacked = self.stacked()
        try:
            bigger = {name: _padded(p.detach(), capacity) for name, p in stacked.items()}
            gradients = {
                name: _padded(p.grad, capacity) for name, p in stacked.items() if p.grad is not None
            }
            occupied = _padded(self.occupied, capacity)
            follow = [grow(p, old, capacity) for grow in self.grown for p in stacked.values()]
        except (RuntimeError, MemoryError) as error:
            if not _tells_of_memory(error):
                raise
            raise self._full(
                f"double the pool of blueprint {self.kind.name!r} from {old} to {capacity} rows"
            ) from error
        for name, parameter in stacked.items():
            parameter.grad = None
            _replace(parameter, bigger[name])
            parameter.grad = gradients.get(name)
        self.occupied = occupied
        self._expect_another_graph()
        for take_over in follow:
            take_over()

    def _full(self, what: str) -> PoolFull:
        return PoolFull(
            f"no memory to {what} on {self.occupied.device}; nothing was changed. Free a seed, or "
            "use fewer or smaller ones"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BlueprintPool:
        """Stacks stay as they are: to torch one of 4 axes looks like a batch of pictures."""

        def flat(each: Tensor) -> Tensor:
            return fn(each.flatten(1)).view(each.shape) if each.dim() > 2 else fn(each)

        super()._apply(flat, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "grown": []}

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *arguments: Any
    ) -> None:
        """Fit the capacity: grow to a larger one, pad a smaller one with free rows."""
        loaded = state_dict.get(f"{prefix}occupied")
        if loaded is None or len(loaded) == self.capacity:
            super()._load_from_state_dict(state_dict, prefix, *arguments)
            self._pack()
            return
        if len(loaded) > self.capacity:
            with torch.no_grad():
                self._resize(len(loaded))
        names = [f"{prefix}{name}" for name in (*self.kind.shapes(), "occupied")]
        padded = {k: _padded(state_dict[k], self.capacity) for k in names if k in state_dict}
        super()._load_from_state_dict({**state_dict, **padded}, prefix, *arguments)
        self._pack()

    def _pack(self) -> None:
        """Kernels read parameters row by row; with `assign`, others' strides may have come in."""
        for parameter in self.parameters():
            parameter.data = parameter.data.contiguous()

    def _expect_another_graph(self) -> None:
        """Let torch.compile make one graph more before it gives up.

        A graph that holds the pool is compiled again for the new shapes; with some sites in a model
        that is more often than the limit of 8, at which torch takes a function for hopeless. Torch
        2.11 looks at a parameter's shape again only where its module has another dictionary.
        """
        self._parameters = dict(self._parameters)
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is not None:
            dynamo.config.recompile_limit += 1


def _tells_of_memory(error: Exception) -> bool:
    """Torch's allocators raise RuntimeErrors of several kinds, and so does much else."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "memory" in str(error) or "overflow" in str(error)  # of the size in bytes


def _padded(stacked: Tensor, capacity: int) -> Tensor:
    """A copy with zero rows at the end, `[capacity, ...]`."""
    made = stacked.new_zeros((capacity, *stacked.shape[1:]))
    made[: len(stacked)] = stacked
    return made


def _replace(parameter: nn.Parameter, data: Tensor) -> None:
    """Give `parameter` other data of another shape.

    A graph that is still alive keeps the node that gathers the parameter's gradient, and that node
    remembers the old shape: the next backward pass would fail. Torch drops the node where the
    dtype changes, so the dtype takes a detour.
    """
    detour = torch.float64 if data.dtype != torch.float64 else torch.float32
    parameter.data = parameter.data.new_empty(0, dtype=detour)
    parameter.data = data
