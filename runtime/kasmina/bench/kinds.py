"""Whether the right kind wins: what a free run chooses beside runs in which one kind alone may grow.

A kind is right for a task where, over the seeds, its forced runs are not worse on test data than the
best kind's by more than two standard errors of the paired difference. A task counts where some kind
is wrong. Permuted features keep the declared layout, so that it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from kasmina.bench import Row, benchmark
from kasmina.bench._growth_arms import forced, grow_seen
from kasmina.bench._units import measured
from kasmina.control import TamiyoController
from kasmina.growth import Task
from kasmina.tasks import chars, digits, mnist1d

SEEDS = tuple(range(1000, 1010))
TASKS: dict[str, Callable[[int], Task]] = {
    "chars": lambda _: chars.task(),  # the slowest first
    "mnist1d": lambda _: mnist1d.task(),
    "mnist1d-permuted": lambda _: mnist1d.task(permuted=True),
    "mnist1d-7": lambda _: mnist1d.task(dataset=7),
    "digits": lambda seed: digits.task(split=seed),
    "digits-permuted": lambda seed: digits.task(split=seed, permuted=True),
}

Unit = tuple[str, int, str | None, int | None]  # task, seed, forced kind, epochs


@benchmark("kinds")
def run(*, quick: bool = False, jobs: int = 1, out: Path | None = None) -> list[Row]:
    """How often the kind that wins the contest is one that no other kind beats when it is forced."""
    tasks = ("digits",) if quick else tuple(TASKS)
    seeds, epochs = ((1, 2), 30) if quick else (SEEDS, None)
    units: list[Unit] = [
        (task, seed, kind, epochs)
        for task in tasks
        for seed in seeds
        for kind in (None, *kinds_of(task))
    ]
    file = None if out is None else out / "kinds.jsonl"
    done = measured(units, _one, tuple[float, str | None], jobs=jobs, file=file)
    rows = list(_rows(done, tasks, seeds))
    return [replace(row, target=None) for row in rows] if quick else rows


def kinds_of(task: str) -> tuple[str, ...]:
    """What may grow there; a kind that a task does not offer is wrong for it."""
    (site,) = TASKS[task](1).sites()
    return site.kinds


def _one(unit: Unit) -> tuple[float, str | None]:
    """Test metric of one run, and which kind won its first contest."""
    name, seed, kind, epochs = unit
    task = TASKS[name](seed)
    assert task.default_budget is not None
    result, seen = grow_seen(
        task if kind is None else forced(task, kind),
        seed,
        epochs or task.default_epochs,
        task.default_budget,
        TamiyoController(),
    )
    won = next((record["winner"] for record in seen.of("contest") if record["winner"]), None)
    return result.test_metric, won


Found = Mapping[Unit, tuple[float, str | None]]


def _rows(found: Found, tasks: tuple[str, ...], seeds: tuple[int, ...]) -> Iterator[Row]:
    epochs = next(iter(found))[3]
    chosen: list[bool] = []
    every = list(dict.fromkeys(kind for task in tasks for kind in kinds_of(task)))
    constant: dict[str, list[bool]] = {kind: [] for kind in every}
    for task in tasks:
        kinds = kinds_of(task)
        scores = {k: [100 * found[task, s, k, epochs][0] for s in seeds] for k in kinds}
        right = _right(scores)
        winners = [found[task, seed, None, epochs][1] for seed in seeds]
        means = {f"{kind}, forced": fmean(values) for kind, values in scores.items()}
        counts = {f"{kind}, chosen": float(winners.count(kind)) for kind in kinds}
        share = 100 * fmean(winner in right for winner in winners)
        name = f"{task}: a right kind wins ({', '.join(sorted(right))})"
        yield Row(name, share, "%", baselines={**means, **counts})
        if len(right) < len(kinds):
            chosen += [winner in right for winner in winners]
            for kind in every:
                constant[kind] += [kind in right] * len(seeds)
    if chosen:
        share = 100 * fmean(chosen)
        always = {f"always {kind}": 100 * fmean(each) for kind, each in constant.items()}
        yield Row("a right kind wins", share, "%", 90.0, ">=", always)
        yield Row("the best constant choice", max(always.values()), "%", 50.0, "<=")


def _right(scores: Mapping[str, list[float]]) -> set[str]:
    """The kinds that the best one does not beat by more than two standard errors, paired."""
    best = max(scores, key=lambda kind: fmean(scores[kind]))
    found = {best}
    for kind, values in scores.items():
        gaps = [b - v for b, v in zip(scores[best], values, strict=True)]
        error = stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
        if fmean(gaps) <= 2 * error:
            found.add(kind)
    return found
