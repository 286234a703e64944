"""What range a guard's numbers can have, so that no backend ever overflows or divides by zero.

Bounds are exact for each operation: rounding is monotone, and a double holds the result of one
float32 operation closely enough that rounding it again gives the float32 result (Figueroa 1995,
p >= 2q + 2). Dependence between operands is ignored, so `x - x` has a range of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kasmina_generator.expression import (
    All,
    Any,
    Arithmetic,
    ArithmeticOperator,
    Comparison,
    ComparisonOperator,
    Constant,
    Expression,
    Field,
    Flag,
    LimitRef,
    Negative,
    Truth,
    Value,
)
from kasmina_generator.number import INT16_MAX, integer_range, round_to_float32

Number = float | int


@dataclass(frozen=True, slots=True)
class Range:
    """Every value in `[low, high]`, and NaN if `nan`."""

    low: Number
    high: Number
    nan: bool = False

    def __str__(self) -> str:
        return f"[{self.low:g}, {self.high:g}]"


EPOCHS = Range(0, INT16_MAX)


class RangeError(ValueError):
    """An operation that some values in range make overflow or divide by zero."""


def combine(operator: ArithmeticOperator, left: Range, right: Range, dtype: str) -> Range:
    """Return the range of `left operator right`, rounded to `dtype`.

    Raises:
        RangeError: Where the result may be infinite, leave the integers or divide by zero.
    """
    if operator == "/" and right.low <= 0 <= right.high:
        raise RangeError(f"may divide by zero: the divisor is in {right}")
    if not all(map(math.isfinite, (left.low, left.high, right.low, right.high))):
        raise RangeError(f"may overflow {dtype}: {left} {operator} {right}")
    operate = _OPERATIONS[operator]
    corners = [operate(a, b) for a in (left.low, left.high) for b in (right.low, right.high)]
    return _stored(min(corners), max(corners), left.nan or right.nan, dtype)


def negate(operand: Range, dtype: str) -> Range:
    """Return the range of `-operand`.

    Raises:
        RangeError: Where the result leaves the integers.
    """
    return _stored(-operand.high, -operand.low, operand.nan, dtype, infinite=True)


def _stored(low: Number, high: Number, nan: bool, dtype: str, *, infinite: bool = False) -> Range:
    if dtype == "float32":
        low, high = round_to_float32(low), round_to_float32(high)
        fits = infinite or (math.isfinite(low) and math.isfinite(high))
    else:
        least, largest = integer_range(dtype)
        fits = least <= low and high <= largest
    if not fits:
        raise RangeError(f"may overflow {dtype}: the result is in {Range(low, high)}")
    return Range(low, high, nan)


_OPERATIONS: dict[ArithmeticOperator, Callable[[Number, Number], Number]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def range_of(value: Value, ranges: Mapping[str, Range]) -> Range:
    """Return the range of a value; `ranges` holds one for each field and limit."""
    match value:
        case Constant(value=constant):
            return Range(constant, constant)
        case Field(name=name) | LimitRef(name=name):
            return ranges[name]
        case Negative(operand=operand, dtype=dtype):
            return negate(range_of(operand, ranges), dtype)
        case Arithmetic(operator=operator, left=left, right=right, dtype=dtype):
            return combine(operator, range_of(left, ranges), range_of(right, ranges), dtype)


def verdict(expression: Expression, ranges: Mapping[str, Range]) -> bool | None:
    """Return True or False for a guard that always or never holds, None where it depends."""
    match expression:
        case Truth(value=value):
            return value
        case Flag():
            return None
        case Comparison(operator=operator, left=left, right=right):
            return compare(operator, range_of(left, ranges), range_of(right, ranges))
        case All(operands=operands):
            parts = [verdict(operand, ranges) for operand in operands]
            return False if False in parts else None if None in parts else True
        case Any(operands=operands):
            parts = [verdict(operand, ranges) for operand in operands]
            return True if True in parts else None if None in parts else False


def compare(operator: ComparisonOperator, left: Range, right: Range) -> bool | None:
    """Return what `left operator right` always gives, None where it depends."""
    match operator:
        case "<":
            always, never = left.high < right.low, left.low >= right.high
        case "<=":
            always, never = left.high <= right.low, left.low > right.high
        case ">":
            return compare("<", right, left)
        case ">=":
            return compare("<=", right, left)
        case "==":
            always = left.low == left.high == right.low == right.high
            never = left.high < right.low or right.high < left.low
    if never:
        return False
    return True if always and not (left.nan or right.nan) else None
