"""Seeds that come and go for minutes: whether anything turns NaN or infinite, or memory grows.

A small host with BatchNorm and dropout, at which a controller without rest germinates all that
sleeps, and takes some back, some at once with a rewind. A *micro-step* is one seed that holds a
blueprint through one optimizer step.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kasmina.bench import Row, benchmark, single_thread
from kasmina.growth import Command, Gardener, GardenerConfig, Observation, Proposal
from kasmina.growth.task import seeded
from kasmina.sites import Site, morph

SECONDS, QUICK_S, SEEDS = 600.0, 5.0, 128
BATCH, STEPS = 64, 8  # an epoch's
LIFE = 100  # epochs of a garden; by then most of its seeds are fossils, and a new one begins
MOST_MIB = 16.0  # of growth, by the medians of the second and the last fifth of all epochs
LIMITS = {"min_validation_gain": 0.0, "training_patience": 1}


@dataclass(slots=True)
class Soaked:
    """What was seen; memory is the resident set in MiB, once an epoch."""

    steps: int = 0
    micro_steps: int = 0
    not_finite: int = 0
    milestones: int = 0  # grafts and rewinds
    gardens: int = 0
    states: Counter[str] = field(default_factory=Counter)
    memory: list[float] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """MiB from the second fifth of the epochs to the last one."""
        fifth = max(len(self.memory) // 5, 1)
        return median(self.memory[-fifth:]) - median(self.memory[fifth : 2 * fifth] or self.memory)


@benchmark("soak")
def run(*, quick: bool = False) -> list[Row]:
    """Ten minutes of seeds that come and go: numbers that are not finite, growth of memory."""
    end = time.monotonic() + (QUICK_S if quick else SECONDS)
    with single_thread():
        found = soak(lambda _: time.monotonic() >= end)
    return list(rows(found, quick))


def rows(found: Soaked, quick: bool = False) -> Iterator[Row]:
    """The figures, with what was done beside them."""
    done = {
        "optimizer steps": float(found.steps),
        "grafts and rewinds": float(found.milestones),
        "gardens": float(found.gardens),
    }
    seen = {state: float(number) for state, number in sorted(found.states.items())}
    yield Row("micro-steps", found.micro_steps, "", baselines=done)
    yield Row("losses, parameters and moments not finite", found.not_finite, "", 0.0, "<=")
    yield Row("growth of memory", found.growth, "MiB", None if quick else MOST_MIB, "<=")
    yield Row("states seen", len(found.states), "", baselines=seen)


class Restless:
    """Germinates all that sleeps and takes back one in twelve at each tick, in turns."""

    name = "restless"

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Whatever the mask allows."""
        names, commands = observation.commands, list[Command]()
        germinate, cancel, emergency = (
            names.index(name) for name in ("request_germination", "cancel", "emergency")
        )
        for row, legal in enumerate(mask):
            end = emergency if self._draw.random() < 0.05 else cancel
            if legal[germinate]:
                commands.append(Command(names[germinate], row, "restless"))
            elif legal[end] and self._draw.random() < 1 / 12:
                commands.append(Command(names[end], row, "restless"))
        return Proposal(tuple(commands), "restless")

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what is rewound is not to happen again."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""


def soak(done: Callable[[Soaked], bool], seeds: int = SEEDS, seed: int = 0) -> Soaked:
    """Run until `done`, which is asked after each epoch, of at least one."""
    with seeded(seed):
        return _soak(done, seeds, seed)


def _soak(done: Callable[[Soaked], bool], seeds: int, seed: int) -> Soaked:
    found = Soaked()
    while True:
        gardener, x, y = _garden(seeds, seed + found.gardens)
        found.gardens += 1
        for _ in range(LIFE):
            before = gardener.milestones
            _epoch(gardener, x, y, found)
            found.milestones += gardener.milestones - before
            if done(found):
                return found


def _garden(seeds: int, seed: int) -> tuple[Gardener, Tensor, Tensor]:
    host = (nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.1), nn.Linear(12, 3))
    sites = [
        Site("0", seeds=seeds // 2, blueprint="mlp", hidden=3),
        Site("4", placement="inline", seeds=3, blueprint="affine"),
        Site(".", seeds=seeds - seeds // 2, blueprint="gated", hidden=2),
    ]
    model = morph(nn.Sequential(*host), sites, run="soak", seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = torch.randn(BATCH * STEPS, 8)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 1).long()
    gardener = Gardener(
        model,
        optimizer,
        validate=lambda: cross_entropy(model(x[:128]), y[:128]),
        controller=Restless(seed),
        config=GardenerConfig(ramp_steps=12, max_rewinds=10**9),
        limits=LIMITS,
    )
    return gardener, x, y


def _epoch(gardener: Gardener, x: Tensor, y: Tensor, found: Soaked) -> None:
    state = gardener.garden.state
    for part in torch.split(torch.arange(len(x)), BATCH):
        gardener.model.train()
        gardener.optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(gardener.model(x[part]), y[part])
        torch.autograd.backward(loss)
        found.micro_steps += int((state["blueprint_slot"] >= 0).sum())
        found.steps += 1
        gardener.step(loss)
        found.not_finite += not bool(loss.isfinite())
    gardener.tick()
    found.not_finite += sum(not bool(each.isfinite().all()) for each in _numbers(gardener))
    found.states.update({state.lifecycle.State(code).name for code in state.codes.tolist()})
    found.memory.append(resident_mib())


def _numbers(gardener: Gardener) -> Iterator[Tensor]:
    yield from gardener.model.parameters()
    yield from gardener.model.buffers()
    for held in gardener.optimizer.state.values():
        yield from (value for value in held.values() if isinstance(value, Tensor))


def resident_mib() -> float:
    """The resident set of this process, MiB; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0.0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
