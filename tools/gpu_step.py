"""Check the Triton step against the vector step on a GPU, and time both.

    PYTHONPATH=spec:generator:generated:runtime python tools/gpu_step.py

needs torch, triton and numpy. The machines that compute in their guards are built first, where the
generator can be imported; elsewhere take them along: `python tools/gpu_step.py --build` writes them
below build/gpu. With OUT set, the figures are written to $OUT/gpu_step.json as well.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "gpu"
ORDERS = ROOT / "tests" / "generator" / "machines" / "orders.yaml"
NEEDED = ("kasmina_spec", "kasmina_generator", "jinja2", "networkx", "ruamel.yaml")
SIZES = (10_000, 1_000_000, 100_000_000)
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


class Machine:
    """The modules of a generated package that need neither transitions nor hypothesis."""

    def __init__(self, package: str) -> None:
        self.name = package
        self.lifecycle: Any = importlib.import_module(f"{package}.lifecycle")
        self.tables: Any = importlib.import_module(f"{package}.tables")
        self.vector: Any = importlib.import_module(f"{package}.vector")
        self.kernels: Any = importlib.import_module(f"{package}.kernels.step")
        self.regions: Any = importlib.import_module(f"{package}.testing.regions")

    def limits(self, device: str, **values: float) -> Any:
        """Return limits as 0-d tensors."""
        limits = self.lifecycle.Limits(**values)
        dtypes = {name: rule.dtype for name, rule in self.lifecycle.LIMIT_FIELDS.items()}
        return self.vector.VectorLimits(
            *(
                torch.tensor(getattr(limits, n), dtype=_dtype(d), device=device)
                for n, d in dtypes.items()
            )
        )

    def context(self, columns: dict[str, Tensor], n: int, device: str) -> Any:
        """Return measurements: the columns given, defaults elsewhere."""
        return self.vector.VectorContext(
            *(
                columns[name].to(device)
                if name in columns
                else torch.full((n,), rule.default, dtype=_dtype(rule.dtype), device=device)
                for name, rule in self.lifecycle.CONTEXT_FIELDS.items()
            )
        )


def _dtype(name: str) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, name)
    return dtype


Batch = tuple[Tensor, Tensor, Tensor, Any]  # state, epochs, events, context


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
        name: column.to(_dtype(machine.lifecycle.CONTEXT_FIELDS[name].dtype))
        for name, column in zip(names, columns, strict=True)
    }
    context = machine.context(fields, len(state), "cpu")
    return state.to(torch.int8), epochs.to(torch.int16), events.int(), context


def _values(machine: Machine, name: str, state: Any) -> list[Any]:
    found = machine.regions.pool(name, state, machine.lifecycle.Limits())
    return found or [machine.lifecycle.CONTEXT_FIELDS[name].default]


def population(machine: Machine, n: int, device: str) -> Batch:
    """Return N rows of which a tenth are in other states than the initial one, on their way."""
    generator = torch.Generator(device).manual_seed(n)

    def drawn(values: list[Any], dtype: torch.dtype) -> Tensor:
        pool = torch.tensor(values, dtype=dtype, device=device)
        return pool[torch.randint(len(pool), (n,), generator=generator, device=device)]

    lifecycle = machine.lifecycle
    codes = [int(state) for state in lifecycle.State if state is not lifecycle.INITIAL]
    idle = torch.rand(n, generator=generator, device=device) >= ACTIVE
    state = drawn(codes, torch.int8).masked_fill_(idle, int(lifecycle.INITIAL))
    epochs = drawn(list(range(40)), torch.int16)
    commands = [0] * 97 + [1 << command for command in lifecycle.COMMANDS]
    columns = {
        name: drawn(_pooled(machine, name), _dtype(rule.dtype))
        for name, rule in lifecycle.CONTEXT_FIELDS.items()
    }
    return state, epochs, drawn(commands, torch.int32), machine.context(columns, n, device)


def _pooled(machine: Machine, name: str) -> list[Any]:
    pools = (_values(machine, name, state) for state in machine.lifecycle.State)
    return [value for pool in pools for value in pool]


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
    return codes, zero.to(torch.int16), zero, machine.context(columns, n, "cpu")


def on(device: str, batch: Batch) -> Batch:
    """Return a batch on a device."""
    state, epochs, events, context = batch
    return (
        state.to(device),
        epochs.to(device),
        events.to(device),
        type(context)(*(column.to(device) for column in context)),
    )


def mismatches(machine: Machine, batch: Batch, limits: dict[str, float], cpu: bool) -> int:
    """Return in how many rows the Triton step differs from the vector step, at ticks and between."""
    wrong = 0
    for tick in (False, True):
        given = on("cuda", batch)
        found = machine.kernels.step(*given, machine.limits("cuda", **limits), tick)
        wanted = machine.vector.step(*given, machine.limits("cuda", **limits), tick)
        wrong += _different(found, wanted)
        if cpu:
            there = machine.vector.step(*on("cpu", batch), machine.limits("cpu", **limits), tick)
            wrong += _different(type(found)(*(column.cpu() for column in found)), there)
    return wrong


def _different(found: Any, wanted: Any) -> int:
    differs = torch.zeros_like(found.refused)
    for a, b in zip(found, wanted, strict=True):
        differs |= a != b
    return int(differs.sum())


def checks() -> Iterator[dict[str, Any]]:
    """Yield each comparison: what, rows, mismatches."""
    for package in ("kasmina_generated", "kasmina_generated.lifecycle_v1"):
        machine = Machine(package)
        batch = boundary_cases(machine)
        yield _check(machine, "boundary cases", batch, {}, cpu=True)
        for n in SIZES[:2]:
            batch = population(machine, n, "cuda")
            for limits in rooms(machine):
                yield _check(
                    machine, f"population, {limits or 'as declared'}", batch, limits, n < 10**6
                )
    machine = Machine("kasmina_generated")
    yield _check(machine, "population", population(machine, SIZES[2], "cuda"), {}, cpu=False)


def rooms(machine: Machine) -> list[dict[str, float]]:
    """Return limits of capacities: as declared, one place, a thousand, the most."""
    known = machine.lifecycle.LIMIT_FIELDS
    names = [name for name in ("max_training", "max_cohort") if name in known]
    found: list[dict[str, float]] = [{}]
    for room in (1, 1000, 1_000_000) if names else ():
        found.append(dict.fromkeys(names, room))
    return found


def _check(
    machine: Machine, what: str, batch: Batch, limits: dict[str, float], cpu: bool
) -> dict[str, Any]:
    wrong = mismatches(machine, batch, limits, cpu)
    return {"machine": machine.name, "what": what, "rows": len(batch[0]), "mismatches": wrong}


def foreign_checks() -> Iterator[dict[str, Any]]:
    """Yield the comparisons of the machines that compute, as far as they are there."""
    if not build():
        sys.stdout.write("machines with arithmetic guards: skipped, see --build\n")
        return
    sys.path.insert(0, str(BUILT))
    machine = Machine("arithmetic")
    yield _check(
        machine, "sums that cancel, quotients", arithmetic_rows(machine, 3_000_000), {}, True
    )
    machine = Machine("orders")
    yield _check(machine, "boundary cases", boundary_cases(machine), {"deposit": 0.7}, cpu=True)
    full: list[dict[str, float]] = [{"packers": 3, "vans": 9}, {"packers": 50, "vans": 1000}]
    for limits in full:
        batch = population(machine, 1_000_000, "cuda")
        yield _check(machine, f"population, {limits}", batch, limits, cpu=False)


def build() -> bool:
    """Build the foreign machines unless they are there; return whether they are now."""
    wanted = ("arithmetic", "orders")
    if all((BUILT / name / "kernels" / "step.py").exists() for name in wanted):
        return True
    missing = [name for name in NEEDED if not _importable(name)]
    if missing:
        sys.stdout.write(f"the generator needs {', '.join(missing)}\n")
        return False
    builder = importlib.import_module("kasmina_generator.build")
    BUILT.mkdir(parents=True, exist_ok=True)
    path = BUILT / "arithmetic.yaml"
    path.write_text(ARITHMETIC)
    for name, spec in (("arithmetic", path), ("orders", ORDERS)):
        builder.build([builder.user_target(spec, BUILT / name)])
    return True


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def timings() -> Iterator[dict[str, Any]]:
    """Yield median times of both steps beside a copy of as many bytes."""
    machine = Machine("kasmina_generated")
    for n in SIZES:
        batch, limits = population(machine, n, "cuda"), machine.limits("cuda")
        tick = torch.tensor(True, device="cuda")
        bytes_moved = sum(t.element_size() for t in (*batch[:3], *batch[3])) * n + 8 * n
        source = torch.empty(bytes_moved // 2, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        inputs = (*batch, limits, tick)
        rows: dict[str, Callable[[], object]] = {
            "copy of as many bytes": partial(target.copy_, source),
            "triton decide": partial(machine.kernels.decide, *inputs),
            "triton step": partial(machine.kernels.step, *inputs),
            "vector decide": partial(machine.vector.decide, *inputs),
            "vector step": partial(machine.vector.step, *inputs),
        }
        for what, call in rows.items():
            yield {"rows": n, "what": what, "bytes": bytes_moved, **_timed(call)}


def _timed(call: Callable[[], object], repeats: int = 21) -> dict[str, float]:
    """Return medians in us: by CUDA events around a call, and by the host's clock until it is done."""
    for _ in range(5):
        call()
    device, host = [], []
    for _ in range(repeats):
        begin, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        began = time.perf_counter()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        host.append((time.perf_counter() - began) * 1e6)
        device.append(begin.elapsed_time(end) * 1e3)
    return {"events_us": statistics.median(device), "host_us": statistics.median(host)}


def main() -> int:
    """Run everything; return 1 where there is a mismatch, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--build", action="store_true", help="only build the foreign machines")
    if parser.parse_args().build:
        return 0 if build() else 1
    if not torch.cuda.is_available():
        sys.stdout.write("there is no GPU that torch can use\n")
        return 2
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__}
    device = torch.cuda.get_device_name()
    sys.stdout.write(f"{device}, torch {torch.__version__}, triton {triton.__version__}\n")
    found = []
    for row in itertools.chain(checks(), foreign_checks()):
        found.append(row)
        sys.stdout.write(
            f"{row['mismatches']:>10} of {row['rows']:>11,} {row['machine']}: {row['what']}\n"
        )
        sys.stdout.flush()
    times = []
    for row in timings():
        times.append(row)
        per_row = row["events_us"] * 1e3 / row["rows"]
        sys.stdout.write(
            f"{row['rows']:>11,} {row['what']:<22} {row['events_us']:>11.1f} us by events, "
            f"{row['host_us']:>11.1f} us by the host, {per_row:8.3f} ns a row\n"
        )
        sys.stdout.flush()
    report = {"device": device, "versions": versions, "checks": found, "times": times}
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "gpu_step.json").write_text(json.dumps(report, indent=1))
    return int(any(row["mismatches"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
