"""Generated machines, rows for them, and foreign machines that compute in their guards."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "gpu"
ORDERS = ROOT / "tests" / "generator" / "machines" / "orders.yaml"
NEEDED = ("kasmina_spec", "kasmina_generator", "jinja2", "networkx", "ruamel.yaml")
ACTIVE = 0.1  # share of the rows that are not in the initial state

# A fused product and sum, or a division that is off by one ulp, takes other edges here.
ARITHMETIC = """\
schema: kasmina/lifecycle@1
name: arithmetic
version: 1
meaning: Its guards compute.
initial: SUM
states:
  SUM: {code: 0, max_epochs: unbounded, meaning: Adds.}
  QUOTIENT: {code: 1, max_epochs: unbounded, meaning: Divides.}
  DIFFERENCE: {code: 2, max_epochs: unbounded, meaning: Subtracts.}
  DONE: {code: 3, terminal: true, meaning: What it computed was enough.}
events:
  go_on: {kind: command, meaning: Compute something else.}
  finish: {kind: automatic, meaning: It is enough.}
context:
  a: {dtype: float32, unit: "1", range: [-1000.0, 1000.0], default: 0.0, nan: unknown, infinity: unknown, meaning: A factor.}
  b: {dtype: float32, unit: "1", range: [0.001, 1000.0], default: 1.0, nan: unknown, infinity: unknown, meaning: A factor.}
  c: {dtype: float32, unit: "1", range: [-1000000.0, 1000000.0], default: 0.0, nan: unknown, infinity: unknown, meaning: A term.}
limits:
  zero: {dtype: float32, default: 0.0, range: [-1.0, 1.0], meaning: What a sum is compared with.}
  share: {dtype: float32, default: 0.7, range: [0.0, 1.0], meaning: What a quotient is compared with.}
transitions:
  - {from: SUM, on: go_on, to: QUOTIENT}
  - {from: QUOTIENT, on: go_on, to: DIFFERENCE}
  - {from: SUM, on: finish, to: DONE, guard: a * b + c >= zero}
  - {from: QUOTIENT, on: finish, to: DONE, guard: a / b >= share}
  - {from: DIFFERENCE, on: finish, to: DONE, guard: c - a * b < zero}
"""


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


def boundary_cases(machine: Machine) -> Batch:
    """Return state x clock x fields around everything that is asked of them x commands."""
    parts: list[tuple[Tensor, ...]] = []
    names = list(machine.lifecycle.CONTEXT_FIELDS)
    for state in machine.lifecycle.State:
        axes = [[0, 1, 32767, *machine.regions.pool("epochs", state, machine.lifecycle.Limits())]]
        axes += [_values(machine, name, state) for name in names]
        axes.append([0, *(1 << command for command in machine.lifecycle.COMMANDS)])
        rows = list(itertools.islice(itertools.product(*axes), 400_000))
        columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
        parts.append((torch.full((len(rows),), int(state)), *columns))
    state, epochs, *columns, events = (torch.cat(column) for column in zip(*parts, strict=True))
    fields = {
        name: column.to(dtype_of(machine.lifecycle.CONTEXT_FIELDS[name].dtype))
        for name, column in zip(names, columns, strict=True)
    }
    context = machine.context(fields, len(state), "cpu")
    return Batch(state.to(torch.int8), epochs.to(torch.int16), events.int(), context)


def _values(machine: Machine, name: str, state: Any) -> list[Any]:
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
    pools = (_values(machine, name, state) for state in machine.lifecycle.State)
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


def arithmetic_rows(machine: Machine, n: int) -> Batch:
    """Return rows whose sums cancel and whose quotients are next to their threshold."""
    generator = np.random.default_rng(0)
    a = generator.uniform(-1000, 1000, n).astype(np.float32)
    b = np.exp(generator.uniform(-6, 6, n)).astype(np.float32)
    state = generator.integers(0, 3, n)
    c = np.where(state == 2, a * b, -(a * b)).astype(np.float32)
    beside = generator.choice(np.array([-np.inf, np.inf], np.float32), n)
    share = np.nextafter(np.float32(0.7) * b, np.where(generator.random(n) < 0.3, b * 0, beside))
    a = np.where(state == 1, share, a).astype(np.float32)
    columns = {name: torch.from_numpy(v) for name, v in (("a", a), ("b", b), ("c", c))}
    zero = torch.zeros(n, dtype=torch.int32)
    codes = torch.from_numpy(state).to(torch.int8)
    return Batch(codes, zero.to(torch.int16), zero, machine.context(columns, n, "cpu"))


def build() -> bool:
    """Build the foreign machines unless they are there; return whether they are now."""
    wanted = ("arithmetic", "orders")
    missing = [name for name in NEEDED if not _importable(name)]
    if missing:
        return all((BUILT / name / "kernels" / "step.py").exists() for name in wanted)
    builder = importlib.import_module("kasmina_generator.build")
    BUILT.mkdir(parents=True, exist_ok=True)
    path = BUILT / "arithmetic.yaml"
    path.write_text(ARITHMETIC)
    for name, spec in (("arithmetic", path), ("orders", ORDERS)):
        builder.build([builder.user_target(spec, BUILT / name)])
    return True


def foreign(name: str) -> Machine:
    """Return one of the machines that `build` has built."""
    if str(BUILT) not in sys.path:
        sys.path.insert(0, str(BUILT))
    return Machine(name)


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
