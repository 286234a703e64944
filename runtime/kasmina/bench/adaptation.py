"""Whether growing mends a network that is too narrow in one place.

A trial is a network of three hidden layers, one of them narrowed to 2 units, on a task of its own: a
random teacher's classes. Nothing tells the run which layer it is, nor when or what to grow. The
*gap* is what the same network with that layer as wide as the others (the oracle) reaches below
the narrow one (the control, which is left untouched), in validation loss after equal steps from equal
seeds. A trial has succeeded where growing closes 80% of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from kasmina.bench import Row, benchmark
from kasmina.bench._units import measured
from kasmina.control import TamiyoController
from kasmina.control.tamiyo import TamiyoConfig
from kasmina.growth import GrowConfig, grow
from kasmina.growth.static import count, train_static
from kasmina.growth.task import Data, Task, accuracy, cross_entropy, evaluate, seeded
from kasmina.sites import Garden, Site
from kasmina.tasks.data import Split, SplitData
from kasmina.tasks.growing import DENSE, SIZES

FIRST, TRIALS, QUICK = 10_000, 1000, 2  # seeds below 10,000 may drive choices
INPUTS, CLASSES, DEPTH, WIDTH, NARROW = 16, 5, 3, 24, 2
EXAMPLES, HELD_OUT, BATCH = 2**17, 2048, 128  # so many that nothing is learned by heart
EPOCHS, BATCHES = 100, 40  # of an epoch
FIRST_WAVE = 0.1  # of the run: what is asked is whether growing mends, not what it saves by waiting
CLOSED = 0.8  # of the gap


@dataclass(frozen=True, slots=True)
class Trial:
    """Validation losses, nats, of the three networks, and what the grown one came to."""

    narrow: float
    oracle: float
    grown: float
    planted: int
    grew_at: tuple[str, ...]
    parameters: int
    oracle_parameters: int

    @property
    def closed(self) -> float:
        """The share of the gap that growing closes."""
        gap = self.narrow - self.oracle
        return (self.narrow - self.grown) / gap if gap > 0 else float("nan")


@benchmark("adaptation")
def run(*, quick: bool = False, jobs: int = 1, out: Path | None = None) -> list[Row]:
    """How often growing closes 80% of the gap that a planted bottleneck leaves, of 1000 trials."""
    units = [(FIRST + number,) for number in range(QUICK if quick else TRIALS)]
    file = None if out is None else out / "adaptation.jsonl"
    done = measured(units, _one, Trial, jobs=jobs, file=file)
    return list(rows(list(done.values()), quick))


def _one(unit: tuple[int]) -> Trial:
    return trial(*unit)


def rows(found: list[Trial], quick: bool = False) -> Iterator[Row]:
    """The share of trials that succeeded, and what stands behind it."""
    shares = sorted(each.closed for each in found if each.narrow > each.oracle)
    good = 100 * sum(share >= CLOSED for share in shares) / len(found)
    beside = {
        "without a gap": float(len(found) - len(shares)),
        "median share closed": shares[len(shares) // 2] if shares else float("nan"),
        "least share closed": shares[0] if shares else float("nan"),
        "untouched, closed by itself": 0.0,
    }
    name = f"planted bottlenecks mended, of {len(found)}"
    yield Row(name, good, "%", None if quick else 95.0, ">=", beside)
    at = [each for each in found if site_around(each.planted) in each.grew_at]
    yield Row("of these grew at the planted layer", 100 * len(at) / len(found), "%")
    for what in ("narrow", "oracle", "grown"):
        mean = sum(getattr(each, what) for each in found) / len(found)
        yield Row(f"validation loss, {what}", mean, "nats")


def trial(seed: int) -> Trial:
    """One network with one narrow layer."""
    with seeded(seed):
        planted = int(torch.randint(DEPTH, ()))
    narrow, oracle = planted_task(seed, planted), planted_task(seed, None)
    steps = EPOCHS * narrow.build_data(seed).train.batches_per_epoch
    losses = []
    for task in (narrow, oracle):
        model = task.build_model(seed)
        train_static(task, model, "static", seed, steps)
        losses.append(_loss(task, model, seed))
    result = grow(
        narrow, GrowConfig(seed=seed), controller=TamiyoController(TamiyoConfig(first=FIRST_WAVE))
    )
    architecture = Garden.of(result.model).architecture()
    return Trial(
        narrow=losses[0],
        oracle=losses[1],
        grown=_loss(narrow, result.model, seed),
        planted=planted,
        grew_at=tuple(str(seed_["site"]) for seed_ in architecture),
        parameters=result.params_final,
        oracle_parameters=count(oracle.build_model(seed)),
    )


def _loss(task: Task, model: nn.Module, seed: int) -> float:
    return evaluate(task, model, task.build_data(seed).validation())[0]


def planted_task(seed: int, planted: int | None) -> Task:
    """The task of a trial, for a network whose hidden layer `planted` is narrow.

    Site k spans hidden layer k: from the input of its map to the output of the next one.
    """
    wide = count(_model(seed, planted=None))
    kinds = {"blueprint": DENSE, "options": {kind: SIZES[kind] for kind in DENSE}}
    sites = tuple(
        Site(str(2 * k), until=str(2 * k + 2), seeds=4, **kinds)  # type: ignore[arg-type]
        for k in range(DEPTH)
    )
    return Task(
        name=f"planted-{seed}",
        build_model=partial(_model, planted=planted),
        build_data=partial(_data, teacher=seed),
        loss=cross_entropy,
        metric=accuracy,
        sites=lambda: sites,
        default_epochs=EPOCHS,
        default_budget=3 * wide,
        threads=1,
    )


def site_around(layer: int) -> str:
    """The path of the site that spans a hidden layer."""
    return f"{2 * layer}..{2 * layer + 2}"


def _model(seed: int, width: int | None = None, *, planted: int | None) -> nn.Module:
    sizes = [INPUTS, *(NARROW if k == planted else WIDTH for k in range(DEPTH)), CLASSES]
    with seeded(seed):
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _data(seed: int, teacher: int) -> Data:
    with seeded(teacher), torch.no_grad():
        made = nn.Sequential(nn.Linear(INPUTS, 32), nn.Tanh(), nn.Linear(32, CLASSES))
        for parameter in made.parameters():
            parameter.mul_(3)
        x = torch.randn(EXAMPLES + 2 * HELD_OUT, INPUTS)
        y = made(x).argmax(1)
    ends = (0, EXAMPLES, EXAMPLES + HELD_OUT, len(x))
    splits = (
        Split(name, x[start:end], y[start:end])
        for name, (start, end) in zip(("train", "validation", "test"), pairwise(ends), strict=True)
    )
    return SplitData(*splits, batch_size=BATCH, seed=seed, most=BATCHES)
