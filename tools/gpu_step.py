"""Check the Triton step against the vector step on a GPU, and time it.

    PYTHONPATH=spec:generator:generated:runtime python -m tools.gpu_step

needs torch, triton and numpy. The machines that compute in their guards are built first, where the
generator can be imported; elsewhere take them along: `--build` writes them below build/gpu. With OUT
set, the figures are written to $OUT/gpu_step.json as well. `--small` steps a few rows once, for
`compute-sanitizer`; `--once` steps 100 million once, for `ncu`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kasmina.bench._step_rows import Batch, Machine, population, transition
from kasmina.bench._step_times import Row, Stepped, bandwidth, sweep, timings
from tools.gpu_machine import arithmetic_rows, boundary_cases, build, foreign

SIZES = (10_000, 1_000_000, 100_000_000)
SHAPES = [
    (512, 128, 4, 8, 64), (1024, 256, 8, 4, 64), (1024, 256, 8, 3, None), (1024, 128, 4, 4, None),
    (1024, 512, 16, 2, 64), (256, 32, 1, 32, 64), (128, 32, 1, 32, 64),
]  # fmt: skip


def mismatches(machine: Machine, batch: Batch, limits: dict[str, float], cpu: bool) -> int:
    """Return in how many rows the Triton step differs from the vector step, at ticks and between."""
    wrong = 0
    for tick in (False, True):
        given = batch.on("cuda")
        found = machine.kernels.step(*given, machine.limits("cuda", **limits), tick)
        wanted = machine.vector.step(*given, machine.limits("cuda", **limits), tick)
        wrong += _different(found, wanted)
        if machine.declared:
            wrong += _records_differ(machine, given, limits, tick, wanted)
        if cpu:
            there = machine.vector.step(*batch.on("cpu"), machine.limits("cpu", **limits), tick)
            wrong += _different(type(found)(*(column.cpu() for column in found)), there)
    return wrong


def _different(found: Any, wanted: Any) -> int:
    differs = torch.zeros_like(found.refused)
    for a, b in zip(found, wanted, strict=True):
        differs |= a != b
    return int(differs.sum())


def _records_differ(
    machine: Machine, batch: Batch, limits: dict[str, float], tick: bool, wanted: Any
) -> int:
    """Return in how many rows a step in place leaves other columns than the vector step implies."""
    stepped = Stepped(machine, batch, tick, **limits)
    for column in stepped.columns.values():  # so that what is reset, or is not, shows
        if column.dtype == torch.int16:
            column.random_(0, 30000)
    stepped.restore()
    expected = {name: column.clone() for name, column in stepped.columns.items()}
    remember(machine, expected, batch.state, wanted)
    stepped.advance()
    edge = wanted.edge.masked_fill(wanted.refused, -2)
    differs = stepped.work.edge != edge
    for name, column in expected.items():
        different = column != stepped.columns[name]
        differs |= different.any(1) if different.ndim > 1 else different
    machine.kernels.check(batch.state, stepped.work)
    return int(differs.sum())


def remember(machine: Machine, columns: dict[str, Tensor], before: Tensor, decision: Any) -> None:
    """Write into columns what the runtime's step writes after the vector step."""
    roles = {column.role: column for column in machine.declared if column.role}
    columns[roles["state"].name].copy_(decision.state)
    columns[roles["epochs"].name].copy_(decision.epochs)
    rows = (decision.edge >= 0).nonzero()[:, 0]
    events = torch.as_tensor(machine.tables.EDGE_EVENT.copy(), device=before.device)
    recycled = rows[events[decision.edge[rows].long()] < 0]
    if "parent" in roles:
        columns[roles["parent"].name][rows] = before[rows]
    if "history" in roles:
        length, count = roles["history"].length, columns[roles["history_count"].name]
        place = count[rows].long()
        columns[roles["history"].name][rows, place % length] = before[rows]
        end = torch.iinfo(count.dtype).max // length * length
        count[rows] = torch.where(place + 1 == end, end - length, place + 1).to(count.dtype)
    if "generation" in roles:
        columns[roles["generation"].name][recycled] += 1
    for column in machine.declared:
        if column.role in (None, "parent"):
            columns[column.name][recycled] = column.default


def checks() -> Iterator[Row]:
    """Yield each comparison: what, rows, mismatches."""
    for package in ("kasmina_generated", "kasmina_generated.lifecycle_v1"):
        machine = Machine(package)
        yield _check(machine, "boundary cases", boundary_cases(machine), {}, cpu=True)
        for n in SIZES[:2]:
            batch = population(machine, n, "cuda")
            for limits in rooms(machine):
                what = f"population, {limits or 'as declared'}"
                yield _check(machine, what, batch, limits, n < 10**6)
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


def _check(machine: Machine, what: str, batch: Batch, limits: dict[str, float], cpu: bool) -> Row:
    wrong = mismatches(machine, batch, limits, cpu)
    return {"machine": machine.name, "what": what, "rows": len(batch[0]), "mismatches": wrong}


def foreign_checks() -> Iterator[Row]:
    """Yield the comparisons of the machines that compute, as far as they are there."""
    if not build():
        sys.stdout.write("machines with arithmetic guards: skipped, see --build\n")
        return
    machine = foreign("arithmetic")
    yield _check(
        machine, "sums that cancel, quotients", arithmetic_rows(machine, 3_000_000), {}, True
    )
    machine = foreign("orders")
    yield _check(machine, "boundary cases", boundary_cases(machine), {"deposit": 0.7}, cpu=True)
    full: list[dict[str, float]] = [{"packers": 3, "vans": 9}, {"packers": 50, "vans": 1000}]
    for limits in full:
        batch = population(machine, 1_000_000, "cuda")
        yield _check(machine, f"population, {limits}", batch, limits, cpu=False)


def once(n: int) -> None:
    """Step some rows in place, with and without contention."""
    machine = Machine("kasmina_generated")
    for asking in (False, True):
        stepped = Stepped(machine, transition(machine, n, "cuda", asking), True)
        for _ in range(2):
            stepped.restore()
            stepped.advance()
        machine.kernels.check(stepped.batch.state, stepped.work)
    torch.cuda.synchronize()


def told(row: Row, copying: float) -> str:
    """Return a row of the times as a line."""
    head = f"{row['rows']:>11,} {row['what']:<26}"
    eager = row["eager"]
    if "graph" not in row:
        return (
            f"{head} {eager['events_us']:>10.1f} us eager, {eager['host_us']:>10.1f} us by the host"
        )
    took = row["graph"]["events_us"]
    shares = ", ".join(
        f"{name} {count / 1e6:.1f} MB {100 * count / copying / took:.0f}%"
        for name, count in row["bytes"].items()
    )
    steady = f", {row['in_graph_us']:.2f} us in a graph of many" if "in_graph_us" in row else ""
    return (
        f"{head} {took:>10.1f} us graph{steady}, {eager['events_us']:.1f} us eager "
        f"({eager['host_us']:.0f} host); moved {row['moved']:,}, refused {row['refused']:,}; "
        f"share of the copy's bandwidth: {shares}"
    )


def main() -> int:
    """Run everything; return 1 where there is a mismatch, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--build", action="store_true", help="only build the foreign machines")
    parser.add_argument("--small", action="store_true", help="only step 3,000 rows")
    parser.add_argument("--once", action="store_true", help="only step 100 million rows")
    parser.add_argument("--sweep", action="store_true", help="time other shapes as well")
    given = parser.parse_args()
    if given.build:
        return 0 if build() else 1
    if not torch.cuda.is_available():
        sys.stdout.write("there is no GPU that torch can use\n")
        return 2
    if given.small or given.once:
        once(3000 if given.small else SIZES[2])
        return 0
    return measured(given.sweep)


def measured(sweeping: bool) -> int:
    """Check and time everything."""
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
    copying = bandwidth()
    sys.stdout.write(f"copy: {copying / 1e6:.3f} TB/s, read and written\n")
    shapes = list(sweep(SIZES[2], SHAPES)) if sweeping else []
    for row in shapes:
        sys.stdout.write(f"{row['shape']}: {row['events_us']:.1f} us\n")
    times = []
    for row in timings(SIZES, copying):
        times.append(row)
        sys.stdout.write(told(row, copying) + "\n")
        sys.stdout.flush()
    report = {
        "device": device, "versions": versions, "copy_TB_per_s": copying / 1e6,
        "checks": found, "times": times, "shapes": shapes,
    }  # fmt: skip
    if "OUT" in os.environ:
        Path(os.environ["OUT"], "gpu_step.json").write_text(json.dumps(report, indent=1))
    return int(any(row["mismatches"] for row in found))


if __name__ == "__main__":
    sys.exit(main())
