"""The typed tree of a guard.

Every backend emits from this tree with a `match` over these classes and shares no code with the
others. Trees are in negation normal form: `not` has been pushed down to the comparisons, and
`not a < b` has become `a >= b`. With IEEE comparisons a NaN then fails *both*, so a guard that
cannot be decided refuses (Kleene's "unknown" is never taken as true). `a != b` is `a < b or a > b`
for the same reason. Arithmetic rounds after every operation to the node's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ArithmeticOperator = Literal["+", "-", "*", "/"]
ComparisonOperator = Literal["<", "<=", ">", ">=", "=="]


@dataclass(frozen=True, slots=True)
class Field:
    """A context field, or `epochs` (int32): the ticks spent in the state so far."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class LimitRef:
    """A run-time limit."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal, already rounded to its dtype."""

    value: float | int | bool
    dtype: str


@dataclass(frozen=True, slots=True)
class Negative:
    """`-a`."""

    operand: Value
    dtype: str


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`a op b`, both of the same dtype, rounded to it."""

    operator: ArithmeticOperator
    left: Value
    right: Value
    dtype: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """`a op b`, both of the same dtype; false where an operand is NaN."""

    operator: ComparisonOperator
    left: Value
    right: Value


@dataclass(frozen=True, slots=True)
class Flag:
    """A bool field or limit, possibly negated."""

    operand: Field | LimitRef
    negated: bool


@dataclass(frozen=True, slots=True)
class Truth:
    """Always, or never."""

    value: bool


@dataclass(frozen=True, slots=True)
class All:
    """Every operand holds; at least two."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Any:
    """At least one operand holds; at least two."""

    operands: tuple[Expression, ...]


Value = Field | LimitRef | Constant | Negative | Arithmetic
Expression = Comparison | Flag | Truth | All | Any
