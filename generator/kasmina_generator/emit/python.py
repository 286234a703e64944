"""Guards as plain Python over `context`, `limits` and `epochs`.

Fields and limits already hold float32 values as doubles. A double holds the result of one float32
operation closely enough that rounding it again gives the float32 result (Figueroa 1995), so
`_f32(a + b)` is exact; the reader has refused what could overflow or divide by zero.
"""

from __future__ import annotations

from kasmina_generator.emit.layout import Condition, boolean, literal
from kasmina_generator.expression import (
    All,
    Any,
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Field,
    Flag,
    LimitRef,
    Negative,
    Truth,
    Value,
)

_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}


def python_return(guard: Expression, depth: int = 2) -> list[str]:
    """Return the statement that returns the guard's truth, as lines without indentation.

    Args:
        guard: The guard.
        depth: Levels of indentation that the lines will get; they fit then.
    """
    return boolean("return ", _condition(guard), depth)


def _condition(guard: Expression) -> Condition:
    match guard:
        case Truth(value=value):
            return str(value)
        case Flag(operand=operand, negated=negated):
            return f"not {_value(operand)}" if negated else _value(operand)
        case Comparison(operator=operator, left=Constant() as left, right=right):
            return f"{_value(right)} {_TURNED[operator]} {_value(left)}"  # as one reads it
        case Comparison(operator=operator, left=left, right=right):
            return f"{_value(left)} {operator} {_value(right)}"
        case All(operands=operands):
            return "and", [_condition(operand) for operand in operands]
        case Any(operands=operands):
            return "or", [_condition(operand) for operand in operands]


def _value(value: Value) -> str:
    match value:
        case Field(name="epochs"):
            return "epochs"
        case Field(name=name):
            return f"context.{name}"
        case LimitRef(name=name):
            return f"limits.{name}"
        case Constant(value=constant):
            return literal(constant)
        case Negative(operand=operand):
            return f"-{_value(operand)}"  # an arithmetic operand brings its own parentheses
        case Arithmetic(operator=operator, left=left, right=right, dtype=dtype):
            text = f"({_value(left)} {operator} {_value(right)})"
            return f"_f32{text}" if dtype == "float32" else text
