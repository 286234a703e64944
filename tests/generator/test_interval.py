"""Ranges of arithmetic hold every result, and what could overflow or divide by zero is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasmina_generator.expression import (
    Any,
    Comparison,
    ComparisonOperator,
    Constant,
    Field,
    Flag,
    Truth,
)
from kasmina_generator.interval import (
    Range,
    RangeError,
    combine,
    compare,
    negate,
    range_of,
    verdict,
)
from kasmina_generator.number import LARGEST_FLOAT32

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
integers = st.integers(-(1 << 31), (1 << 31) - 1)
operators = st.sampled_from(["+", "-", "*", "/"])


@st.composite
def range_and_member(draw: st.DrawFn, numbers: st.SearchStrategy[float]) -> tuple[Range, float]:
    """Return a range and a value inside it."""
    low, value, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    return Range(low, high), value


@given(range_and_member(floats), range_and_member(floats), operators)
def test_a_float_range_holds_every_result(
    left: tuple[Range, float], right: tuple[Range, float], operator: str
) -> None:
    """What numpy computes in float32 lies inside, and is finite."""
    try:
        found = combine(operator, left[0], right[0], "float32")  # type: ignore[arg-type]
    except RangeError:
        return
    a, b = np.float32(left[1]), np.float32(right[1])
    result = float(
        {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}[operator](a, b)
    )
    assert math.isfinite(result)
    assert found.low <= result <= found.high


@given(range_and_member(integers), range_and_member(integers), st.sampled_from(["+", "-", "*"]))
def test_an_integer_range_holds_every_result(
    left: tuple[Range, float], right: tuple[Range, float], operator: str
) -> None:
    """What int32 computes lies inside, and did not wrap."""
    try:
        found = combine(operator, left[0], right[0], "int32")  # type: ignore[arg-type]
    except RangeError:
        return
    a, b = left[1], right[1]
    result = {"+": a + b, "-": a - b, "*": a * b}[operator]
    assert found.low <= result <= found.high
    assert -(1 << 31) <= result < 1 << 31


@pytest.mark.parametrize(
    ("operator", "left", "right", "dtype", "message"),
    [
        ("/", Range(1.0, 2.0), Range(-1.0, 1.0), "float32", "divide by zero: the divisor is in [-1, 1]"),
        ("/", Range(1.0, 2.0), Range(0.0, 0.0), "float32", "divide by zero: the divisor is in [0, 0]"),
        ("/", Range(1.0, 2.0), Range(1e-45, 1.0), "float32", "overflow float32: the result is in [1, inf]"),
        ("*", Range(0.0, 1e20), Range(0.0, 1e20), "float32", "overflow float32: the result is in [0, inf]"),
        ("+", Range(0.0, math.inf), Range(0.0, 1.0), "float32", "overflow float32: [0, inf] + [0, 1]"),
        ("-", Range(-2, 2), Range(-(1 << 31), 0), "int32",
         "overflow int32: the result is in [-2, 2.14748e+09]"),
        ("*", Range(0, 1 << 16), Range(0, 1 << 15), "int32",
         "overflow int32: the result is in [0, 2.14748e+09]"),
    ],
)  # fmt: skip
def test_unsafe_arithmetic_is_refused(
    operator: str, left: Range, right: Range, dtype: str, message: str
) -> None:
    """The message has the ranges."""
    with pytest.raises(RangeError) as caught:
        combine(operator, left, right, dtype)  # type: ignore[arg-type]
    assert str(caught.value) == f"may {message}"


def test_a_product_that_underflows_holds_zero() -> None:
    """A divisor may become zero by rounding."""
    assert combine("*", Range(1e-30, 1.0), Range(1e-30, 1.0), "float32").low == 0.0
    assert combine("*", Range(1.0, 2.0), Range(1.0, 2.0), "float32") == Range(1.0, 4.0)


def test_a_sign_may_leave_the_integers_only() -> None:
    """The least int32 has no opposite; an infinite range has one."""
    with pytest.raises(RangeError, match="may overflow int32"):
        negate(Range(-(1 << 31), 0), "int32")
    assert negate(Range(-math.inf, LARGEST_FLOAT32), "float32") == Range(-LARGEST_FLOAT32, math.inf)


@given(
    range_and_member(floats),
    range_and_member(floats),
    st.sampled_from(["<", "<=", ">", ">=", "=="]),
)
def test_a_known_comparison_is_never_wrong(
    left: tuple[Range, float], right: tuple[Range, float], operator: ComparisonOperator
) -> None:
    """Where ranges decide, so does every pair of values."""
    known = compare(operator, left[0], right[0])
    a, b = left[1], right[1]
    outcome = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b}[operator]
    assert known is None or known is outcome


def test_nan_is_never_certain() -> None:
    """What may be NaN may fail any comparison, and still never holds where it cannot."""
    assert compare(">=", Range(1.0, 2.0, nan=True), Range(0.0, 0.0)) is None
    assert compare("<", Range(1.0, 2.0, nan=True), Range(0.0, 0.0)) is False


def test_a_flag_depends() -> None:
    """A bool has no range."""
    flag = Flag(Field("p", "bool"), negated=False)
    assert verdict(flag, {}) is None
    assert verdict(Any((flag, Truth(True))), {}) is True
    one = Constant(1, "int32")
    assert verdict(Any((Comparison(">", one, one), Truth(False))), {}) is False
    assert range_of(Field("x", "int32"), {"x": Range(0, 3)}) == Range(0, 3)
