"""The arms of the growth benchmark: each trains one network on one task from one seed.

What the arms of a task and seed share are the start network's initial values, the batches and their
order, and the number of steps, except where an arm says that it spends the same FLOPs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kasmina.control import RandomController, TamiyoController
from kasmina.growth import Controller, GrowConfig, RunResult, grow
from kasmina.growth.flops import FlopMeter
from kasmina.growth.static import count, nearest_width, reinitialised, train_static
from kasmina.growth.task import Task, evaluate, seeded
from kasmina.observe.log import EventLog
from kasmina.observe.record import Record
from kasmina.sites import Site
from kasmina.tasks import chars, digits, mnist1d
from kasmina.tasks.growing import DENSE, SIZES

GROWN = "Kasmina, parallel"
START, FINAL = "static, start size", "static, final size"
WHOLE, FINAL_SAME_FLOPS = "static, size of the budget", "static, final size, equal FLOPs"
SAME_STEPS, SAME_FLOPS = "its architecture, equal steps", "its architecture, equal FLOPs"
INLINE, RANDOM, WIDENED = "Kasmina, inline", "random growth", "zero-output widening"
DENSE_ONLY, LEAN = "Kasmina, dense kinds only", "Kasmina, fewer steps"
LEAN_SHARE = 0.42  # of the epochs


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one arm came to; metrics in [0, 1], the loss in nats, FLOPs with all that growing cost.

    `curve` is the validation metric over the FLOPs spent, once an epoch.
    """

    task: str
    arm: str
    seed: int
    test: float
    validation: float
    loss: float
    parameters: int
    flops: int
    steps: int
    wall_s: float
    curve: tuple[tuple[float, float], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As the benchmark's file holds it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Subject:
    """A task of the benchmark.

    Attributes:
        name: in tables.
        task: makes it for a seed.
        budget: parameters that the grown network may have.
        inline: where the inline arm grows.
        widened: whether its network is the MLP that zero-output widening knows.
    """

    name: str
    task: Callable[[int], Task]
    budget: int
    inline: tuple[Site, ...] = ()
    widened: bool = False


def _inline(*patterns: str) -> tuple[Site, ...]:
    return tuple(
        Site(pattern, placement="inline", seeds=4, blueprint="mlp", hidden=8)
        for pattern in patterns
    )


SUBJECTS = {
    subject.name: subject
    for subject in (
        Subject(
            "digits",
            lambda seed: digits.task(split=seed),
            3466,
            _inline("features.0", "features.2"),
            True,
        ),
        Subject(
            "mnist1d", lambda _: mnist1d.task(), 7434, _inline("features.0", "features.2"), True
        ),
        Subject("mnist1d-cnn", lambda _: mnist1d.task(convolutional=True), 5210, _inline("3", "5")),
        Subject("mnist1d-7", lambda _: mnist1d.task(dataset=7), 7434, (), True),
        Subject("chars", lambda _: chars.task(), 40_000, _inline("blocks.*.mlp")),
    )
}


def arms(subject: Subject, seed: int, epochs: int | None = None) -> Iterator[Outcome]:
    """All arms of a task from one seed; the first one is Kasmina with its default configuration."""
    task = subject.task(seed)
    epochs = epochs or task.default_epochs
    grown, model = _grown(task, GROWN, seed, epochs, subject.budget)
    yield grown
    for arm, make, steps in _static_arms(subject, task, seed, grown, model):
        yield static(task, arm, make(), seed, steps)
    if subject.widened:
        yield widened(task, seed, grown.steps, subject.budget)
    if subject.inline:
        site = replace(task, sites=lambda: subject.inline)
        yield _grown(site, INLINE, seed, epochs, subject.budget)[0]
    yield _grown(task, RANDOM, seed, epochs, subject.budget, RandomController(seed))[0]
    if subject.name == "mnist1d":
        yield _grown(_only(task, DENSE), DENSE_ONLY, seed, epochs, subject.budget)[0]
        yield _grown(task, LEAN, seed, round(LEAN_SHARE * epochs), subject.budget)[0]


def _static_arms(
    subject: Subject, task: Task, seed: int, grown: Outcome, model: nn.Module
) -> Iterator[tuple[str, Callable[[], nn.Module], int]]:
    yield START, lambda: task.build_model(seed), grown.steps
    width = nearest_width(task, seed, grown.parameters)
    yield FINAL, lambda: task.build_model(seed, width), grown.steps
    largest = nearest_width(task, seed, subject.budget)
    if subject.name != "chars":
        yield WHOLE, lambda: task.build_model(seed, largest), grown.steps
    else:
        each = _flops_per_step(task, task.build_model(seed, width), seed)
        yield FINAL_SAME_FLOPS, lambda: task.build_model(seed, width), round(grown.flops / each)
    yield SAME_STEPS, lambda: reinitialised(task, model, seed), grown.steps
    each = _flops_per_step(task, reinitialised(task, model, seed), seed)
    yield SAME_FLOPS, lambda: reinitialised(task, model, seed), max(round(grown.flops / each), 1)


def _flops_per_step(task: Task, model: nn.Module, seed: int) -> float:
    meter = FlopMeter()
    x, _ = task.build_data(seed).train.next_batch()
    with meter.forward("one", FlopMeter.TRAIN):
        model(x)
    return meter.total


def _only(task: Task, kinds: tuple[str, ...]) -> Task:
    """The task with fewer kinds at its sites."""

    def sites() -> tuple[Site, ...]:
        return tuple(
            replace(site, blueprint=kinds, options={kind: SIZES[kind] for kind in kinds})
            for site in task.sites()
        )

    return replace(task, sites=sites)


def forced(task: Task, kind: str) -> Task:
    """The task where one kind alone may grow."""
    return _only(task, (kind,))


@dataclass(slots=True)
class Seen:
    """Gathers what a run's events say, in the place of a log."""

    records: list[Record] = field(default_factory=list)

    def of(self, kind: str) -> list[Record]:
        """The events of a kind."""
        return [record for record in self.records if record.kind == kind]


def _grown(
    task: Task,
    arm: str,
    seed: int,
    epochs: int,
    budget: int,
    controller: Controller | None = None,
) -> tuple[Outcome, nn.Module]:
    result, seen = grow_seen(task, seed, epochs, budget, controller or TamiyoController())
    ends = seen.of("epoch")
    outcome = Outcome(
        task.name,
        arm,
        seed,
        result.test_metric,
        result.validation_metric,
        float(ends[-1]["validation_loss"]) if ends else float("nan"),
        result.params_final,
        result.train_flops,
        result.steps,
        result.wall_s,
        tuple((float(e["flops"]), float(e["validation_metric"])) for e in ends),
        _facts(seen),
    )
    return outcome, result.model


def grow_seen(
    task: Task, seed: int, epochs: int, budget: int, controller: Controller
) -> tuple[RunResult, Seen]:
    """One grown run and its events."""
    seen = Seen()
    with (
        tempfile.TemporaryDirectory() as folder,
        EventLog(Path(folder) / "events.jsonl", f"{task.name}-{seed}") as log,
    ):
        log.subscribe(seen.records.append)
        config = GrowConfig(seed=seed, epochs=epochs, budget=budget)
        return grow(task, config, controller=controller, log=log), seen


def _facts(seen: Seen) -> dict[str, Any]:
    """What became of the seeds, who won, and what was measured of each graft."""
    moves = seen.of("transition")
    ended: dict[str, int] = {}
    for move in moves:
        if move["to"] in ("FOSSILIZED", "CULLED", "CANCELLED", "ROLLED_BACK"):
            ended[move["to"]] = ended.get(move["to"], 0) + 1
    return {
        "germinated": sum(move["to"] == "GERMINATED" for move in moves),
        "grafted": sum(move["to"] == "GRAFTING" for move in moves),
        "ended": ended,
        "timed_out": sum(move["reason"].split(" or ")[0] == "timed_out" for move in moves),
        "winners": [record["winner"] for record in seen.of("contest")],
        "evidence": [
            {"measure": e["measure"], "value": e["value"], "interval": e["interval"]}
            for e in seen.of("evidence")
        ],
    }


def static(task: Task, arm: str, model: nn.Module, seed: int, steps: int) -> Outcome:
    """A network that does not grow."""
    per_step = _flops_per_step(task, model, seed)
    done, curve = train_static(task, model, arm, seed, steps)
    loss, metric = evaluate(task, model, task.build_data(seed).validation())
    return Outcome(
        task.name,
        arm,
        seed,
        done.test_metric,
        metric,
        loss,
        done.parameters,
        done.train_flops,
        steps,
        done.wall_s,
        tuple((step * per_step, value) for step, value in curve),
    )


def widened(task: Task, seed: int, steps: int, budget: int, times: int = 4) -> Outcome:
    """The MLP widened `times` times, new units with random inputs and outputs of zero.

    The function is kept at each growth (Chen et al. 2016, Net2Net, without their copies); old
    units keep their moments.
    """
    started = time.perf_counter()
    data, meter = task.build_data(seed), FlopMeter()
    assert task.default_width is not None
    final = nearest_width(task, seed, budget)
    growth = (final / task.default_width) ** (1 / times)
    widths = [round(task.default_width * growth**n) for n in range(times + 1)]
    model = task.build_model(seed, widths[0])
    optimizer, scheduler = task.optimizer(model.parameters(), steps)
    curve = []
    for step in range(steps):
        stage = min(step * 2 * times // steps, times)  # all growth in the first half
        if count(model) != count(task.build_model(seed, widths[stage])):
            model, optimizer = _wider(task, seed, model, optimizer, widths[stage], steps)
            scheduler.optimizer = optimizer
        x, y = data.train.next_batch()
        model.train()
        optimizer.zero_grad(set_to_none=True)
        with meter.forward((x.shape, stage), FlopMeter.TRAIN):
            output = model(x)
        torch.autograd.backward(task.loss(output, y))
        optimizer.step()
        scheduler.step()
        if (step + 1) % data.train.batches_per_epoch == 0:
            curve.append((float(meter.total), evaluate(task, model, data.validation())[1]))
    loss, metric = evaluate(task, model, data.validation())
    test = evaluate(task, model, data.test())[1]
    wall = time.perf_counter() - started
    return Outcome(
        task.name,
        WIDENED,
        seed,
        test,
        metric,
        loss,
        count(model),
        meter.total,
        steps,
        wall,
        tuple(curve),
    )


def _wider(
    task: Task,
    seed: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    width: int,
    steps: int,
) -> tuple[nn.Module, torch.optim.Optimizer]:
    with seeded(seed + width):
        made = task.build_model(seed + width, width)
    fresh, _ = task.optimizer(made.parameters(), steps)
    for group, before in zip(fresh.param_groups, optimizer.param_groups, strict=True):
        group.update({key: value for key, value in before.items() if key != "params"})
    for new, old in zip(made.parameters(), model.parameters(), strict=True):
        corner = tuple(slice(0, size) for size in old.shape)
        with torch.no_grad():
            if new.dim() == 2 and new.shape[1] > old.shape[1]:
                new[:, old.shape[1] :] = 0  # what the new units give to the old ones and beyond
            new[corner] = old
        state = {}
        for name, value in optimizer.state[old].items():
            state[name] = value
            if value.shape == old.shape:
                state[name] = torch.zeros_like(new)
                state[name][corner] = value
        fresh.state[new] = state
    return made, fresh
