"""Random walks near everything that a spec compares, and three answers to each step of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from kasmina.lifecycle import (
    ContextTable,
    GuardRefused,
    IllegalTransition,
    Lifecycle,
    LifecycleManager,
    LimitTable,
    NoRoom,
    Refusal,
    StateTensor,
    StepResult,
    step,
)
from kasmina_generator.expression import Constant, Expression
from kasmina_generator.model import ContextField, Limit

from .lifecycle_reference import Move, Reference, Seed, Values

_ANSWERS = {
    Refusal.ILLEGAL: IllegalTransition,
    Refusal.GUARD: GuardRefused,
    Refusal.NO_ROOM: NoRoom,
}


@dataclass(frozen=True)
class Machine:
    """A spec file, its reference, and the package that was generated from it."""

    path: Path
    reference: Reference
    lifecycle: Lifecycle

    @property
    def name(self) -> str:
        """What the spec calls itself."""
        return self.lifecycle.name


@dataclass(frozen=True)
class Inputs:
    """The inputs of one step."""

    commands: list[frozenset[str]]
    contexts: list[Values]
    tick: bool


class Walk:
    """Some seeds in random places, random limits, and random steps; drawn from `rng`."""

    def __init__(self, machine: Machine, rng: Random, *, seeds: int = 5, steps: int = 6) -> None:
        self._spec, self._rng = machine.reference.spec, rng
        self._constants = {c for edge in self._spec.edges for c in _constants(edge.guard)}
        self.limits = {limit.name: self._limit(limit) for limit in self._spec.limits}
        self.seeds = [self._seed() for _ in range(rng.randint(1, seeds))]
        self.steps = [self._inputs() for _ in range(rng.randint(1, steps))]

    def _seed(self) -> Seed:
        near = [c.value for c in self._constants if c.dtype == "int32"]
        epochs = [0, 1, 32_766, 32_767, *(int(value) + n for value in near for n in (-1, 0, 1))]
        state = self._rng.choice(self._spec.states).name
        return Seed(state, min(max(self._rng.choice(epochs), 0), 32_767))

    def _inputs(self) -> Inputs:
        events = [event.name for event in self._spec.events]
        return Inputs(
            commands=[
                frozenset(
                    self._rng.sample(events, min(self._rng.choice([0, 0, 1, 2, 4]), len(events)))
                )
                for _ in self.seeds
            ],
            contexts=[
                {field.name: self._measured(field) for field in self._spec.context}
                for _ in self.seeds
            ],
            tick=self._rng.random() < 0.75,
        )

    def _limit(self, limit: Limit) -> Any:
        if limit.dtype != "int32":
            return self._rng.choice([limit.default, limit.default, limit.low, limit.high])
        few = min(max(self._rng.randint(0, 3), int(limit.low)), int(limit.high))
        return self._rng.choice([limit.default, few, few])

    def _measured(self, field: ContextField) -> Any:
        near = [field.default, field.low, field.high]
        near += [c.value for c in self._constants if c.dtype == field.dtype]
        near += [
            self.limits[limit.name] for limit in self._spec.limits if limit.dtype == field.dtype
        ]
        value = self._rng.choice(near)
        if field.dtype == "bool":
            return value
        if field.dtype == "int32":
            return int(value) + self._rng.choice([-1, 0, 1])
        return self._float(field, float(value))

    def _float(self, field: ContextField, value: float) -> float:
        """The value, its neighbours in float32, or what is no number."""
        number = np.float32(value)
        choices = [number, np.nextafter(number, np.float32(-np.inf)), np.nextafter(number, np.inf)]
        choices += [np.float32(math.nan)] if field.nan != "refuse" else []
        choices += [np.float32(math.inf), np.float32(-math.inf)]
        chosen = self._rng.choice(choices)
        if np.isinf(chosen) and field.infinity == "refuse":
            return float(field.default)
        return float(chosen)


def _constants(guard: Expression) -> Iterator[Constant]:
    """Every number that a guard holds."""
    todo: list[object] = [guard]
    while todo:
        node = todo.pop()
        if isinstance(node, Constant):
            yield node
        elif isinstance(node, tuple):
            todo += node
        else:
            todo += [getattr(node, name) for name in getattr(node, "__dataclass_fields__", ())]


class Trio:
    """The reference, the vector step and one manager a seed, side by side on one walk."""

    def __init__(self, machine: Machine, walk: Walk) -> None:
        self._machine, self._reference, self._walk = machine, machine.reference, walk
        lifecycle = machine.lifecycle
        self.seeds = walk.seeds
        self.state = StateTensor(len(walk.seeds), lifecycle=lifecycle)
        self.limits = LimitTable(lifecycle)
        for name, value in walk.limits.items():
            self.limits.override(name, value)
        self.managers = [self._manager(seed) for seed in walk.seeds]
        for row, seed in enumerate(walk.seeds):
            self._place(row, seed)

    def run(self) -> None:
        """Take all steps; raises AssertionError where the three differ."""
        for inputs in self._walk.steps:
            moves = self._reference.step(
                self.seeds, inputs.commands, inputs.contexts, self._walk.limits, inputs.tick
            )
            result = self._step(inputs)
            self._compare_result(moves, result)
            self._compare_refusals(inputs, result)
            self._move_managers(inputs, moves)
            self._compare_seeds()

    def _manager(self, seed: Seed) -> LifecycleManager:
        lifecycle = self._machine.lifecycle
        manager = LifecycleManager(
            lifecycle, limits=self.limits.limits, state=lifecycle.State[seed.state]
        )
        manager.epochs = seed.epochs
        return manager

    def _place(self, row: int, seed: Seed) -> None:
        roles = self.state.lifecycle.roles
        code = self.state.lifecycle.State[seed.state]
        self.state.update(row, {roles["state"].name: int(code), roles["epochs"].name: seed.epochs})

    def _step(self, inputs: Inputs) -> StepResult:
        events = torch.tensor([self._mask(commands) for commands in inputs.commands])
        context = ContextTable(len(self.seeds), lifecycle=self.state.lifecycle)
        for row, values in enumerate(inputs.contexts):
            for name, value in values.items():
                context.set(row, name, value)
        return step(self.state, events.int(), context, self.limits, inputs.tick)

    def _mask(self, commands: frozenset[str]) -> int:
        return sum(1 << self.state.lifecycle.Event[name] for name in commands)

    def _compare_seeds(self) -> None:
        for row, seed in enumerate(self.seeds):
            expected, kept = _of_seed(seed), self._of_vector(row)
            assert kept == {name: expected[name] for name in kept}
            assert _of_manager(self.managers[row]) == expected

    def _compare_result(self, moves: list[Move], result: StepResult) -> None:
        assert result.edge.tolist() == [move.edge for move in moves]
        assert result.refused.tolist() == [move.refused for move in moves]
        assert result.rows.tolist() == [row for row, move in enumerate(moves) if move.edge >= 0]
        unused = {(row, event.name) for row, event, _ in result.unused_events}
        assert unused == {(row, name) for row, move in enumerate(moves) for name in move.unused}

    def _compare_refusals(self, inputs: Inputs, result: StepResult) -> None:
        """The manager, which has not moved yet, gives each unused command the same answer."""
        commands = self.state.lifecycle.commands
        for row, event, refusal in result.unused_events:
            context = self.state.lifecycle.Context(**inputs.contexts[row])
            if event not in commands:
                assert refusal is Refusal.ILLEGAL
            elif refusal is Refusal.SUPERSEDED:
                assert self.managers[row].may(event, context)
            else:
                with pytest.raises(_ANSWERS[refusal]):
                    self.managers[row].trigger(event, context, has_room=False)

    def _move_managers(self, inputs: Inputs, moves: list[Move]) -> None:
        lifecycle = self.state.lifecycle
        for row, (manager, move) in enumerate(zip(self.managers, moves, strict=True)):
            context = lifecycle.Context(**inputs.contexts[row])
            if inputs.tick:
                asked = [lifecycle.Event[name] for name in inputs.commands[row]]
                commands = [event for event in asked if event in lifecycle.commands]
                taken = manager.tick(context, commands=commands, has_room=not move.refused)
                assert (-1 if taken is None else taken.index) == move.edge
            elif move.edge >= 0:
                event = lifecycle.edges[move.edge].event
                assert event is not None
                assert manager.trigger(event, context).index == move.edge

    def _of_vector(self, row: int) -> dict[str, Any]:
        """What the state tensor keeps, as far as the spec stores it."""
        lifecycle = self.state.lifecycle
        kept: dict[str, Any] = {
            role: self.state[column.name][row].item()
            for role, column in lifecycle.roles.items()
            if column.length == 1
        }
        kept["state"] = self.state.state(row).name
        if "history" in lifecycle.roles:
            kept["history"] = [state.name for state in self.state.history(row)]
        if "parent" in kept:
            kept["parent"] = lifecycle.State(kept["parent"]).name if kept["parent"] >= 0 else None
        return kept


def _of_seed(seed: Seed) -> dict[str, Any]:
    return {
        "state": seed.state,
        "epochs": seed.epochs,
        "parent": seed.parent,
        "history": seed.history,
        "history_count": seed.transitions,
        "generation": seed.generation,
    }


def _of_manager(manager: LifecycleManager) -> dict[str, Any]:
    return {
        "state": manager.state.name,
        "epochs": manager.epochs,
        "parent": None if manager.parent is None else manager.parent.name,
        "history": [state.name for state in manager.history],
        "history_count": manager.history_count,
        "generation": manager.generation,
    }
