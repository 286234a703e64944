"""Whether a rewound run is one that never grafted, how long a return takes, and that nothing jumps."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler

from kasmina.bench import Row, benchmark, require, single_thread
from kasmina.control import TamiyoController
from kasmina.growth import Command, GrowConfig, Idle, Scripted, Task, rewind
from kasmina.growth.task import Parameters, seeded
from kasmina.growth.training import Run
from kasmina.sites import Site
from kasmina.tasks import digits, mnist1d

TRIALS, AFTER = 200, 100
LARGE = 100_000  # parameters of the network whose return is timed
EARLY = {"min_validation_gain": 0.0, "training_patience": 1}
OPTIMIZERS: tuple[Callable[[Parameters], Optimizer], ...] = (
    lambda p: torch.optim.AdamW(p, lr=1e-2),
    lambda p: torch.optim.SGD(p, lr=1e-1, momentum=0.9),
    lambda p: torch.optim.RMSprop(p, lr=1e-3),
    lambda p: torch.optim.NAdam(p, lr=1e-3),
    lambda p: torch.optim.Adagrad(p, lr=1e-2),
)


@benchmark("rewind")
def run(*, quick: bool = False) -> list[Row]:
    """Rewinds against runs that never grafted, to the bit; their time; loss at lifecycle events."""
    trials = 5 if quick else TRIALS
    with single_thread():
        equal = sum(same(seed) for seed in range(trials))
        rows = [
            Row(f"rewinds equal to the bit, of {trials}", equal, "", trials, ">="),
            Row(f"return of {LARGE:,} parameters", _milliseconds(), "ms", 10.0, "<="),
        ]
        jumps = [*_jumps(digits.task(), 40), *([] if quick else _jumps(mnist1d.task(), 40))]
    rows.append(Row("largest rise of the loss at a lifecycle event", max(jumps), "nats", 1e-3))
    return rows


def same(seed: int) -> bool:
    """A run whose graft was taken back against one that never grafted, 100 steps on."""
    draw = random.Random(seed)
    task = _task(draw)
    config = GrowConfig(seed=seed, epochs=200, limits=EARLY)
    rows = range(draw.randint(1, 3))
    script: dict[int, Sequence[Command]] = {
        draw.randint(1, 2): [Command("request_germination", row, "trial") for row in rows]
    }
    grafted, plain = (
        Run(task, config, controller, None, {"twin_sample": 0}, None)
        for controller in (Scripted(script), Idle())
    )
    with seeded(seed):
        while int(grafted.gardener.garden.state["checkpoint_id"].max()) < 0:
            _epoch(grafted)
        for _ in range(draw.randint(0, 30)):
            grafted.batch()
        grafted.gardener.trial.take_back("the trial")
        left = grafted.gardener.clock.step + AFTER
        while grafted.gardener.clock.step < left:
            grafted.batch()
    with seeded(seed):
        while plain.gardener.clock.step < left:
            plain.batch()
            if plain.gardener.clock.step % plain.data.train.batches_per_epoch == 0 and (
                plain.gardener.clock.step <= left - AFTER
            ):
                plain.gardener.tick()
    gone = "ROLLED_BACK" in grafted.states() and not grafted.gardener.garden.acting().any()
    return gone and _equal(grafted, plain)


def _task(draw: random.Random) -> Task:
    make = draw.choice(OPTIMIZERS)
    units, kind = draw.randint(3, 12), draw.choice(("mlp", "gated", "low_rank", "conv"))
    site = Site(".", seeds=3, blueprint=kind, hidden=draw.randint(2, 8), layout=digits.LAYOUT)

    def build(seed: int, width: int | None = None) -> nn.Module:
        with seeded(seed):
            return nn.Sequential(
                nn.Linear(64, units),
                nn.BatchNorm1d(units),
                nn.ReLU(),
                nn.Dropout(0.2),
                nn.Linear(units, 10),
            )

    def optimizer(parameters: Parameters, steps: int) -> tuple[Optimizer, LRScheduler]:
        made = make(parameters)
        return made, ExponentialLR(made, 0.999)

    return replace(
        digits.task(),
        build_model=build,
        optimizer=optimizer,
        sites=lambda: (site,),
        default_budget=None,
        widths=False,
        default_width=None,
    )


def _epoch(run: Run) -> None:
    for _ in range(run.data.train.batches_per_epoch):
        run.batch()
    run.gardener.tick()


def _equal(one: Run, two: Run) -> bool:
    """Host, the host's part of the optimizer, scheduler and data, all to the bit."""
    hosts = [_host(each) for each in (one, two)]
    if hosts[0].keys() != hosts[1].keys():
        return False
    same_host = all(torch.equal(value, hosts[1][name]) for name, value in hosts[0].items())
    cursors = [
        (r.data.train.state_dict(), r.scheduler.state_dict()["last_epoch"]) for r in (one, two)
    ]
    return same_host and cursors[0] == cursors[1]


def _host(run: Run) -> dict[str, Tensor]:
    found = {n: v for n, v in run.model.state_dict().items() if not n.startswith("kasmina.")}
    for name, parameter in run.model.named_parameters():
        if not name.startswith("kasmina."):
            for key, value in run.optimizer.state[parameter].items():
                found[f"{name}/{key}"] = torch.as_tensor(value)
    return found


def _milliseconds() -> float:
    """Median time of a return to a snapshot of a network of `LARGE` parameters with Adam's state."""
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 134))
    size = sum(parameter.numel() for parameter in model.parameters())
    require(size >= LARGE, f"the network has {LARGE} parameters; it has {size}")
    optimizer = torch.optim.AdamW(model.parameters())
    torch.autograd.backward(model(torch.randn(8, 256)).square().mean())
    optimizer.step()
    snapshot = rewind.take(1, 0, model, optimizer, {})
    times = []
    for _ in range(30):
        started = time.perf_counter()
        rewind.restore(snapshot, model, optimizer, {})
        times.append(1000 * (time.perf_counter() - started))
    return median(times)


def _jumps(task: Task, epochs: int) -> Iterator[float]:
    """How much each tick of a default run raises the validation loss, no step between."""
    run = Run(task, GrowConfig(seed=1, epochs=epochs), TamiyoController(), None, {}, None)
    for _ in range(epochs):
        for _ in range(run.data.train.batches_per_epoch):
            run.batch()
        before = run.gardener.measure().loss
        run.gardener.tick()
        yield run.gardener.measure().loss - before
