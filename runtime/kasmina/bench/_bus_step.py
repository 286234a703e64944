"""What a training step costs more while its run is on a bus: 10,000 seeds, all else at its default.

A run on a bus does something once a second: a frame of all seeds, a sign of life, looks at the
server. Two rounds of seconds differ by far more than that costs, also without a bus: by what other
programs take, and by how often the allocator gives memory back and is handed zeroed pages again
(some 50 to 300 page faults a step, 0.1 to 0.5 ms of it, which changes from one round to the next and
is gone where the allocator may not trim). So all that is due in a second is made due in a block of
a few steps, and the clock of that block is held against those of the blocks before and after, in
which the bus's thread and clock stand still. Their difference is what a second of the bus costs;
over the steps of a second, it is the growth of a step. It comes to what the CPU time of the bus's
threads and between steps comes to, which stands beside it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import mse_loss

from kasmina.bench import Row, require, single_thread
from kasmina.bus.commands import CommandConfig
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.telemetry import TelemetryConfig
from kasmina.growth import Gardener
from kasmina.growth.outside import Outside, OutsideConfig
from kasmina.sites import Site, morph

SEEDS, BATCH = 10_000, 128
BLOCKS, STEPS = 300, 8  # with the bus, and steps of each; as many without and one
LONGEST_S = 60.0  # then what there is must do: on a busy machine the interval is wider
RESAMPLES = 1000
HAND_OVERS = 50


class Block(NamedTuple):
    """Of all steps of a block, us."""

    wall: float
    between: float  # CPU time of the training thread between two steps
    others: float  # CPU time of all other threads


class Cost(NamedTuple):
    """What a second of the bus costs, us, with the interval that holds the wall in 95 of 100 cases."""

    wall: float
    low: float
    high: float
    between: float
    others: float


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

    def block(self, outside: Outside | None) -> Block:
        """A few steps."""
        begun, own, all_ = time.perf_counter(), time.thread_time(), time.process_time()
        between = sum(self.step(outside) for _ in range(STEPS))
        wall = time.perf_counter() - begun
        others = (time.process_time() - all_) - (time.thread_time() - own)
        return Block(1e6 * wall, 1e6 * between, 1e6 * others)


def step_rows(url: str, share: float = 1.0) -> list[Row]:
    """Growth of the step time by the clock, and what the hand-overs alone cost.

    Args:
        url: of the server.
        share: of the usual time.
    """
    with single_thread():
        training = _Training()
        for _ in range(4):
            plain = training.block(None).wall / STEPS
        cost, plain = _cost(training, url, max(3, round(share * BLOCKS)), plain)
        idle, due = _hand_overs(training, url)
    steps = 1e6 * OutsideConfig().telemetry_s / plain  # from one frame to the next
    growth, low, high = (1e6 * idle + each / steps for each in cost[:3])
    beside = {
        "95% interval, from": low,
        "to": high,
        "CPU between steps, us": 1e6 * idle + cost.between / steps,
        "CPU of the bus's threads, us": cost.others / steps,
        "step without a bus, us": plain,
    }
    name = f"growth of a training step with the bus on, {SEEDS:,} seeds, by the clock"
    every = f"{OutsideConfig().telemetry_s:g} s"
    return [
        Row(name, growth, "us", 50.0, "<=", beside),
        Row(f"{name}, share", 100 * growth / plain, "%", 1.0, "<="),
        Row("hand-over between two steps, nothing due", 1e6 * idle, "us"),
        Row(f"hand-over of a frame of all seeds, every {every}", 1e6 * due, "us"),
    ]


def _cost(training: _Training, url: str, blocks: int, step: float) -> tuple[Cost, float]:
    """What a second of the bus costs, and the step beside it, us; `step` is a first guess at it."""
    every = 1e-6 * STEPS * step  # so that all is due once in a block, seconds
    config = OutsideConfig(
        telemetry_s=every, heartbeat_s=every, telemetry=TelemetryConfig(keep=600, batch_s=every)
    )
    bus = partial(RedisStreamClient, url, watch_s=every)
    with Outside("bench", bus, config=config) as outside:
        outside.handler._config = CommandConfig(wait_s=2 * every)
        outside.start(training.gardener, fresh=True)
        still = _Still(outside)
        for _ in range(4):
            training.block(outside)
        gc.collect()
        before, on = outside.telemetry.sent, list[Block]()
        with still():
            off = [training.block(None)]
        until = time.monotonic() + LONGEST_S
        while len(on) < blocks and (len(on) < 3 or time.monotonic() < until):
            outside._serving.wake()
            on.append(training.block(outside))
            with still():
                off.append(training.block(None))
        sent = outside.telemetry.sent - before
        require(outside.fault is None, "the bus was there all the time")
    blocks = len(on)
    require(sent > 0.5 * blocks, "a frame was sent in most blocks")
    without = np.array(off)
    more = np.array(on) - (without[1:] + without[:-1]) / 2  # so that drift cancels out
    wall, low, high = _middle(more[:, 0]) * blocks / sent
    between, others = more[:, 1:].mean(axis=0) * blocks / sent
    return Cost(wall, low, high, between, others), float(np.median(without[:, 0])) / STEPS


def _middle(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean without the tenth at either end, and where it is in 95 of 100 cases, by resampling."""
    drawn = np.random.default_rng(0).choice(samples, (RESAMPLES, len(samples)))
    cut = len(samples) // 10
    means = np.sort(np.vstack([samples, drawn]))[:, cut : len(samples) - cut].mean(axis=1)
    return np.array([means[0], *np.percentile(means[1:], [2.5, 97.5])])


class _Still:
    """Lets the bus's thread stand still, and its clock with it, so that nothing comes due meanwhile."""

    def __init__(self, outside: Outside) -> None:
        loop = outside._serving._loop
        assert loop is not None
        self._loop, self._stood = loop, 0.0
        loop.time = lambda: time.monotonic() - self._stood  # type: ignore[method-assign]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        reached, over = Event(), Event()

        def stand() -> None:
            reached.set()
            over.wait()

        self._loop.call_soon_threadsafe(stand)
        reached.wait()
        begun = time.monotonic()
        try:
            yield
        finally:
            self._stood += time.monotonic() - begun
            over.set()


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
