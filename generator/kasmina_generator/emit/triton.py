"""Guards as Triton expressions over `field_*` (normalised), `limit_*` and `ticks`.

Division is the correctly rounded one: `/` on a GPU is off by up to two ulp. Whoever launches the
kernel has to forbid the fusing of a product and a sum; the launch in `step.py.jinja` does.
"""

from __future__ import annotations

import math

from kasmina_generator.emit.layout import call
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
from kasmina_generator.model import ContextField

_SEEN_FROM_RIGHT = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}
NO_NAN = 'tl.abs(raw) <= float("inf")'
INFINITE = 'tl.abs(raw) == float("inf")'


def triton_condition(guard: Expression) -> str:
    """Return the guard as one expression that gives a bool tensor."""
    match guard:
        case Truth(value=value):
            return str(value)
        case Flag(operand=operand, negated=negated):
            return f"({_value(operand)} == 0)" if negated else _value(operand)
        case Comparison(operator=operator, left=Constant() as left, right=right):
            return f"({_value(right)} {_SEEN_FROM_RIGHT[operator]} {_value(left)})"
        case Comparison(operator=operator, left=left, right=right):
            return f"({_value(left)} {operator} {_value(right)})"
        case All(operands=operands):
            return "(" + " & ".join(triton_condition(operand) for operand in operands) + ")"
        case Any(operands=operands):
            return "(" + " | ".join(triton_condition(operand) for operand in operands) + ")"


def _value(value: Value) -> str:
    match value:
        case Field(name="epochs"):
            return "ticks"
        case Field(name=name):
            return f"field_{name}"
        case LimitRef(name=name):
            return f"limit_{name}"
        case Constant(value=constant):
            return triton_literal(constant)
        case Negative(operand=operand):
            return f"(-{_value(operand)})"
        case Arithmetic(operator="/", left=left, right=right):
            return f"tl.math.div_rn({_value(left)}, {_value(right)})"
        case Arithmetic(operator=operator, left=left, right=right):
            return f"({_value(left)} {operator} {_value(right)})"


def triton_literal(value: float | bool) -> str:
    """Return a value as source that a kernel may hold."""
    if isinstance(value, float) and not math.isfinite(value):
        word = "nan" if math.isnan(value) else "inf"
        return f'-float("{word}")' if value < 0 else f'float("{word}")'
    return repr(value)


def triton_normalised(field: ContextField, depth: int = 1) -> list[str]:
    """Return the statements that turn `raw`, as loaded, into the field as guards see it.

    Args:
        field: Whose values they are.
        depth: Levels of indentation of the statements, which the caller writes.
    """
    name = f"field_{field.name}"
    if field.dtype == "bool":
        return [f"{name} = raw != 0"]
    if field.dtype == "int32":
        return [f"{name} = raw.to(tl.int32)", *_clamped(name, field, depth)]
    return ["raw = raw.to(tl.float32)", f"{name} = raw", *_special(name, field, depth)]


def _special(name: str, field: ContextField, depth: int) -> list[str]:
    """Return what puts the declared values for infinities and NaN; a NaN passes every clamp."""
    lines = _clamped(name, field, depth)
    if field.infinity != "allowed":
        lines.append(_replaced(name, INFINITE, triton_literal(math.nan), name, depth))
    if isinstance(field.nan, float):
        lines.append(_replaced(name, NO_NAN, name, triton_literal(field.nan), depth))
    return lines


def _clamped(name: str, field: ContextField, depth: int) -> list[str]:
    ends = [("<", field.low), (">", field.high)]
    return [
        _replaced(name, f"{name} {sign} {triton_literal(end)}", triton_literal(end), name, depth)
        for sign, end in ends
        if math.isfinite(end)
    ]


def _replaced(name: str, condition: str, then: str, otherwise: str, depth: int) -> str:
    return call(f"{name} = tl.where", [condition, then, otherwise], depth)
