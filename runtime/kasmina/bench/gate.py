"""Whether the gate is honest: its estimates beside true controls, noise beside what helps.

Every graft is one seed of one kind in a small host that has trained for some epochs. All are made
to graft, whatever they have learned; what is kept is up to the gate and its default settings.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import correlation, fmean

import kasmina.bench._noise  # noqa: F401  registers the kind
from kasmina.bench import Row, benchmark
from kasmina.growth import Command, GrowConfig, Scripted, Task, grow
from kasmina.observe.log import EventLog
from kasmina.observe.record import Record
from kasmina.sites import Site
from kasmina.tasks import digits, mnist1d
from kasmina.tasks.growing import DENSE, SIZES, SPATIAL

HOSTS: dict[str, Callable[[], Task]] = {
    "digits": digits.task,
    "mnist1d": mnist1d.task,
    "mnist1d-cnn": lambda: mnist1d.task(convolutional=True),
}
KINDS = (*DENSE, *SPATIAL)
COMPARED = 108  # grafts whose estimate is held against a control: a third of them noise
JUDGED = 200  # seeds of noise, and as many that help
MADE_TO_GRAFT = {"min_validation_gain": 0.0, "training_patience": 2}


@dataclass(frozen=True, slots=True)
class Graft:
    """One seed to try: where, what, from which random numbers, after how many epochs."""

    host: str
    kind: str
    seed: int
    after: int
    always_twin: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What came of it; gains in nats, by what measured them, with their intervals."""

    graft: Graft
    end: str
    gains: dict[str, tuple[float, float, float]]


@benchmark("gate")
def run(*, quick: bool = False, jobs: int = 1) -> list[Row]:
    """The gate's estimates against true controls, and what it keeps of noise and of what helps."""
    few = 9 if quick else COMPARED
    compared = _spread(list(_compared(few)), jobs)
    judged = _spread(list(_judged(6 if quick else JUDGED)), jobs)
    rows = [*_estimates(compared), *_kept(judged)]
    return [replace(row, target=None) for row in rows] if quick else rows


def _compared(number: int) -> Iterator[Graft]:
    """Hosts and kinds in turn, every third one noise, at several ages of the host."""
    for n in range(number):
        host, turn, third = list(HOSTS)[n % 3], n // 9, n // 3 % 3
        kind = "noise" if third == 2 else KINDS[(2 * turn + third) % len(KINDS)]
        yield Graft(host, kind, n, 2 + turn % 6, always_twin=True)


def _judged(number: int) -> Iterator[Graft]:
    """Noise, and gated units beside an MLP of 4 hidden units, which are known to help it."""
    for n in range(number):
        for kind in ("noise", "gated"):
            yield Graft("digits", kind, n, 2 + n % 6, always_twin=False)


def _spread(grafts: list[Graft], jobs: int) -> list[Found]:
    if jobs == 1:
        return [_one(graft) for graft in grafts]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        return list(pool.map(_one, grafts))


def _one(graft: Graft) -> Found:
    import torch

    torch.set_num_threads(1)
    task = HOSTS[graft.host]()
    options = {graft.kind: SIZES.get(graft.kind, {"hidden": 20})}
    site = Site(".", seeds=1, blueprint=graft.kind, layout=task.layout, options=options)
    task = replace(task, sites=lambda: (site,), default_budget=None)
    command = Command("request_germination", 0, "the benchmark", blueprint=graft.kind)
    records: list[Record] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        EventLog(Path(folder) / "events.jsonl", "gate") as log,
    ):
        log.subscribe(records.append)

        def ended() -> bool:
            last = records[-1]
            return last.kind == "epoch" and (
                _end(records) in ("FOSSILIZED", "CULLED", "ROLLED_BACK")
                or (graft.always_twin and any(r.kind == "evidence" for r in records))
            )

        grow(
            task,
            GrowConfig(seed=graft.seed, epochs=60, limits=MADE_TO_GRAFT),
            controller=Scripted({graft.after: [command]}),
            log=log,
            stop=ended,
            gardening={"twin_sample": int(graft.always_twin)},
        )
    gains = {
        r["measure"]: (float(r["value"]), *map(float, r["interval"] or (math.nan, math.nan)))
        for r in records
        if r.kind == "evidence"
    }
    return Found(graft, _end(records), gains)  # type: ignore[arg-type]  # three numbers each


def _end(records: list[Record]) -> str:
    """The last state of the seed."""
    return next((str(r["to"]) for r in reversed(records) if r.kind == "transition"), "")


def _estimates(found: list[Found]) -> Iterator[Row]:
    """Each estimate against the control, over the grafts that have both."""
    measured = [each for each in found if "paired_control" in each.gains]
    yield Row("grafts with a true control", len(measured), "", 0.9 * len(found), ">=")
    for name in ("held_out_integral", "path_integral", "removal_cost"):
        pairs = [(e.gains[name][0], e.gains["paired_control"]) for e in measured if name in e.gains]
        if len(pairs) < 2:
            continue
        target = {"held_out_integral": (0.97, 98.0)}.get(name, (None, None))
        r = correlation([one for one, _ in pairs], [true[0] for _, true in pairs])
        yield Row(f"{name}: correlation with the true gain", r, "", target[0], ">=")
        clear = [(one, true[0]) for one, true in pairs if not true[1] <= 0 <= true[2]]
        right = 100 * fmean((one > 0) == (true > 0) for one, true in clear) if clear else math.nan
        beside = {"grafts with a clear gain or loss": float(len(clear))}
        yield Row(f"{name}: sign right where clear", right, "%", target[1], ">=", beside)


def _kept(found: list[Found]) -> Iterator[Row]:
    """How many of each were kept for good."""
    for kind, target, op in (("noise", 2.0, "<="), ("gated", 90.0, ">=")):
        ends = [each.end for each in found if each.graft.kind == kind]
        share = 100 * ends.count("FOSSILIZED") / len(ends)
        beside = {state: float(ends.count(state)) for state in sorted(set(ends))}
        yield Row(f"{kind}: kept of {len(ends)}", share, "%", target, op, beside)  # type: ignore[arg-type]
