"""Generated machines, rows for them, and foreign machines that compute in their guards."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kasmina.bench._step_rows import Batch, Machine, dtype_of, values_of

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "gpu"
ORDERS = ROOT / "tests" / "generator" / "machines" / "orders.yaml"
NEEDED = ("kasmina_spec", "kasmina_generator", "jinja2", "networkx", "ruamel.yaml")

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


def boundary_cases(machine: Machine) -> Batch:
    """Return state x clock x fields around everything that is asked of them x commands."""
    parts: list[tuple[Tensor, ...]] = []
    names = list(machine.lifecycle.CONTEXT_FIELDS)
    for state in machine.lifecycle.State:
        axes = [[0, 1, 32767, *machine.regions.pool("epochs", state, machine.lifecycle.Limits())]]
        axes += [values_of(machine, name, state) for name in names]
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
