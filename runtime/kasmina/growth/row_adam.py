"""Adam for rows of a pool that learn in isolation, each by its own age.

What a row gets must not depend on its neighbours, to the last bit, so no tensor of a kernel that
rounds by position holds two rows. Few rows go into one kernel call as tensors of their own; many
are gathered and updated by operations that are one rounding each.

Source: Kingma & Ba 2015, algorithm 1, as `torch.optim.Adam` computes it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.adam import adam

from kasmina.blueprints import BlueprintPool

CLEARLY = 0.05  # a relative gain below this is taken for noise
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
FUSED = ("cpu", "cuda")  # devices with one kernel for all tensors, 5 times as fast for few rows
FEW = 16  # rows


@dataclass(slots=True)
class Progress:
    """Best value of a seed's objective so far, and the epochs since it was clearly bettered."""

    best: float = -math.inf
    stale: int = 0

    def watch(self, value: float) -> int:
        """Take in an epoch's value, higher is better; returns the epochs since the best."""
        if value > self.best + CLEARLY * abs(self.best) or self.best == -math.inf:
            self.best, self.stale = value, 0
        else:
            self.stale += 1
        return self.stale


class Views(NamedTuple):
    """What one kernel call updates: a tensor for each row and parameter, and how old it is."""

    names: list[str]
    places: list[int]  # among the rows that were asked for
    values: list[Tensor]
    firsts: list[Tensor]
    seconds: list[Tensor]
    ages: list[Tensor]


@dataclass(slots=True)
class RowAdam:
    """Adam over the rows of a pool, each row with its own age; moments are `[capacity, ...]`."""

    rate: float
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    age: dict[int, int] = field(default_factory=dict)
    progress: dict[int, Progress] = field(default_factory=lambda: defaultdict(Progress))

    def start(self, row: int) -> None:
        """The row was just allocated: forget what it had."""
        self.age[row] = 0
        self.progress[row] = Progress()
        for first, second in self.moments.values():
            first[row : row + 1] = 0  # a slice: the pool may have doubled since the last update
            second[row : row + 1] = 0

    def views(self, pool: BlueprintPool, rows: Sequence[int]) -> Views:
        """What steps of `rows` write to, as long as all of them make each step."""
        views = Views([], [], [], [], [], [])
        for name, parameter in pool.stacked().items():
            first, second = self._moments(name, parameter)
            for place, row in enumerate(rows):
                age = float(self.age.get(row, 0))
                views.names.append(name)
                views.places.append(place)
                views.values.append(parameter.detach()[row])
                views.firsts.append(first[row])
                views.seconds.append(second[row])
                views.ages.append(torch.tensor(age, device=parameter.device))
        return views

    @torch.no_grad()
    def step(self, rows: Sequence[int], views: Views, gradients: Mapping[str, Tensor]) -> None:
        """One step of a few `rows`, whose `views` these are; gradients are name -> `[S, ...]`."""
        self._count(rows)
        if not rows:
            return
        adam(
            views.values,
            # The kernel reads memory in its order, and autograd promises none.
            [gradients[n][p].contiguous() for n, p in zip(views.names, views.places, strict=True)],
            views.firsts,
            views.seconds,
            [],
            views.ages,
            fused=views.values[0].device.type in FUSED,
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=self.rate,
            weight_decay=0.0,
            eps=EPSILON,
            maximize=False,
        )

    @torch.no_grad()
    def step_many(
        self, rows: Sequence[int], pool: BlueprintPool, gradients: Mapping[str, Tensor]
    ) -> None:
        """The same for any number of the pool's `rows`."""
        self._count(rows)
        for name, parameter in pool.stacked().items():
            first, second = self._moments(name, parameter)
            ages = [self.age[row] for row in rows]
            age = torch.tensor(ages, dtype=parameter.dtype, device=parameter.device)
            age = age.view(-1, *[1] * (parameter.dim() - 1))
            gradient = gradients[name]
            m = BETA1 * first[rows] + (1 - BETA1) * gradient
            v = BETA2 * second[rows] + (1 - BETA2) * gradient * gradient
            first[rows], second[rows] = m, v
            step = (m / (1 - BETA1**age)) / ((v / (1 - BETA2**age)).sqrt() + EPSILON)
            parameter[rows] -= self.rate * step

    def state_dict(self) -> dict[str, Any]:
        """Moments and ages, copied."""
        return {
            "moments": {k: (m.clone(), v.clone()) for k, (m, v) in self.moments.items()},
            "age": dict(self.age),
            "progress": {row: (p.best, p.stale) for row, p in self.progress.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.moments = {k: (m.clone(), v.clone()) for k, (m, v) in state["moments"].items()}
        self.age = dict(state["age"])
        for row, (best, stale) in state["progress"].items():
            self.progress[row] = Progress(best, stale)

    def _count(self, rows: Sequence[int]) -> None:
        for row in rows:
            self.age[row] = self.age.get(row, 0) + 1

    def _moments(self, name: str, parameter: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.moments.get(name, (None, None))
        if first is None or second is None:
            first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        elif len(first) < len(parameter):  # the pool has doubled
            more = parameter.new_zeros((len(parameter) - len(first), *parameter.shape[1:]))
            first, second = torch.cat([first, more]), torch.cat([second, more])
        # A resume's are on the CPU.
        first, second = first.to(parameter.device), second.to(parameter.device)
        self.moments[name] = (first, second)
        return first, second
