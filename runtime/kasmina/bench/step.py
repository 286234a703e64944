"""The step of the state tensor: the generated kernel on a GPU, the vector step on a CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from kasmina.bench import Row, benchmark, interleave, require, single_thread
from kasmina.bench._gpu import Call, Case, bandwidth, on_gpu, rows_of
from kasmina.bench._lifecycle_population import MOVING, Population
from kasmina.bench._lifecycle_rivals import DictTable
from kasmina.bench._step_rows import Machine, transition
from kasmina.bench._step_times import Stepped, measured
from kasmina.bench.forward import nothing_more
from kasmina.lifecycle import Lifecycle, step

SEEDS = (10_000, 100_000_000)
CHECKED = 1_000_000  # rows that are compared with the vector step
PACKAGE = "kasmina_generated"
WAYS: dict[str, tuple[bool, dict[str, float]]] = {
    "nobody asks for room": (False, {}),
    "room for all who ask": (True, {"max_training": 1_000_000, "max_cohort": 1_000_000}),
    "room for 64": (True, {}),
}


@benchmark("step")
def run() -> list[Row]:
    """The step of 10,000 and 100 million seeds of which a tenth moves."""
    return rows_of(cases())


def cases() -> Iterator[Case]:
    """What is measured, each by itself."""
    if not on_gpu():
        yield on_cpu
        yield nothing_more
        return
    yield checked
    for seeds in SEEDS:
        for way in WAYS:
            yield partial(on_device, seeds, way)


def checked() -> list[Row]:
    """Compare what the kernel decides with the vector step, on the same device."""
    machine = Machine(PACKAGE)
    for what, (asking, limits) in WAYS.items():
        batch = transition(machine, CHECKED, "cuda", asking)
        stepped = Stepped(machine, batch, True, **limits)
        stepped.restore()
        stepped.advance()
        wanted = machine.vector.step(*batch, machine.limits("cuda", **limits), stepped.tick)
        state, epochs = (stepped.columns[name] for name in machine.kernels.COLUMNS[:2])
        require(torch.equal(state, wanted.state), f"{what}: states are the vector step's")
        require(torch.equal(epochs, wanted.epochs), f"{what}: epochs are the vector step's")
        edge = wanted.edge.masked_fill(wanted.refused, -2)
        require(torch.equal(stepped.work.edge, edge), f"{what}: edges are the vector step's")
    return [Row(f"step, rows compared with the vector step in {len(WAYS)} ways", CHECKED, "rows")]


def on_device(seeds: int, way: str) -> Iterator[Row]:
    """One number of rows; small ones in a graph of many steps, as they are run."""
    machine = Machine(PACKAGE)
    asking, limits = WAYS[way]
    stepped = Stepped(machine, transition(machine, seeds, "cuda", asking), True, **limits)
    found = measured(stepped, bandwidth())
    require(abs(found["moved"] + found["refused"] - 0.1 * seeds) < 0.02 * seeds, "a tenth moves")
    what, first = f"step, {seeds:,} seeds, 10% in transition, {way}", way == next(iter(WAYS))
    graph, copy = found["graph"]["events_us"], found["floor_us"]
    beside = {
        "eager, us": found["eager"]["events_us"],
        "graph of one, L2 flushed, us": graph,
        "copy of the least bytes, us": copy["rows"],
        "copy of whole columns, us": copy["columns"],
        "copy of touched sectors, us": copy["sectors"],
        "copy bandwidth, TB/s": bandwidth() / 1e6,
    }
    if "in_graph_us" in found:
        target = 8.0 if first else None
        yield Row(what, found["in_graph_us"], "us, in a graph of many", target, baselines=beside)
    else:
        share = 100 * copy["columns"] / graph
        target = 90.0 if first else None
        yield Row(what, share, "% of copy bandwidth", target, ">=", baselines=beside)


def on_cpu() -> Iterator[Row]:
    """The vector step of 10,000 seeds on one core, against a dict table that takes one each."""
    lifecycle, seeds = Lifecycle.default(), SEEDS[0]
    population = Population(lifecycle, seeds)
    rows, table = population.sample(seeds), DictTable(lifecycle)
    decided: Any = lifecycle.vector_step(*population.arguments())
    moving = float((decided.edge >= 0).float().mean())
    require(abs(moving - MOVING) < 0.03, f"a tenth of the seeds moves, not {moving:.3f}")
    agree = list(zip(decided.state.tolist(), decided.epochs.tolist(), strict=True))
    require(table.tick(rows) == agree, "the dict table and the vector step agree on every seed")
    state, inputs = population.state, (population.events, population.context, population.limits)
    kept = state.snapshot()

    def whole() -> None:
        for name, column in state.columns.items():
            column.copy_(kept[name])
        step(state, *inputs, True)

    with single_thread():
        subjects: dict[str, Call] = {
            "vector step": partial(lifecycle.vector_step, *population.arguments()),
            "with history and report": whole,
            "dict table": partial(table.tick, rows),
        }
        timings = interleave(subjects, repeats=9, calls=3, clock=time.process_time)
    for name in list(subjects)[:2]:
        yield Row(
            f"CPU, {seeds:,} seeds, 10% in transition, {name}",
            timings.median(name) * 1e6,
            "us",
            baselines={"dict table, us": timings.median("dict table") * 1e6},
        )
