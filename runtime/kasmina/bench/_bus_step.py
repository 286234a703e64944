"""What a training step costs more while its run is on a bus: 10,000 seeds, all else at its default."""

from __future__ import annotations

import gc
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss

from kasmina.bench import Row, require, single_thread
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.growth import Gardener
from kasmina.growth.outside import Outside, OutsideConfig
from kasmina.sites import Site, morph

SEEDS, BATCH = 10_000, 128
ROUND_S, ROUNDS = 5.0, 6  # each round goes once with the bus and once without
HAND_OVERS = 50


class Round(NamedTuple):
    """Means over the steps of a round, us."""

    wall: float
    between: float  # CPU time of the training thread between two steps
    others: float  # CPU time of all other threads


class _Training:
    """A block with dormant seeds at its output, and its training loop."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(32, SEEDS), nn.ReLU(), nn.Linear(SEEDS, 8))
        site = Site("0", placement="inline", seeds=SEEDS, hidden=1)
        morph(self.model, [site], run="bench")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4)
        self.x, self.y = torch.randn(BATCH, 32), torch.randn(BATCH, 8)
        self.gardener = Gardener(
            self.model, self.optimizer, validate=lambda: mse_loss(self.model(self.x), self.y)
        )

    def step(self, outside: Outside | None) -> float:
        """One step; returns the CPU time of what stands between two of them, s."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = mse_loss(self.model(self.x), self.y)
        torch.autograd.backward(loss)
        self.gardener.step(loss)
        begun = time.thread_time()
        if outside is not None:
            outside.after_step()
        return time.thread_time() - begun

    def round(self, outside: Outside | None, seconds: float) -> Round:
        """Steps for so long."""
        gc.collect()
        begun, own, all_ = time.perf_counter(), time.thread_time(), time.process_time()
        between, steps = 0.0, 0
        while (wall := time.perf_counter() - begun) < seconds:
            between += self.step(outside)
            steps += 1
        others = (time.process_time() - all_) - (time.thread_time() - own)
        return Round(*(1e6 * each / steps for each in (wall, between, others)))


def step_rows(url: str, share: float = 1.0) -> list[Row]:
    """Growth of the step time, and what the hand-overs alone cost.

    A frame goes out once in many steps, so a median of steps hides it, and the mean of a round
    varies by more than 50 us on a shared machine. What the bus can cost at most is measured itself:
    the training thread's CPU time between steps, and that of the bus's threads, for all of which
    they might hold the interpreter. The difference of the walls stands beside it, with its error.

    Args:
        url: of the server.
        share: of the usual time.
    """
    seconds, rounds = max(1.5, share * ROUND_S), max(2, round(share * ROUNDS))  # a frame in each
    with single_thread():
        training = _Training()
        training.round(None, 1.0)
        plain: list[Round] = []
        grown: list[Round] = []
        for number in range(rounds):
            for with_bus in (False, True) if number % 2 else (True, False):
                found = _round(training, url if with_bus else None, seconds)
                (grown if with_bus else plain).append(found)
        idle, due = _hand_overs(training, url)
    base, most = _middle(plain), _middle(grown)
    cost = (most.between - base.between) + (most.others - base.others)
    walls = np.array([g.wall - p.wall for g, p in zip(grown, plain, strict=True)])
    beside = {
        "step without a bus, us": base.wall,
        "between steps, us": most.between - base.between,
        "CPU of the bus's threads, us": most.others - base.others,
        "difference of the walls, us": float(np.median(walls)),
        "its standard error, us": float(walls.std() / len(walls) ** 0.5),
    }
    name = f"growth of a training step with the bus on, {SEEDS:,} seeds"
    every = f"{OutsideConfig().telemetry_s:g} s"
    return [
        Row(f"{name}, at most", cost, "us", 50.0, "<=", beside),
        Row(f"{name}, share at most", 100 * cost / base.wall, "%", 1.0, "<="),
        Row("hand-over between two steps, nothing due", 1e6 * idle, "us"),
        Row(f"hand-over of a frame of all seeds, every {every}", 1e6 * due, "us"),
    ]


def _round(training: _Training, url: str | None, seconds: float) -> Round:
    """A round with a bus of its own, or without any thread of one."""
    if url is None:
        return training.round(None, seconds)
    with Outside("bench", partial(RedisStreamClient, url)) as outside:
        outside.start(training.gardener, fresh=True)
        found = training.round(outside, seconds)
        require(outside.fault is None, "the bus was there all the time")
    require(outside.telemetry.sent > 0, "telemetry was sent")
    return found


def _middle(rounds: list[Round]) -> Round:
    return Round(*np.median(np.array(rounds), axis=0).tolist())


def _hand_overs(training: _Training, url: str) -> tuple[float, float]:
    """Median seconds of a look that finds nothing to do, and of one where a frame is due."""
    idle, due = [], []
    with Outside("bench", partial(RedisStreamClient, url)) as outside:
        outside.start(training.gardener, fresh=True)
        for _ in range(HAND_OVERS):
            outside._due = 0.0
            begun = time.perf_counter()
            outside.after_step()
            middle = time.perf_counter()
            outside.after_step()
            idle.append(time.perf_counter() - middle)
            due.append(middle - begun)
    return float(np.median(idle)), float(np.median(due))
