"""Tune the tiles and run the kernels' benchmarks on a GPU, in one run and within a time.

    PYTHONPATH=spec:generator:generated:runtime python -m tools.gpu_bench [--seconds S]

needs torch, triton, transitions, msgspec and safetensors, and no more of what the project installs.
First everything is compiled, by processes side by side; then tiles are tuned and written; then each
case of each benchmark runs by itself, and an error in one is told and leaves the others alone. With
OUT set, all rows are in $OUT/gpu_bench.json after every case, and the table in $OUT/tiles.json.
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
    given = parser.parse_args()
    record, until, workers = Record(), given.seconds, Workers()
    workers.begin(rehearsals())
    workers.wait(until * 0.35)
    if not _gpu.on_gpu():
        said("there is no GPU that torch can use")
        return 2
    record.found |= {"device": device_name(), "versions": versions()}
    try:
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
    for bench in (forward, backward, train, step, parallel, curves):
        for case in bench.cases():
            if case not in (forward.on_cpu, backward.on_cpu, train.memory):
                record.case(bench.__name__.rpartition(".")[2], case, until)
    return int(bool(record.found["errors"]))


if __name__ == "__main__":
    sys.exit(main())
