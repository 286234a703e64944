"""Rows around every boundary of a machine's guards, for all states and clocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kasmina_generator.expression import (
    All,
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Field,
    Flag,
    LimitRef,
    Negative,
    Value,
)
from kasmina_generator.expression import Any as AnyOf
from tests.generated.packages import Package


class Cases(NamedTuple):
    """N rows of one state, and the measurements that they see where these are no defaults."""

    state: Tensor
    epochs: Tensor
    columns: dict[str, Tensor]


def boundary_cases(package: Package, limits: dict[str, float], most: int) -> Iterator[Cases]:
    """Yield the cases of each state; a product of more than `most` rows is thinned out at random."""
    rng = np.random.default_rng(0)
    for state in package.spec.states:
        guards = [e.guard for e in package.spec.edges if e.source == state.name]
        comparisons = [c for guard in guards for c in leaves(guard)]
        axes = {
            name: boundaries(package, name, [c for c in comparisons if name in names(c)], limits)
            for name in package.field_names
            if any(name in names(c) for c in comparisons)
        }
        turns = clocks(comparisons, package.lifecycle.Limits(**limits))
        clock = sorted({0, 1, 32767, *(n + d for n in turns for d in (-1, 0, 1))})
        yield product(package, state.code, [n for n in clock if 0 <= n <= 32767], axes, most, rng)


def product(
    package: Package,
    state: int,
    clock: list[int],
    axes: dict[str, list[Any]],
    most: int,
    rng: np.random.Generator,
) -> Cases:
    """Return every combination, or a sample of `most`."""
    sizes = [len(clock), *(len(values) for values in axes.values())]
    total = math.prod(sizes)
    picked = np.arange(total) if total <= most else rng.integers(0, total, most)
    places = [torch.from_numpy(place) for place in np.unravel_index(picked, sizes)]
    columns = {
        name: torch.tensor(values, dtype=package.dtype(name))[place]
        for (name, values), place in zip(axes.items(), places[1:], strict=True)
    }
    return Cases(
        torch.full((len(picked),), state, dtype=torch.int8),
        torch.tensor(clock, dtype=torch.int16)[places[0]],
        columns,
    )


def masks(package: Package) -> list[int]:
    """Return no command, each one, each pair that is next to each other, and every event's bit."""
    single = [1 << event.value for event in sorted(package.lifecycle.COMMANDS)]
    pairs = [a | b for a, b in itertools.pairwise(single)]
    return [0, *single, *pairs, (1 << len(package.lifecycle.Event)) - 1]


def clocks(comparisons: list[Comparison | Flag], in_force: Any) -> set[int]:
    """Return the constants and limits that epochs are compared with."""
    turns: set[int] = set()
    for part in (p for c in comparisons if "epochs" in names(c) for p in parts(c)):
        match part:
            case Constant(value=value):
                turns.add(int(value))
            case LimitRef(name=limit):
                turns.add(int(getattr(in_force, limit)))
            case _:
                pass
    return turns


def boundaries(
    package: Package,
    name: str,
    comparisons: list[Comparison | Flag],
    limits: dict[str, float],
) -> list[Any]:
    """Return the values of a field at, just below and just above what it is compared with."""
    rule = package.lifecycle.CONTEXT_FIELDS[name]
    if rule.dtype == "bool":
        return [False, True]
    in_force = package.lifecycle.Limits(**limits)
    thresholds = {rule.default, *(v for v in rule.range if math.isfinite(v))}
    for part in (part for comparison in comparisons for part in parts(comparison)):
        match part:
            case LimitRef(name=limit):
                thresholds.add(getattr(in_force, limit))
            case Constant(value=value):
                thresholds.add(value)
            case _:
                pass
    if rule.dtype == "int32":
        return sorted({int(v) + d for v in thresholds for d in (-1, 0, 1)})
    return float32_neighbours(thresholds) + specials(rule)


def float32_neighbours(thresholds: set[float]) -> list[float]:
    """Return each threshold and the float32 numbers beside it."""
    at = np.array(sorted(v for v in thresholds if math.isfinite(v)), np.float32)
    ends = np.float32(math.inf)
    beside = [np.nextafter(at, -ends), at, np.nextafter(at, ends)]
    return sorted({float(v) for values in beside for v in values})


def specials(rule: Any) -> list[float]:
    """Return NaN and the infinities as far as the spec does not refuse them."""
    nan = [] if rule.nan == "refuse" else [math.nan]
    return nan + ([] if rule.infinity == "refuse" else [math.inf, -math.inf])


def leaves(guard: Expression) -> Iterator[Comparison | Flag]:
    """Yield what a guard tests."""
    match guard:
        case All(operands=operands) | AnyOf(operands=operands):
            for operand in operands:
                yield from leaves(operand)
        case Comparison() | Flag():
            yield guard


def parts(test: Comparison | Flag) -> Iterator[Value]:
    """Yield the fields, limits and constants of a test."""
    for side in (test.left, test.right) if isinstance(test, Comparison) else (test.operand,):
        yield from _parts(side)


def _parts(value: Value) -> Iterator[Value]:
    match value:
        case Negative(operand=operand):
            yield from _parts(operand)
        case Arithmetic(left=left, right=right):
            yield from _parts(left)
            yield from _parts(right)
        case _:
            yield value


def names(test: Comparison | Flag) -> set[str]:
    """Return the fields that a test reads, `epochs` included."""
    return {part.name for part in parts(test) if isinstance(part, Field)}
