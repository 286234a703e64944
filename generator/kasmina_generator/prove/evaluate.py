"""What a guard means, read straight from its tree: the prover's own interpreter.

No emitter uses this module, and it uses none of theirs, so that a mistake in a backend cannot hide
here as well. Arithmetic is numpy's float32, not double rounded afterwards as in generated Python.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping

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
from kasmina_generator.model import Scalar

Row = Mapping[str, Scalar]  # a value for every field and limit that is read
Atom = Comparison | Flag

COMPARE: dict[str, Callable[[Scalar, Scalar], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_OPERATE = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def number(value: Value, row: Row) -> Scalar:
    """Return what `value` is in `row`, each operation rounded to its dtype."""
    match value:
        case Constant(value=constant):
            return constant
        case Field(name=name) | LimitRef(name=name):
            return row[name]
        case Negative(operand=operand):
            return -number(operand, row)
        case Arithmetic(operator=sign, left=left, right=right, dtype=dtype):
            return _operate(sign, number(left, row), number(right, row), dtype)


def _operate(sign: str, left: Scalar, right: Scalar, dtype: str) -> Scalar:
    if dtype != "float32":  # integers: the reader has proved that nothing overflows
        return int(_OPERATE[sign](left, right))
    import numpy as np  # most guards do no arithmetic, and numpy takes 0.1 s to import

    with np.errstate(all="ignore"):
        return float(_OPERATE[sign](np.float32(left), np.float32(right)))


def holds(expression: Expression, row: Row) -> bool:
    """Return whether a guard lets pass in `row`; a NaN fails every comparison."""
    match expression:
        case Truth(value=value):
            return value
        case Flag(operand=operand, negated=negated):
            return bool(row[operand.name]) is not negated
        case Comparison(operator=sign, left=left, right=right):
            return COMPARE[sign](number(left, row), number(right, row))
        case All(operands=operands):
            return all(holds(operand, row) for operand in operands)
        case Any(operands=operands):
            return any(holds(operand, row) for operand in operands)


def at_epochs(expression: Expression, epochs: int) -> Expression:
    """Return the guard as it reads after `epochs` ticks: what is known by then is written out."""
    match expression:
        case Comparison(operator=sign, left=left, right=right):
            a, b = _value_at(left, epochs), _value_at(right, epochs)
            if isinstance(a, Constant) and isinstance(b, Constant):
                return Truth(COMPARE[sign](a.value, b.value))
            return Comparison(sign, a, b)
        case All(operands=operands):
            return _joined(All, [at_epochs(operand, epochs) for operand in operands])
        case Any(operands=operands):
            return _joined(Any, [at_epochs(operand, epochs) for operand in operands])
        case _:
            return expression


def _value_at(value: Value, epochs: int) -> Value:
    match value:
        case Field(name="epochs", dtype=dtype):
            return Constant(epochs, dtype)
        case Negative(operand=operand, dtype=dtype):
            known: Value = Negative(_value_at(operand, epochs), dtype)
        case Arithmetic(operator=sign, left=left, right=right, dtype=dtype):
            known = Arithmetic(sign, _value_at(left, epochs), _value_at(right, epochs), dtype)
        case _:
            return value
    return known if any(variables(known)) else Constant(number(known, {}), dtype)


def _joined(kind: type[All | Any], operands: list[Expression]) -> Expression:
    neutral = kind is All
    if Truth(not neutral) in operands:
        return Truth(not neutral)
    kept = tuple(dict.fromkeys(part for part in operands if part != Truth(neutral)))
    return kind(kept) if len(kept) > 1 else kept[0] if kept else Truth(neutral)


def atoms(expression: Expression) -> Iterator[Atom]:
    """Yield the comparisons and flags of a guard, from left to right."""
    match expression:
        case All(operands=operands) | Any(operands=operands):
            for operand in operands:
                yield from atoms(operand)
        case Comparison() | Flag():
            yield expression
        case Truth():
            return


def variables(node: Expression | Value) -> Iterator[Field | LimitRef]:
    """Yield the fields, limits and `epochs` that are read, with repetition."""
    match node:
        case Field() | LimitRef():
            yield node
        case Negative(operand=operand) | Flag(operand=operand):
            yield from variables(operand)
        case Arithmetic(left=left, right=right) | Comparison(left=left, right=right):
            yield from variables(left)
            yield from variables(right)
        case All(operands=operands) | Any(operands=operands):
            for part in operands:
                yield from variables(part)
        case Truth() | Constant():
            return


def constants(node: Expression | Value) -> Iterator[Scalar]:
    """Yield the literals of a guard."""
    match node:
        case Constant(value=value):
            yield value
        case Negative(operand=operand):
            yield from constants(operand)
        case Arithmetic(left=left, right=right) | Comparison(left=left, right=right):
            yield from constants(left)
            yield from constants(right)
        case All(operands=operands) | Any(operands=operands):
            for part in operands:
                yield from constants(part)
        case _:
            return


def is_ordering(atom: Atom) -> bool:
    """Say whether only the order of plain values matters: no arithmetic, negation aside."""
    return isinstance(atom, Flag) or not any(map(_computes, (atom.left, atom.right)))


def _computes(value: Value) -> bool:
    return isinstance(value, Arithmetic | Negative)
