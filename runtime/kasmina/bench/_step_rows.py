"""A generated package's step, and rows for it in which a share moves at a tick."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

ACTIVE = 0.1  # share of the rows that are not in the initial state


class Batch(NamedTuple):
    """N rows before a step."""

    state: Tensor
    epochs: Tensor
    events: Tensor
    context: Any  # the package's VectorContext

    def at(self, rows: Tensor) -> Batch:
        """Return some of the rows, in the order given."""
        context = type(self.context)(*(column[rows] for column in self.context))
        return Batch(self.state[rows], self.epochs[rows], self.events[rows], context)

    def on(self, device: str) -> Batch:
        """Return the rows on a device."""
        context = type(self.context)(*(column.to(device) for column in self.context))
        state, epochs, events = (column.to(device) for column in self[:3])
        return Batch(state, epochs, events, context)


class Machine:
    """The modules of a generated package that need neither transitions nor hypothesis."""

    def __init__(self, package: str) -> None:
        self.name = package
        self.lifecycle: Any = importlib.import_module(f"{package}.lifecycle")
        self.tables: Any = importlib.import_module(f"{package}.tables")
        self.vector: Any = importlib.import_module(f"{package}.vector")
        self.kernels: Any = importlib.import_module(f"{package}.kernels.step")
        self.launch: Any = importlib.import_module(f"{package}.kernels.launch")
        self.regions: Any = importlib.import_module(f"{package}.testing.regions")
        self.declared = self._declared(package)

    def _declared(self, package: str) -> tuple[Any, ...]:
        try:
            return tuple(importlib.import_module(f"{package}.state").COLUMNS)
        except ModuleNotFoundError:
            return ()

    def limits(self, device: str, **values: float) -> Any:
        """Return limits as 0-d tensors."""
        limits = self.lifecycle.Limits(**values)
        dtypes = {name: rule.dtype for name, rule in self.lifecycle.LIMIT_FIELDS.items()}
        return self.vector.VectorLimits(
            *(
                torch.tensor(getattr(limits, n), dtype=dtype_of(d), device=device)
                for n, d in dtypes.items()
            )
        )

    def context(self, columns: dict[str, Tensor], n: int, device: str) -> Any:
        """Return measurements: the columns given, defaults elsewhere."""
        return self.vector.VectorContext(
            *(
                columns[name].to(device)
                if name in columns
                else torch.full((n,), rule.default, dtype=dtype_of(rule.dtype), device=device)
                for name, rule in self.lifecycle.CONTEXT_FIELDS.items()
            )
        )

    def columns(self, batch: Batch) -> dict[str, Tensor]:
        """Return columns of the state tensor for the rows of a batch: copies, else the defaults."""
        n, device = len(batch.state), batch.state.device
        found = {
            column.name: torch.full(
                (n,) if column.length == 1 else (n, column.length),
                column.default, dtype=dtype_of(column.dtype), device=device,
            )
            for column in self.declared
        }  # fmt: skip
        state, epochs = self.kernels.COLUMNS[:2]
        return found | {state: batch.state.clone(), epochs: batch.epochs.clone()}

    def readers(self, field: str) -> list[int]:
        """Return the codes of the states whose guards read a field."""
        limits = self.lifecycle.Limits()
        return [int(s) for s in self.lifecycle.State if self.regions.pool(field, s, limits)]


def dtype_of(name: str) -> torch.dtype:
    """Return the dtype of that name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def values_of(machine: Machine, name: str, state: Any) -> list[Any]:
    found = machine.regions.pool(name, state, machine.lifecycle.Limits())
    return found or [machine.lifecycle.CONTEXT_FIELDS[name].default]


def population(machine: Machine, n: int, device: str, active: float = ACTIVE) -> Batch:
    """Return N rows of which a share is in other states than the initial one, on their way."""
    generator = torch.Generator(device).manual_seed(n)

    def drawn(values: list[Any], dtype: torch.dtype) -> Tensor:
        pool = torch.tensor(values, dtype=dtype, device=device)
        return pool[torch.randint(len(pool), (n,), generator=generator, device=device)]

    lifecycle = machine.lifecycle
    codes = [int(state) for state in lifecycle.State if state is not lifecycle.INITIAL]
    idle = torch.rand(n, generator=generator, device=device) >= active
    state = drawn(codes, torch.int8).masked_fill_(idle, int(lifecycle.INITIAL))
    epochs = drawn(list(range(40)), torch.int16)
    commands = [0] * 97 + [1 << command for command in lifecycle.COMMANDS]
    columns = {
        name: drawn(_pooled(machine, name), dtype_of(rule.dtype))
        for name, rule in lifecycle.CONTEXT_FIELDS.items()
    }
    events = drawn(commands, torch.int32)
    return Batch(state, epochs, events, machine.context(columns, n, device))


def _pooled(machine: Machine, name: str) -> list[Any]:
    pools = (values_of(machine, name, state) for state in machine.lifecycle.State)
    return [value for pool in pools for value in pool]


def transition(machine: Machine, n: int, device: str, asking: bool) -> Batch:
    """Return N rows of which a tenth, at random places, moves at a tick if there is room for all.

    The others are in the initial state and have no command. Those that move take all edges alike.

    Args:
        machine: Whose rows.
        n: How many.
        device: Where.
        asking: Whether edges that ask for room are among those that are taken.
    """
    generator = torch.Generator(device).manual_seed(n + 1)
    drawn = population(machine, min(n, 4_000_000), device, active=1.0)
    tick = torch.tensor(True, device=device)
    edge = machine.vector.decide(*drawn, machine.limits(device), tick).edge
    if not asking:
        asks = torch.as_tensor(machine.tables.CAPACITY_ASKS[-1].copy(), device=device)
        edge = edge.masked_fill(asks[edge + 1], -1)
    here = torch.rand(n, generator=generator, device=device) < ACTIVE
    movers = edge.argsort()[int((edge < 0).sum()) :]
    counts = edge[movers].bincount()
    counts = counts[counts > 0]
    taken = torch.randint(len(counts), (n,), generator=generator, device=device)
    share = torch.rand(n, generator=generator, device=device)
    within = torch.minimum((share * counts[taken]).long(), counts[taken] - 1)
    batch = drawn.at(movers[(counts.cumsum(0) - counts)[taken] + within])
    state = batch.state.masked_fill(~here, int(machine.lifecycle.INITIAL))
    return batch._replace(state=state, events=batch.events.masked_fill(~here, 0))
