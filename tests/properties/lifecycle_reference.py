"""What a step means, written once more: one seed after the other, from the spec itself.

It shares no code with the generated packages nor with the runtime: it reads the YAML through the
generator's reader and evaluates the guards' trees with numpy. Slow, obvious, and the judge.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kasmina_generator import read_spec
from kasmina_generator.expression import (
    All,
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Flag,
    LimitRef,
    Negative,
    Truth,
    Value,
)
from kasmina_generator.expression import Any as AnyOf
from kasmina_generator.model import Capacity, ContextField, Edge

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_COMPUTE: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
Values = Mapping[str, Any]


@dataclass
class Seed:
    """Everything that a step keeps of one seed."""

    state: str
    epochs: int = 0
    parent: str | None = None
    history: list[str] = field(default_factory=list)
    transitions: int = 0
    generation: int = 0


@dataclass(frozen=True)
class Move:
    """What became of one seed in a step."""

    edge: int = -1
    refused: bool = False
    unused: frozenset[str] = frozenset()


class Reference:
    """The lifecycle of a YAML file, stepped seed by seed."""

    def __init__(self, path: Path) -> None:
        self.spec = read_spec(path)
        columns = self.spec.columns.columns if self.spec.columns else ()
        self.kept = next((c.length for c in columns if c.role == "history"), 10)
        self.automatic = {e.name for e in self.spec.events if e.kind == "automatic"} | {"recycle"}

    def seeds(self, count: int) -> list[Seed]:
        """Fresh seeds."""
        return [Seed(self.spec.initial) for _ in range(count)]

    def step(
        self,
        seeds: list[Seed],
        commands: Sequence[frozenset[str]],
        contexts: Sequence[Values],
        limits: Values,
        tick: bool,
    ) -> list[Move]:
        """Step all seeds, in place."""
        read = [self.normalised(context) for context in contexts]
        wanted = [
            self.wanted(*row, limits, tick) for row in zip(seeds, commands, read, strict=True)
        ]
        refused = self.refused(seeds, wanted, read, limits)
        moves = []
        for row, seed in enumerate(seeds):
            edge = None if row in refused else wanted[row]
            if edge is not None:
                self.move(seed, edge)
            elif tick:
                seed.epochs = min(seed.epochs + 1, 32767)
            used = set() if edge is None else {edge.event}
            number = -1 if edge is None else edge.index
            moves.append(Move(number, row in refused, commands[row] - used))
        return moves

    def wanted(
        self, seed: Seed, commands: frozenset[str], read: Values, limits: Values, tick: bool
    ) -> Edge | None:
        """The first edge whose event is there and whose guard holds."""
        present = commands - self.automatic | (self.automatic if tick else set())
        values = {**read, **limits, "epochs": np.int32(seed.epochs)}
        for edge in self.spec.edges:
            if edge.source == seed.state and edge.event in present and holds(edge.guard, values):
                return edge
        return None

    def refused(
        self,
        seeds: Sequence[Seed],
        wanted: Sequence[Edge | None],
        read: Sequence[Values],
        limits: Values,
    ) -> set[int]:
        """The rows whose edge leads into a capacity that has no room for them."""
        refused: set[int] = set()
        for capacity in self.spec.capacities:
            inside = sum(seed.state in capacity.states for seed in seeds)
            asking = [
                row
                for row, edge in enumerate(wanted)
                if edge is not None
                and row not in refused
                and edge.target in capacity.states
                and edge.source not in capacity.states
            ]
            asking.sort(key=lambda row: _turn(capacity, row, seeds[row], read[row]))
            refused.update(asking[max(int(limits[capacity.limit]) - inside, 0) :])
        return refused

    def move(self, seed: Seed, edge: Edge) -> None:
        """Take an edge."""
        seed.history = [*seed.history, seed.state][-self.kept :]
        seed.transitions += 1
        seed.parent = None if edge.recycle else seed.state
        seed.generation += edge.recycle
        seed.state, seed.epochs = edge.target, 0

    def normalised(self, context: Values) -> dict[str, Any]:
        """The context as guards see it."""
        return {f.name: _normalised(f, context[f.name]) for f in self.spec.context}


def _turn(capacity: Capacity, row: int, seed: Seed, read: Values) -> tuple[float, int]:
    if capacity.order == "slot":
        return 0.0, row
    if capacity.order == "epochs":
        return -seed.epochs, row
    value = float(read[capacity.order])
    return (float("inf") if np.isnan(value) else -value), row


def _normalised(rule: ContextField, value: Any) -> Any:
    if not rule.dtype.startswith("float"):
        dtype = np.dtype(rule.dtype)
        return dtype.type(value if dtype == np.bool_ else min(max(value, rule.low), rule.high))
    number = np.float32(value)
    if np.isnan(number) and isinstance(rule.nan, float | int):
        number = np.float32(rule.nan)
    if np.isinf(number) and rule.infinity == "unknown":
        number = np.float32("nan")
    if np.isnan(number):
        return number
    return min(max(number, np.float32(rule.low)), np.float32(rule.high))


def holds(guard: Expression, values: Values) -> bool:
    """Whether a guard is true; a NaN makes every comparison false."""
    match guard:
        case Truth(value):
            return value
        case All(operands):
            return all(holds(operand, values) for operand in operands)
        case AnyOf(operands):
            return any(holds(operand, values) for operand in operands)
        case Flag(operand, negated):
            return bool(values[operand.name]) is not negated
        case Comparison(sign, left, right):
            return bool(_COMPARE[sign](_value(left, values), _value(right, values)))


def _value(tree: Value, values: Values) -> Any:
    match tree:
        case Constant(value, dtype):
            return np.dtype(dtype).type(value)
        case Negative(operand):
            return -_value(operand, values)
        case Arithmetic(sign, left, right, dtype):
            with np.errstate(all="ignore"):
                sides = (_value(left, values), _value(right, values))
                return np.dtype(dtype).type(_COMPUTE[sign](*sides))
        case LimitRef(name, dtype):
            return np.dtype(dtype).type(values[name])
        case _:
            return values[tree.name]
