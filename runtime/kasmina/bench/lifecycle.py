"""The lifecycle: the step of a million seeds, one seed by itself, and the spec's way to code.

Figures are CPU time of one core, medians of interleaved rounds, so that other processes count as
little as they can.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from subprocess import run as run_process
from typing import Any

import torch

import kasmina_spec
from kasmina.bench import Row, benchmark, interleave, require, single_thread
from kasmina.bench._lifecycle_population import MOVING, Population, Seed
from kasmina.bench._lifecycle_rivals import DictTable, TransitionsMachine
from kasmina.lifecycle import Lifecycle, LifecycleManager, StateTensor, step

SEEDS = 1_000_000
SAMPLE = 5_000  # of them, for whatever takes one seed at a time
INSTANCES = 10_000
TARGETS_NS = {"eager": 40, "compiled": 12}  # a seed; the same step in C takes 10.4
_COMMAND = "import sys; from kasmina.cli import main; sys.exit(main())"
_Decide = Callable[..., Any]
_Rival = TransitionsMachine | DictTable


@benchmark("lifecycle")
def run() -> list[Row]:
    """The step of 1M seeds, one seed by itself, state a seed, and from the spec to code."""
    lifecycle = Lifecycle.default()
    with single_thread():
        rows = [*_step_rows(Population(lifecycle, SEEDS)), *_manager_rows(lifecycle)]
    stored = StateTensor(1, lifecycle=lifecycle).bytes_per_seed
    return [
        *rows,
        Row("state", stored, "bytes/seed", target=150),
        Row("spec check + build", _build_seconds(), "s", target=2),
    ]


def _step_rows(population: Population) -> list[Row]:
    """The vector step beside interpreters that take one seed after the other."""
    lifecycle, arguments = population.lifecycle, population.arguments()
    ways = {
        "eager": lifecycle.vector_step,
        "compiled": _in_int32(torch.compile(lifecycle.decide, fullgraph=True)),
    }
    rivals = _rivals(lifecycle)
    sample = population.sample(SAMPLE)
    _check_step(population, sample, ways, rivals)
    subjects: dict[str, Callable[[], object]] = {}
    subjects |= {name: partial(_applied(way), arguments) for name, way in ways.items()}
    subjects |= {name: partial(rival.tick, sample) for name, rival in rivals.items()}
    timings = interleave(subjects, clock=time.process_time)
    others = {name: timings.median(name) / SAMPLE * 1e9 for name in rivals}
    rows = [
        Row(
            f"vector step, 1M seeds, {name}",
            timings.median(name) / SEEDS * 1e9,
            "ns/seed",
            target=target,
            baselines=others,
        )
        for name, target in TARGETS_NS.items()
    ]
    ratio = others["transitions"] / rows[-1].value
    return [
        *rows,
        Row("vector step, compiled, beside transitions", ratio, "times", target=300, op=">="),
        Row("whole step, 1M seeds, 10% move", _whole_step(population), "ns/seed"),
    ]


def _rivals(lifecycle: Lifecycle) -> dict[str, _Rival]:
    return {"transitions": TransitionsMachine(lifecycle), "dict table": DictTable(lifecycle)}


def _applied(decide: _Decide) -> Callable[[tuple[Any, ...]], None]:
    """Decide, and write states and epochs where they are kept."""
    codes, epochs = torch.empty(SEEDS, dtype=torch.int8), torch.empty(SEEDS, dtype=torch.int16)

    def apply(arguments: tuple[Any, ...]) -> None:
        decision = decide(*arguments)
        codes.copy_(decision.state)
        epochs.copy_(decision.epochs)

    return apply


def _in_int32(decide: _Decide) -> _Decide:
    """Hand the epochs over as int32: Inductor's C++ has no vectors of int16 (2.13)."""
    return lambda state, epochs, *inputs: decide(state, epochs.int(), *inputs)


def _check_step(
    population: Population,
    sample: Sequence[Seed],
    ways: dict[str, _Decide],
    rivals: dict[str, _Rival],
) -> None:
    eager, compiled = (way(*population.arguments()) for way in ways.values())
    moving = float((eager.edge >= 0).float().mean())
    require(abs(moving - MOVING) < 0.01, f"a tenth of the seeds moves, not {moving:.3f}")
    for name in ("state", "epochs", "edge"):
        same = bool((getattr(eager, name) == getattr(compiled, name)).all())
        require(same, f"eager and compiled step agree on every {name}")
    after = (eager.state[:SAMPLE].tolist(), eager.epochs[:SAMPLE].tolist())
    taken = list(zip(*after, strict=True))
    for name, rival in rivals.items():
        require(rival.tick(sample) == taken, f"{name} and the vector step agree on {SAMPLE} seeds")


def _whole_step(population: Population) -> float:
    """Nanoseconds a seed of `step` with its history and its report, from the same rows each time."""
    state, seconds = population.state, []
    kept = state.snapshot()
    for _ in range(6):
        for name, column in state.columns.items():
            column.copy_(kept[name])
        call = partial(step, state, population.events, population.context, population.limits, True)
        seconds.append(_seconds(call))
    require(int((state["history_count"] > 0).sum()) > 0, "the step has written a history")
    return median(seconds[1:]) / SEEDS * 1e9


def _manager_rows(lifecycle: Lifecycle) -> list[Row]:
    """One seed by itself: an edge whose guard reads a measurement, asked for by name."""
    context = lifecycle.Context(alpha=1.0)
    rows: list[Seed] = [(0, lifecycle.State["GRAFTING"], 1, context)] * INSTANCES
    rivals = _rivals(lifecycle)
    moved = _triggered(_managers(lifecycle, INSTANCES), context)[0]
    for name, rival in rivals.items():
        require(set(rival.tick(rows)) == {(moved.state, 0)}, f"{name} and the manager agree")
    seconds: dict[str, list[float]] = {name: [] for name in ("manager", *rivals)}
    for _ in range(7):
        fresh = _managers(lifecycle, INSTANCES)
        seconds["manager"].append(_seconds(partial(_triggered, fresh, context)))
        for name, rival in rivals.items():
            seconds[name].append(_seconds(partial(rival.tick, rows)))
    each = {name: median(values) / INSTANCES * 1e6 for name, values in seconds.items()}
    held = _bytes_each(lambda: _triggered(_managers(lifecycle, INSTANCES), context))
    bound = _bytes_each(lambda: TransitionsMachine(lifecycle).bound(100))
    return [
        Row("LifecycleManager", each.pop("manager"), "us/transition", target=10, baselines=each),
        Row(
            "LifecycleManager",
            held,
            "bytes/instance",
            target=5000,
            baselines={"transitions, methods bound": bound},
        ),
    ]


def _managers(lifecycle: Lifecycle, count: int) -> list[LifecycleManager]:
    state = lifecycle.State["GRAFTING"]
    managers = [LifecycleManager(lifecycle, state=state) for _ in range(count)]
    for manager in managers:
        manager.epochs = 1
    return managers


def _triggered(managers: list[LifecycleManager], context: Any) -> list[LifecycleManager]:
    for manager in managers:
        manager.trigger("complete", context)
    return managers


def _bytes_each(make: Callable[[], Sequence[object]]) -> float:
    """What one of the objects that `make` returns holds, as Python's allocator counts it."""
    gc.collect()
    tracemalloc.start()
    made = make()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held / len(made)


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _build_seconds() -> float:
    """CPU seconds of `kasmina spec build` in a process of its own, the imports with it."""
    seconds = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as directory:
            arguments = ["spec", "build", str(kasmina_spec.LIFECYCLE), "--out", directory]
            before = os.times()
            command = [sys.executable, "-c", _COMMAND, *arguments]
            done = run_process(command, check=False, capture_output=True, text=True)
            after = os.times()
        require(done.returncode == 0, f"kasmina spec build ends well: {done.stderr}")
        user = after.children_user - before.children_user
        seconds.append(user + after.children_system - before.children_system)
    return median(seconds)
