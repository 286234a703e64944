"""What is read off the shape of two guards is always true, and sees the usual cases."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from kasmina_generator.implication import implies
from tests.generator.test_guard import Row, conditions, holds, rows, tree


@pytest.mark.parametrize(
    ("premise", "conclusion"),
    [
        ("a < b", "a < b"),
        ("a < b", "a <= b"),
        ("a < b", "b > a"),
        ("a < b", "b >= a"),
        ("a == b", "b <= a"),
        ("a < 1.0", "a < 2.0"),
        ("a <= 1.0", "2.0 > a"),
        ("1.0 < a", "a >= 1.0"),
        ("a > 3.0", "a >= 2.0"),
        ("a == 3.0", "a > 2.0"),
        ("a < b and p", "a < b"),
        ("p and q and a < b", "q and p"),
        ("a < b", "a < b or p"),
        ("p or q", "q or p or a < b"),
        ("p and (a < 1.0 or a < 2.0)", "a <= 3.0"),
        ("max_epochs > 50", "p"),
        ("p", "max_epochs > 5"),
    ],
)
def test_it_is_seen(premise: str, conclusion: str) -> None:
    """The usual ways in which an earlier edge covers a later one."""
    assert implies(tree(premise), tree(conclusion))


@pytest.mark.parametrize(
    ("premise", "conclusion"),
    [
        ("a <= b", "a < b"),
        ("a < 2.0", "a < 1.0"),
        ("a < 1.0", "a > 0.0"),
        ("a > 1.0", "a == 2.0"),
        ("a < b", "a < c"),
        ("a < c", "b < c"),
        ("p", "not p"),
        ("p or q", "p"),
        ("p", "p and q"),
    ],
)
def test_it_is_not_claimed(premise: str, conclusion: str) -> None:
    """What does not follow is not claimed."""
    assert not implies(tree(premise), tree(conclusion))


@settings(deadline=None)
@given(conditions, conditions, rows)
def test_it_is_never_wrong(premise: str, conclusion: str, row: Row) -> None:
    """Where it is claimed, no row is a counter-example."""
    first, second = tree(premise), tree(conclusion)
    if implies(first, second):
        assert holds(second, row) or not holds(first, row)
