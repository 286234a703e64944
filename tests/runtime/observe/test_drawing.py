"""Axes, curves and labels as numbers."""

from __future__ import annotations

import itertools
import math

import pytest

from kasmina.observe.drawing import LABEL_HEIGHT, Scale, apart, decades, draw, fit, rounded, ticks
from kasmina.observe.story import Curve


@pytest.mark.parametrize(
    ("low", "high", "most", "expected"),
    [
        (0, 1140, 8, [0, 200, 400, 600, 800, 1000]),
        (0.37, 0.97, 5, [0.4, 0.6, 0.8]),
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3, 3, 3, [-2, 0, 2]),
        (0, 0, 8, [0]),
        (1e9, 3e9, 4, [1e9, 1.5e9, 2e9, 2.5e9, 3e9]),
    ],
)
def test_ticks_are_round(low: float, high: float, most: int, expected: list[float]) -> None:
    """Multiples of 1, 2 or 5 times a power of ten, inside the axis."""
    assert rounded(low, high, most) == pytest.approx(expected)


def test_a_scale_runs_down() -> None:
    """The highest value is at the top; what lies outside is kept at the edge."""
    scale = Scale(0.0, 10.0)
    assert [scale.place(value) for value in (10, 5, 0, -3, 99)] == [0, 50, 100, 100, 0]
    assert Scale(1.0, 100.0, logarithmic=True).place(10) == pytest.approx(50)


@pytest.mark.parametrize(
    ("values", "logarithmic"),
    [([0.1, 1.0], False), ([0.001, 1.0], True), ([0.0, 1.0], False), ([-1.0, 1.0], False)],
)
def test_a_logarithm_is_taken_where_it_helps(values: list[float], logarithmic: bool) -> None:
    """Positive values that are far apart."""
    assert fit(values, logarithmic=True).logarithmic == logarithmic


@pytest.mark.parametrize("values", [[], [math.nan], [0.0], [5.0, 5.0], [math.inf, 2.0], [1e300]])
def test_an_axis_is_never_empty(values: list[float]) -> None:
    """Nothing, one value and values that are not finite still give an axis with ticks."""
    scale = fit(values)
    assert scale.high > scale.low
    assert all(math.isfinite(tick.at) for tick in ticks(scale, 4))


def test_the_floor_is_kept() -> None:
    """Counts and shares do not get air below zero."""
    assert fit([0.0, 1.0], floor=0.0).low == 0.0


def test_decades_have_steps_between_where_they_are_few() -> None:
    """2 and 5 stand between on a short axis only."""
    assert decades(Scale(0.5, 30.0, logarithmic=True)) == [0.5, 1, 2, 5, 10, 20]
    assert decades(Scale(0.0005, 30.0, logarithmic=True)) == pytest.approx(
        [0.001, 0.01, 0.1, 1, 10]
    )


def test_a_curve_is_interrupted_where_it_is_not_finite() -> None:
    """Gaps are told by their places, and a point that stands alone is a dot."""
    points = ((0, 0.0), (10, 10.0), (20, math.nan), (30, 5.0), (40, math.inf))
    line = draw(Curve("loss", points), Scale(0.0, 10.0), 40, "train")
    assert line.path == "M0.0 1000.0L250.0 0.0M750.0 500.0"
    assert line.dots == ((75.0, 50.0),)
    assert line.missing == (50.0, 100.0)


def test_a_count_is_held_until_it_changes() -> None:
    """Steps are drawn with a corner."""
    line = draw(Curve("n", ((0, 0.0), (10, 10.0))), Scale(0.0, 10.0), 10, "grown", steps=True)
    assert line.path == "M0.0 1000.0H1000.0V0.0"


def test_the_last_value_is_the_last_finite_one() -> None:
    """And NaN where there is none."""
    assert Curve("a", ((0, 1.0), (1, math.nan))).last == 1.0
    assert math.isnan(Curve("a", ()).last)


@pytest.mark.parametrize("places", [[50, 50, 50], [98, 99, 100], [0, 1, 2], [0, 100]])
def test_labels_keep_apart_and_inside(places: list[float]) -> None:
    """Each in its order, none over another, none below the plot."""
    labels = apart([(place, str(index), "grown") for index, place in enumerate(places)], 100)
    tops = [label.top for label in labels]
    assert [label.text for label in labels] == [str(index) for index in range(len(places))]
    assert all(after - before >= LABEL_HEIGHT for before, after in itertools.pairwise(tops))
    assert tops[-1] <= 100
    assert apart([], 100) == ()
