"""A million seeds for the lifecycle's benchmark.

They stand in all states alike, a few ticks after they entered them, and a tenth of them moves at
the next tick. Capacities have room, so that every row can be compared with an interpreter that
takes one at a time.
"""

from __future__ import annotations

from typing import Any

import torch

from kasmina.lifecycle import ContextTable, Lifecycle, LimitTable, StateTensor

MOVING = 0.1
COMMANDED = 0.01
Seed = tuple[int, Any, int, Any]  # command mask, state, epochs, context


class Population:
    """Seeds in all states, and what a tick reads of them."""

    def __init__(self, lifecycle: Lifecycle, seeds: int) -> None:
        rng = torch.Generator().manual_seed(7)
        self.lifecycle = lifecycle
        self.state = StateTensor(seeds, lifecycle=lifecycle)
        self.context = ContextTable(seeds, lifecycle=lifecycle)
        self.limits = LimitTable(lifecycle)
        codes = torch.tensor([int(state) for state in lifecycle.State])
        self.state.codes.copy_(codes[torch.randint(len(codes), (seeds,), generator=rng)])
        self.state.epochs.copy_(torch.randint(3, (seeds,), generator=rng))
        for field in self.context.vector():
            if field.is_floating_point():
                field.copy_(torch.rand(seeds, generator=rng))
        self.events = (torch.rand(seeds, generator=rng) < COMMANDED).int() << min(
            lifecycle.commands
        )
        self._make_room()
        self._keep_moving(int(seeds * MOVING), rng)

    def arguments(self) -> tuple[Any, ...]:
        """What the generated step takes, at the end of an epoch."""
        tick = torch.tensor(True)
        inputs = (self.events, self.context.vector(), self.limits.vector(), tick)
        return (self.state.codes, self.state.epochs, *inputs)

    def sample(self, rows: int) -> list[Seed]:
        """The first rows, for whatever takes one at a time."""
        states = [self.state.state(row) for row in range(rows)]
        columns = (self.events[:rows].tolist(), states, self.state.epochs[:rows].tolist())
        return list(zip(*columns, map(self.context.row, range(rows)), strict=True))

    def _make_room(self) -> None:
        for name, field in self.lifecycle.limit_fields.items():
            if field.dtype == "int32" and field.range[1] >= len(self.state):
                self.limits.override(name, len(self.state))

    def _keep_moving(self, wanted: int, rng: torch.Generator) -> None:
        """Put what moves beyond a number of seeds back to the start, where nothing moves."""
        edge = self.lifecycle.vector_step(*self.arguments()).edge
        moving = (edge >= 0).nonzero().squeeze(1)
        surplus = moving[torch.randperm(len(moving), generator=rng)][wanted:]
        self.state.codes[surplus] = int(self.lifecycle.initial)
        self.events[surplus] = 0
