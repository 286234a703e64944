"""Guards as torch expressions over `seen` (the normalised context), `limits` and `ticks`.

Each operation on float32 tensors rounds to float32. A literal is a Python number that float32
holds exactly, so it takes part as it is.
"""

from __future__ import annotations

from kasmina_generator.emit.layout import literal
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

_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}


def torch_condition(guard: Expression) -> str:
    """Return the guard as one expression that gives a bool tensor, 0-d or one value a row."""
    match guard:
        case Truth(value=value):
            return str(value)
        case Flag(operand=operand, negated=negated):
            return f"~{_value(operand)}" if negated else _value(operand)
        case Comparison(operator=operator, left=Constant() as left, right=right):
            return f"({_value(right)} {_MIRRORED[operator]} {_value(left)})"
        case Comparison(operator=operator, left=left, right=right):
            return f"({_value(left)} {operator} {_value(right)})"
        case All(operands=operands):
            return f"({' & '.join(map(torch_condition, operands))})"
        case Any(operands=operands):
            return f"({' | '.join(map(torch_condition, operands))})"


def _value(value: Value) -> str:
    match value:
        case Field(name="epochs"):
            return "ticks"
        case Field(name=name):
            return f"seen.{name}"
        case LimitRef(name=name):
            return f"limits.{name}"
        case Constant(value=constant):
            return literal(constant)
        case Negative(operand=operand):
            return f"-{_value(operand)}"
        case Arithmetic(operator=operator, left=left, right=right):
            return f"({_value(left)} {operator} {_value(right)})"
