"""Tune the tiles and run the kernels' benchmarks on a GPU, in one run and within a time.

    PYTHONPATH=spec:generator:generated:runtime python -m tools.gpu_bench [--seconds S] [--keep-tiles]

needs torch, triton, transitions, msgspec and safetensors, and no more of what the project installs.
First everything is compiled, by processes side by side; then tiles are tuned and written; then each
case of each benchmark runs by itself, and an error in one is told and leaves the others alone. With
OUT set, all rows are in $OUT/gpu_bench.json after every case, and the table in $OUT/tiles.json. Each
benchmark has a share of the seconds that are left when it begins, so that none takes all of them.
`--dry` goes the same way without a GPU, by Triton's interpreter, at sizes for it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kasmina.bench import _gpu, backward, curves, forward, parallel, step, train
from kasmina.bench._machine import device_name, versions
from kasmina.kernels.tiles import TABLE, table
from tools import tune

OUT = Path(os.environ.get("OUT", "."))
WORKERS = 14
STARTED = time.monotonic()
Job = Callable[[], Any]


class Record:
    """What was found so far, on disk."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {"rows": [], "errors": [], "tuning": [], "seconds": {}}

    def save(self) -> None:
        """Write everything."""
        OUT.joinpath("gpu_bench.json").write_text(json.dumps(self.found, indent=1))

    def case(self, bench: str, case: Job, until: float) -> None:
        """Run one case, unless the time is over."""
        name = f"{bench}: {named(case)}"
        began = time.monotonic()
        if began - STARTED > until:
            self.found["errors"].append({"case": name, "error": "no time was left"})
            return
        try:
            for row in case():
                self.found["rows"].append({"bench": bench, **row.as_dict()})
                told(self.found["rows"][-1])
        except Exception as error:  # noqa: BLE001  the other cases shall be told as well
            said(f"{name}: {type(error).__name__}: {error}"[:1500])
            self.found["errors"].append({"case": name, "error": traceback.format_exc()[-3000:]})
        self.found["seconds"][name] = time.monotonic() - began
        self.save()


def named(case: Any) -> str:
    """A case's function and its arguments."""
    arguments: tuple[Any, ...] = ()
    while isinstance(case, partial):
        case, arguments = case.func, (*case.args, *arguments)
    return f"{case.__name__} {arguments or ''}".strip()


def said(text: str) -> None:
    """Print at once, with the time."""
    sys.stdout.write(f"[{time.monotonic() - STARTED:5.1f}] {text}\n")
    sys.stdout.flush()


def told(row: dict[str, Any]) -> None:
    """Print a row on one line."""
    beside = ", ".join(f"{name} {value:.4g}" for name, value in row["baselines"].items())
    target = "" if row["target"] is None else f" [{row['op']} {row['target']:g} {row['met']}]"
    said(f"{row['name']}: {row['value']:.4g} {row['unit']}{target} ({beside})")


def rehearsals() -> Iterator[Job]:
    """What takes long to compile."""
    yield train.asleep_compiled
    for chunk in forward.CHUNKS:
        for share in forward.SHARES:
            yield partial(backward.large, chunk, share)
    for chunk in forward.CHUNKS:
        for share in forward.SHARES:
            yield partial(forward.large, chunk, share)
    yield from tune.compilations()
    yield parallel.large
    yield step.checked
    yield forward.small


def widths() -> Iterator[Job]:
    """The curves' other widths, which need the tuned tiles."""
    for width in curves.WIDTHS:
        rows, features = curves.ROWS, curves.FEATURES
        yield partial(curves.point, "width", width, rows, features, features // width, 0.1)


# What a benchmark may take of the time that is left when it begins, beside those behind it.
SHARES = {forward: 5, backward: 5, train: 5, step: 3, parallel: 3, curves: 5}


def deadlines(until: float) -> Iterator[tuple[Any, float]]:
    """The benchmarks, each with the second at which its last case may begin."""
    left = dict(SHARES)
    for bench in SHARES:
        now = time.monotonic() - STARTED
        yield bench, now + max(0.0, until - now) * left[bench] / sum(left.values())
        del left[bench]


# By benchmark, what an interpreter can take.
SMALL: dict[Any, dict[str, Any]] = {
    forward: {"ROWS": 24, "FEATURES": 256, "SMALL": (8, 256, 16), "compiled": lambda call: call},
    backward: {"ROWS": 24, "FEATURES": 256, "compiled": lambda call: call},
    parallel: {"ROWS": 24, "FEATURES": 128, "SEEDS": 16, "UNITS": 8},
    curves: {"ROWS": 24, "FEATURES": 128, "FEW": 2},
    train: {"SMALL": (16, 32, 8, 4)},
    step: {"SEEDS": (500,)},
    _gpu: {"DEVICE": "cpu", "quick": True, "L2": 1},
}


def dry(record: Record) -> int:
    """The flow of `main` without a GPU: its cases by the interpreter, and no tuning."""
    os.environ |= {"KASMINA_BACKEND": "triton", "TRITON_INTERPRET": "1"}
    for module, sizes in SMALL.items():
        for name, size in sizes.items():
            setattr(module, name, size)
    some: dict[Any, list[Any]] = {
        forward: [partial(forward.large, 16, 0.1), partial(forward.in_place, 16), forward.small],
        backward: [partial(backward.large, 16, 0.1)],
        parallel: [parallel.large],
        curves: [partial(curves.point, "width", 16, 24, 128, 8, 0.25)],
        train: [train.on_cpu],
        step: [step.on_cpu],
    }
    for bench, deadline in deadlines(1e6):
        for case in some[bench]:
            record.case(bench.__name__.rpartition(".")[2], case, deadline)
    return int(bool(record.found["errors"]))


class Workers:
    """Forked processes that run jobs and measure nothing; to be made before CUDA is touched."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._queue: Any = context.Queue()
        self._done: Any = context.Value("i", 0)
        self._asked = 0
        self._all = [context.Process(target=self._work, daemon=True) for _ in range(WORKERS)]
        for worker in self._all:
            worker.start()

    def begin(self, jobs: Iterable[Job]) -> None:
        """Hand out jobs."""
        for job in jobs:
            self._queue.put(job)
            self._asked += 1

    def wait(self, until: float) -> None:
        """Wait until they are done, or until so many seconds have passed since the start."""
        while self._done.value < self._asked and time.monotonic() - STARTED < until:
            time.sleep(0.1)
        said(f"compiled {self._done.value} of {self._asked}")

    def end(self) -> None:
        """End the processes."""
        for worker in self._all:
            worker.terminate()
            worker.join()

    def _work(self) -> None:
        _gpu.quick = True
        while True:
            job = self._queue.get()
            table.cache_clear()
            began = time.monotonic()
            try:
                for _ in job() or ():
                    pass
            except Exception as error:  # noqa: BLE001  the run itself will tell
                said(f"compiling {named(job)}: {type(error).__name__}: {error}"[:300])
            torch.cuda.empty_cache()
            said(f"  {time.monotonic() - began:4.1f} s {named(job)}"[:150])
            with self._done.get_lock():
                self._done.value += 1


def main() -> int:
    """Run everything; 2 where there is no GPU, 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="for everything")
    parser.add_argument("--keep-tiles", action="store_true", help="take the committed ones")
    parser.add_argument("--dry", action="store_true", help="the same flow without a GPU")
    given = parser.parse_args()
    if given.dry:
        return dry(Record())
    record, until, workers = Record(), given.seconds, Workers()
    workers.begin(rehearsals())
    workers.wait(until * 0.35)
    if not _gpu.on_gpu():
        said("there is no GPU that torch can use")
        return 2
    record.found |= {"device": device_name(), "versions": versions()}
    try:
        if not given.keep_tiles:
            tune.write(tune.tuned(record.found["tuning"]))
        OUT.joinpath("tiles.json").write_text(TABLE.read_text())
    except Exception as error:  # noqa: BLE001  the benchmarks can run on any tiles
        record.found["errors"].append({"case": "tune", "error": f"{error}"})
        said(f"tune: {type(error).__name__}: {error}"[:1500])
    said("tuned")
    workers.begin(widths())
    record.case("train", train.memory, until)  # what follows measures time, and this does not
    workers.wait(until * 0.6)
    workers.end()
    for bench, deadline in deadlines(until):
        for case in bench.cases():
            if case not in (forward.on_cpu, backward.on_cpu, train.memory):
                record.case(bench.__name__.rpartition(".")[2], case, deadline)
    return int(bool(record.found["errors"]))


if __name__ == "__main__":
    sys.exit(main())
