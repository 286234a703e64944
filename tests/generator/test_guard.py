"""What a guard means: its tree, its normal form, and its bounds on size."""

from __future__ import annotations

import ast
import inspect
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasmina_generator import SpecErrors, read_spec
from kasmina_generator.binding import bind
from kasmina_generator.document import Scalar
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
from kasmina_generator.finding import Log
from kasmina_generator.guard import Clock, Symbol, Symbols, parse_guard
from kasmina_generator.interval import Range, verdict
from kasmina_generator.model import Place
from kasmina_generator.number import round_to_float32
from tests.generator.specs import DOOR, MACHINES, faults, read, spoil

HERE = Place("guards.yaml", 1, 1)
NUMBERS = ("a", "b", "c")
FLAGS = ("p", "q")
SYMBOLS = Symbols(
    {
        **{name: Symbol(Field(name, "float32"), Range(-8.0, 8.0, nan=True)) for name in "ab"},
        "c": Symbol(LimitRef("c", "float32"), Range(1.0, 4.0)),
        **{name: Symbol(Field(name, "bool"), None) for name in FLAGS},
    },
    {},
)


def tree(text: str, symbols: Symbols = SYMBOLS) -> Expression:
    """Return the typed tree of a guard that is right."""
    log = Log()
    guard = parse_guard(Scalar(text, True, HERE), "guard", log)
    assert guard is not None, text
    expression = bind(guard, symbols, Clock("S", 2, 9), log)
    log.raise_if_any()
    return expression


A, B = Field("a", "float32"), Field("b", "float32")
C = LimitRef("c", "float32")
P, Q = Field("p", "bool"), Field("q", "bool")
EPOCHS = Field("epochs", "int32")


def number(value: float) -> Constant:
    """Return a float32 constant."""
    return Constant(value, "float32")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < b", Comparison("<", A, B)),
        ("not a < b", Comparison(">=", A, B)),
        ("not a >= c", Comparison("<", A, C)),
        ("not not a > b", Comparison(">", A, B)),
        ("a == b", Comparison("==", A, B)),
        ("a != b", Any((Comparison("<", A, B), Comparison(">", A, B)))),
        ("not a == b", Any((Comparison("<", A, B), Comparison(">", A, B)))),
        ("not a != b", Comparison("==", A, B)),
        ("a < b < c", All((Comparison("<", A, B), Comparison("<", B, C)))),
        ("not a < b < c", Any((Comparison(">=", A, B), Comparison(">=", B, C)))),
        ("p", Flag(P, False)),
        ("not p", Flag(P, True)),
        ("not (p and q)", Any((Flag(P, True), Flag(Q, True)))),
        ("not (p or not q)", All((Flag(P, True), Flag(Q, False)))),
        ("p and (q and p)", All((Flag(P, False), Flag(Q, False)))),
        ("p or p", Flag(P, False)),
        ("a < 0.1", Comparison("<", A, number(0.10000000149011612))),
        ("a < 1", Comparison("<", A, number(1.0))),
        ("-1.5 < a", Comparison("<", number(-1.5), A)),
        ("-a < 1 + 2 * 3", Comparison("<", Negative(A, "float32"), number(7.0))),
        (
            "a + b / c > 1",
            Comparison(
                ">",
                Arithmetic("+", A, Arithmetic("/", B, C, "float32"), "float32"),
                number(1.0),
            ),
        ),
        ("timed_out", Comparison(">=", EPOCHS, Constant(9, "int32"))),
        ("not timed_out", Comparison("<", EPOCHS, Constant(9, "int32"))),
        ("epochs > max_epochs - min_epochs", Comparison(">", EPOCHS, Constant(7, "int32"))),
        ("max_epochs > 5 and p", Flag(P, False)),
        ("max_epochs > 50 or p", Flag(P, False)),
        ("max_epochs > 5 or p", Truth(True)),
        ("max_epochs > 50 and p", Truth(False)),
        ("max_epochs > 5", Truth(True)),
        ("max_epochs != 9 or min_epochs != 2", Truth(False)),
    ],
)
def test_the_tree_of_a_guard(text: str, expected: Expression) -> None:
    """Literals take the other side's dtype, `not` is pushed down, constants are folded."""
    assert tree(text) == expected


def test_an_edge_waits_for_min_epochs_unless_its_event_is_urgent(tmp_path: Path) -> None:
    """The wait is part of the guard."""
    spec = read(tmp_path, DOOR)
    guards = {(edge.source, edge.event): edge.guard for edge in spec.edges}
    wait = Comparison(">=", EPOCHS, Constant(1, "int32"))
    overdue = Comparison(">=", EPOCHS, Constant(9, "int32"))
    assert guards["OPEN", "lock"] == Truth(True)
    assert guards["OPEN", "close"] == All((wait, overdue))
    assert guards["LOCKED", "recycle"] == Comparison(">=", EPOCHS, Constant(3, "int32"))


def test_macros_are_written_out_and_may_be_negated(tmp_path: Path) -> None:
    """A macro stands for its tree."""
    text = spoil(DOOR, "guard: calm", "guard: not rough and not calm")
    text = spoil(text, "guards:\n", "guards:\n  rough: not calm or alarm\n")
    spec = read(tmp_path, text)
    (edge,) = [edge for edge in spec.edges if edge.event == "push"]
    calm = Comparison("<", Field("wind", "float32"), LimitRef("gale", "float32"))
    stormy = Comparison(">=", calm.left, calm.right)
    assert edge.guard == All((calm, Flag(Field("alarm", "bool"), True), stormy))
    assert edge.text == "not rough and not calm"


def test_macros_that_explode_are_refused(tmp_path: Path) -> None:
    """Macros that double each other are given up at a stated size, in little time."""
    lines = ["  m0: wind < gale"]
    lines += [f"  m{n}: m{n - 1} and (alarm or m{n - 1})" for n in range(1, 40)]
    text = spoil(DOOR, "guards:\n", "guards:\n" + "\n".join(lines) + "\n")
    text = spoil(text, "guard: calm", "guard: m39")
    (message,) = [m for m in faults(tmp_path, text) if "transition" in m]
    assert message == (
        "door.yaml:74:45: transition from SHUT on push: guard: has more than 500 parts or 60 "
        "levels, macros written out"
    )


def test_a_guard_over_a_wrong_field_is_passed_over(tmp_path: Path) -> None:
    """One fault is told once, where it is."""
    assert faults(tmp_path, spoil(DOOR, "range: [5, 40]", "range: [5]")) == [
        (
            "door.yaml:26:46: limit 'gale': range: expected a list of two numbers, [least, largest], "
            "found a list of 1"
        )
    ]
    assert faults(tmp_path, spoil(DOOR, "calm: wind < gale", "calm: wind <")) == [
        (
            "door.yaml:29:9: guard 'calm': is no expression at 'wind <'; allowed: names, numbers, "
            "< <= > >= == !=, and or not, + - * /, parentheses"
        )
    ]


def test_orders_read_as_they_are_meant() -> None:
    """A negated comparison over arithmetic keeps its operands."""
    spec = read_spec(MACHINES / "orders.yaml")
    (edge,) = [edge for edge in spec.edges if edge.event == "dispatch"]
    assert isinstance(edge.guard, All)
    load = Arithmetic("*", Field("weight", "float32"), number(2.0), "float32")
    surplus = Arithmetic("-", load, LimitRef("heaviest", "float32"), "float32")
    assert edge.guard.operands[-1] == Comparison("<=", surplus, number(100.0))


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        (
            "alarm and " * 100 + "alarm",
            (
                "door.yaml:34:45: transition from SHUT on push: guard: has 1005 characters; at most "
                "1000: use macros in 'guards'"
            ),
        ),
        (
            "wind < " + "9" * 400,
            "door.yaml:34:52: transition from SHUT on push: guard: '" + "9" * 57 + "...' is too "
            "large for float32\n    hint: float32 ends at 3.4028235e38",
        ),
    ],
)
def test_a_guard_without_measure(tmp_path: Path, guard: str, message: str) -> None:
    """Length and size are bounded."""
    assert faults(tmp_path, spoil(DOOR, "guard: calm", f"guard: {guard}")) == [message]


def test_a_guard_that_python_cannot_hold() -> None:
    """Where Python's own parser runs out of stack, that is a fault of the guard."""
    log = Log()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        assert parse_guard(Scalar("-" * 900 + "a < b", True, HERE), "guard", log) is None
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(SpecErrors) as caught:
        log.raise_if_any()
    assert str(caught.value) == (
        "guards.yaml:1:1: guard: is nested too deeply; use macros in 'guards'"
    )


# --- a second meaning, by Kleene's three values over the syntax tree that was not normalised

Row = dict[str, float]


def kleene(node: ast.expr, row: Row) -> bool | None:
    """Evaluate a guard as written; None is unknown."""
    match node:
        case ast.BoolOp(op=operator, values=values):
            parts = [kleene(value, row) for value in values]
            decisive = isinstance(operator, ast.Or)
            return decisive if decisive in parts else None if None in parts else not decisive
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            part = kleene(operand, row)
            return None if part is None else not part
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            operands = [arithmetic(side, row) for side in (left, *comparators)]
            pairs = zip(ops, operands[:-1], operands[1:], strict=True)
            parts = [compared(operator, a, b) for operator, a, b in pairs]
            return False if False in parts else None if None in parts else True
        case ast.Name(id=name):
            return bool(row[name])
    raise AssertionError(ast.dump(node))


def compared(operator: ast.cmpop, a: float, b: float) -> bool | None:
    """Compare two numbers; NaN gives unknown."""
    if math.isnan(a) or math.isnan(b):
        return None
    outcomes = {
        ast.Lt: a < b,
        ast.LtE: a <= b,
        ast.Gt: a > b,
        ast.GtE: a >= b,
        ast.Eq: a == b,
        ast.NotEq: a != b,
    }
    return outcomes[type(operator)]


def arithmetic(node: ast.expr, row: Row) -> float:
    """Evaluate a number, rounding after every operation."""
    match node:
        case ast.Constant(value=float(value)):
            return round_to_float32(value)
        case ast.Name(id=name):
            return row[name]
        case ast.UnaryOp(operand=operand):
            return -arithmetic(operand, row)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return round_to_float32(arithmetic(left, row) + arithmetic(right, row))
        case ast.BinOp(op=ast.Mult(), left=left, right=right):
            return round_to_float32(arithmetic(left, row) * arithmetic(right, row))
    raise AssertionError(ast.dump(node))


def holds(expression: Expression, row: Row) -> bool:
    """Evaluate a typed tree with IEEE comparisons, in which NaN fails."""
    match expression:
        case Truth(value=value):
            return value
        case Flag(operand=operand, negated=negated):
            return bool(row[operand.name]) is not negated
        case Comparison(operator=operator, left=left, right=right):
            a, b = quantity(left, row), quantity(right, row)
            return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b}[operator]
        case All(operands=operands):
            return all(holds(operand, row) for operand in operands)
        case Any(operands=operands):
            return any(holds(operand, row) for operand in operands)


def quantity(value: Value, row: Row) -> float:
    """Evaluate a typed number."""
    match value:
        case Constant(value=constant):
            return constant
        case Field(name=name) | LimitRef(name=name):
            return row[name]
        case Negative(operand=operand):
            return -quantity(operand, row)
        case Arithmetic(operator=operator, left=left, right=right):
            a, b = quantity(left, row), quantity(right, row)
            return round_to_float32(a + b if operator == "+" else a * b)


literals = st.sampled_from(["0.0", "1.0", "0.1", "3.5", "1e-30"])
names = st.sampled_from(NUMBERS)


def _sum(parts: tuple[str, str, str]) -> str:
    return f"({parts[0]} {parts[1]} {parts[2]})"


terms = st.recursive(
    names,
    lambda inner: (
        st.tuples(inner, st.sampled_from("+*"), inner | literals).map(_sum)
        | inner.map(lambda one: f"-{one}")
    ),
    max_leaves=3,
)
signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
comparisons = st.tuples(terms, signs, terms | literals).map(" ".join)
chains = st.tuples(terms, signs, names, signs, terms | literals).map(" ".join)
conditions = st.recursive(
    comparisons | chains | st.sampled_from(FLAGS),
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(_sum)
        | inner.map(lambda one: f"not ({one})")
    ),
    max_leaves=8,
)
values = st.sampled_from([math.nan, 0.0, -0.0, 1.0, 0.1, 3.5, -8.0, 8.0]).map(round_to_float32)
rows = st.fixed_dictionaries(
    {
        "a": values,
        "b": values,
        "c": st.sampled_from([1.0, 3.5, 4.0]),
        "p": st.sampled_from([0.0, 1.0]),
        "q": st.sampled_from([0.0, 1.0]),
    }
)


@settings(deadline=None)
@given(conditions, rows)
def test_a_normal_form_holds_where_kleene_says_true(text: str, row: Row) -> None:
    """Pushing `not` down keeps the meaning: unknown is never taken as true."""
    written = ast.parse(text, mode="eval").body
    assert holds(tree(text), row) is (kleene(written, row) is True)


@settings(deadline=None)
@given(conditions, rows)
def test_a_verdict_is_never_wrong(text: str, row: Row) -> None:
    """Where intervals say always or never, so does every row in range."""
    expression = tree(text)
    known = verdict(expression, SYMBOLS.ranges)
    assert known is None or holds(expression, row) is known
