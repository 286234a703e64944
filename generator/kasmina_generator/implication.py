"""When one guard surely holds wherever another does, read from their shape.

Sound and not complete: True is a proof, False means "not seen". NaN is safe here, because a
comparison that holds has no NaN operand.
"""

from __future__ import annotations

from kasmina_generator.expression import (
    All,
    Any,
    Comparison,
    ComparisonOperator,
    Constant,
    Expression,
    Truth,
)

_MIRRORED: dict[ComparisonOperator, ComparisonOperator] = {
    "<": ">",
    "<=": ">=",
    ">": "<",
    ">=": "<=",
    "==": "==",
}
# a op1 b implies a op2 b
_WEAKER: dict[ComparisonOperator, tuple[ComparisonOperator, ...]] = {
    "<": ("<", "<="),
    "<=": ("<=",),
    ">": (">", ">="),
    ">=": (">=",),
    "==": ("==", "<=", ">="),
}


def implies(premise: Expression, conclusion: Expression) -> bool:
    """Say whether `conclusion` is seen to hold wherever `premise` does."""
    if premise == conclusion or conclusion == Truth(True) or premise == Truth(False):
        return True
    if isinstance(premise, Any):
        return all(implies(operand, conclusion) for operand in premise.operands)
    if isinstance(conclusion, All):
        return all(implies(premise, operand) for operand in conclusion.operands)
    if isinstance(premise, Comparison) and isinstance(conclusion, Comparison):
        return _comparison_implies(_oriented(premise), _oriented(conclusion))
    by_premise = isinstance(premise, All) and any(implies(p, conclusion) for p in premise.operands)
    by_conclusion = isinstance(conclusion, Any) and any(
        implies(premise, operand) for operand in conclusion.operands
    )
    return by_premise or by_conclusion


def _oriented(comparison: Comparison) -> Comparison:
    """Write a constant on the right-hand side."""
    if isinstance(comparison.left, Constant):
        operator = _MIRRORED[comparison.operator]
        return Comparison(operator, comparison.right, comparison.left)
    return comparison


def _comparison_implies(premise: Comparison, conclusion: Comparison) -> bool:
    if premise.left != conclusion.left:
        mirrored = Comparison(_MIRRORED[premise.operator], premise.right, premise.left)
        return mirrored.left == conclusion.left and _same_sides(mirrored, conclusion)
    if _same_sides(premise, conclusion):
        return True
    if isinstance(premise.right, Constant) and isinstance(conclusion.right, Constant):
        return _threshold_implies(premise, premise.right, conclusion, conclusion.right)
    return False


def _same_sides(premise: Comparison, conclusion: Comparison) -> bool:
    same = premise.right == conclusion.right
    return same and conclusion.operator in _WEAKER[premise.operator]


def _threshold_implies(
    premise: Comparison, bound: Constant, conclusion: Comparison, weaker: Constant
) -> bool:
    """Compare `x op bound` with `x op weaker` for unequal constants."""
    if conclusion.operator in ("<", "<="):
        return premise.operator in ("<", "<=", "==") and bound.value < weaker.value
    if conclusion.operator in (">", ">="):
        return premise.operator in (">", ">=", "==") and bound.value > weaker.value
    return False
