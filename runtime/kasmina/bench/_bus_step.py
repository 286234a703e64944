"""What a training step costs more while its run is on a bus: 10,000 seeds, everything at its default."""

from __future__ import annotations

import gc
import time
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import mse_loss

from kasmina.bench import Row, require, single_thread
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.growth import Gardener
from kasmina.growth.outside import Outside, OutsideConfig
from kasmina.sites import Site, morph

SEEDS, BATCH = 10_000, 128
STEPS, ROUNDS = 250, 5  # of a round; each round goes once with the bus and once without
HAND_OVERS = 50


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
        """One step; returns how long what stands between two of them took, s."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = mse_loss(self.model(self.x), self.y)
        torch.autograd.backward(loss)
        self.gardener.step(loss)
        begun = time.perf_counter()
        if outside is not None:
            outside.after_step()
        return time.perf_counter() - begun

    def times(self, outside: Outside | None) -> NDArray[np.float64]:
        """Means over a round, s a step: wall, between steps, CPU of all other threads."""
        begun, own, all_ = time.perf_counter(), time.thread_time(), time.process_time()
        between = sum(self.step(outside) for _ in range(STEPS))
        wall = time.perf_counter() - begun
        others = (time.process_time() - all_) - (time.thread_time() - own)
        return np.array([wall, between, others]) / STEPS


def step_rows(url: str) -> list[Row]:
    """Growth of the step time, and what the hand-overs alone cost.

    The times of single steps vary by a millisecond on a shared machine, so a difference of two
    medians says nothing about 50 us. What the bus can cost a step is measured itself: the time
    between steps, and the CPU time of the bus's threads, for which they may hold the interpreter.
    """
    with single_thread():
        training = _Training()
        outside = Outside("bench", partial(RedisStreamClient, url))
        outside.start(training.gardener, fresh=True)
        pairs = []
        try:
            training.times(outside)
            for number in range(ROUNDS):
                gc.collect()
                order = (None, outside) if number % 2 else (outside, None)
                times = {each is not None: training.times(each) for each in order}
                pairs.append((times[False], times[True]))
            idle, due = _hand_overs(outside)
        finally:
            outside.close()
        require(outside.fault is None, "the bus was there all the time")
        require(outside.telemetry.sent > 0, "telemetry was sent")
    plain, grown = np.array(pairs).mean(0)
    most = float(grown[1] + grown[2] - plain[1])
    beside = {
        "step without a bus, us": 1e6 * float(plain[0]),
        "between steps, us": 1e6 * float(grown[1]),
        "CPU of the bus's threads, us": 1e6 * float(grown[2]),
        "difference of the walls, us": 1e6 * float(grown[0] - plain[0]),
    }
    name = f"growth of a training step with the bus on, {SEEDS:,} seeds"
    return [
        Row(f"{name}, at most", 1e6 * most, "us", 50.0, "<=", beside),
        Row(f"{name}, share at most", 100 * most / float(plain[0]), "%", 1.0, "<="),
        Row("hand-over between two steps, nothing due", 1e6 * idle, "us"),
        Row(
            f"hand-over of a frame of all seeds, every {OutsideConfig().telemetry_s:g} s",
            1e6 * due,
            "us",
        ),
    ]


def _hand_overs(outside: Outside) -> tuple[float, float]:
    """Median seconds of a look that finds nothing to do, and of one where a frame is due."""
    idle, due = [], []
    for _ in range(HAND_OVERS):
        outside._due = 0.0
        begun = time.perf_counter()
        outside.after_step()
        middle = time.perf_counter()
        outside.after_step()
        idle.append(time.perf_counter() - middle)
        due.append(middle - begun)
    return float(np.median(idle)), float(np.median(due))
