"""Guards as plain Python over `context`, `limits` and `epochs`.

Fields and limits already hold float32 values as doubles. A double holds the result of one float32
operation closely enough that rounding it again gives the float32 result (Figueroa 1995), so
`_f32(a + b)` is exact; the reader has refused what could overflow or divide by zero.
"""

from __future__ import annotations

from kasmina_generator.emit.layout import literal, wrapped_boolean
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


def python_return(guard: Expression) -> list[str]:
    """Return the statement that returns the guard's truth, as lines without indentation."""
    match guard:
        case All(operands=operands):
            return wrapped_boolean("return ", "and", [_parts(operand) for operand in operands])
        case Any(operands=operands):
            return wrapped_boolean("return ", "or", [_parts(operand) for operand in operands])
        case _:
            return [f"return {python_condition(guard)}"]


def _parts(operand: Expression) -> tuple[str, list[str]]:
    """Return the word between an operand's own operands, and these; the word is "" for a leaf."""
    match operand:
        case All(operands=operands):
            return "and", [python_operand(part) for part in operands]
        case Any(operands=operands):
            return "or", [python_operand(part) for part in operands]
        case _:
            return "", [python_condition(operand)]


def python_condition(guard: Expression) -> str:
    """Return the guard as one Python expression."""
    match guard:
        case Truth(value=value):
            return str(value)
        case Flag(operand=operand, negated=negated):
            return f"not {_value(operand)}" if negated else _value(operand)
        case Comparison(operator=operator, left=left, right=right):
            return f"{_value(left)} {operator} {_value(right)}"
        case All(operands=operands):
            return " and ".join(map(python_operand, operands))
        case Any(operands=operands):
            return " or ".join(map(python_operand, operands))


def python_operand(guard: Expression) -> str:
    """Return the guard with parentheses where another `and` or `or` may stand beside it."""
    text = python_condition(guard)
    return f"({text})" if isinstance(guard, All | Any) else text


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


def rounds(guard: Expression) -> bool:
    """Whether the guard's text needs `_f32`."""
    return "_f32(" in python_condition(guard)
