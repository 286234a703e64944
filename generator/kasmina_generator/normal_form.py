"""Building conditions that stay flat, without repetition and without needless constants."""

from __future__ import annotations

from kasmina_generator.expression import (
    All,
    Any,
    Comparison,
    ComparisonOperator,
    Constant,
    Expression,
    Field,
    Truth,
    Value,
)
from kasmina_generator.interval import compare, range_of

EPOCHS_IN_STATE = Field("epochs", "int32")


def conjunction(operands: list[Expression]) -> Expression:
    """Return `and` of the operands, flat and without repetition; no operand gives true."""
    flat = _flatten(operands, All)
    if Truth(False) in flat:
        return Truth(False)
    kept = [operand for operand in flat if operand != Truth(True)]
    return All(tuple(kept)) if len(kept) > 1 else kept[0] if kept else Truth(True)


def disjunction(operands: list[Expression]) -> Expression:
    """Return `or` of the operands, flat and without repetition; no operand gives false."""
    flat = _flatten(operands, Any)
    if Truth(True) in flat:
        return Truth(True)
    kept = [operand for operand in flat if operand != Truth(False)]
    return Any(tuple(kept)) if len(kept) > 1 else kept[0] if kept else Truth(False)


def _flatten(operands: list[Expression], kind: type[All | Any]) -> list[Expression]:
    flat: dict[Expression, None] = {}
    for operand in operands:
        parts = operand.operands if isinstance(operand, kind) else (operand,)
        flat.update(dict.fromkeys(parts))
    return list(flat)


def at_least(epochs: int) -> Expression:
    """Return the guard `epochs >= n`; true for 0."""
    return Comparison(">=", EPOCHS_IN_STATE, Constant(epochs, "int32")) if epochs else Truth(True)


def comparison(operator: ComparisonOperator, left: Value, right: Value) -> Expression:
    """Return a comparison, decided already where both sides are constants."""
    if isinstance(left, Constant) and isinstance(right, Constant):
        return Truth(bool(compare(operator, range_of(left, {}), range_of(right, {}))))
    return Comparison(operator, left, right)
