"""Curves and lanes as numbers for a page: places in per cent, SVG paths, labels that keep apart.

Nothing here knows HTML. x runs over work, 0 to 100 per cent of the plot's width; y runs down the
plot, 0 to 100 per cent of its height.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from kasmina.observe.story import Curve

LABEL_HEIGHT = 15.0  # pixels that a label beside a curve needs
VIEW = 1000  # units of an SVG view box along each axis, stretched to the plot


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    at: float  # per cent
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A curve ready to be drawn."""

    name: str
    style: str  # a class of the page's style sheet
    path: str  # SVG path data in the view box
    dots: tuple[tuple[float, float], ...] = ()  # points that stand alone, per cent
    missing: tuple[float, ...] = ()  # x of the points that are not finite, per cent


@dataclass(frozen=True, slots=True)
class Label:
    """A name beside the end of a curve."""

    top: float  # pixels
    text: str
    style: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot of the stack that shares the work axis."""

    key: str
    title: str
    note: str
    height: int  # pixels
    ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear or logarithmic axis from the bottom of a plot to its top."""

    low: float
    high: float
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value is, in per cent from the top, kept inside of the plot."""
        low, high, value = (self._warp(each) for each in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return 100.0 * (1.0 - min(max(share, 0.0), 1.0))

    def _warp(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.logarithmic else value


def fit(values: Iterable[float], *, floor: float | None = None, logarithmic: bool = False) -> Scale:
    """Return the axis that holds the values, with a little air.

    Args:
        values: those that are not finite are passed over.
        floor: the lowest value that the axis may show.
        logarithmic: asked for; taken only where all values are positive and far apart.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if logarithmic and low > 0 and high / low > 20:
        return Scale(low / 1.15, high * 1.15, logarithmic=True)
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    low = low - air if floor is None else max(low - air, floor)
    return Scale(low, high + air)


def ticks(scale: Scale, most: int, text: str = "{:,g}") -> tuple[Tick, ...]:
    """Round values along an axis, about `most` of them."""
    values = decades(scale) if scale.logarithmic else rounded(scale.low, scale.high, most)
    return tuple(Tick(scale.place(value), text.format(value)) for value in values)


def rounded(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two values."""
    if not high > low:
        return [low]
    least = (high - low) / most
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(index * step, digits) for index in range(first, last + 1)]


def decades(scale: Scale) -> list[float]:
    """Powers of ten on a logarithmic axis, with 2 and 5 between where there are few."""
    low, high = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
    factors = (1, 2, 5) if scale.high <= 100 * scale.low else (1,)
    values = [10.0**power * factor for power in range(low, high + 1) for factor in factors]
    return [value for value in values if scale.low <= value <= scale.high]


def draw(curve: Curve, scale: Scale, end: int, style: str, *, steps: bool = False) -> Line:
    """Return a curve's path; it is interrupted where a value is not finite.

    Args:
        curve: what to draw.
        scale: of the y axis.
        end: work at the right edge.
        style: class of the style sheet.
        steps: hold each value until the next one, as a count does.
    """
    path, dots = "", []
    for known, group in groupby(curve.points, key=lambda point: math.isfinite(point[1])):
        places = [(across(at, end), scale.place(value)) for at, value in group if known]
        if len(places) == 1:
            dots.append(places[0])
        path += _path(places, steps)
    missing = tuple(across(at, end) for at, value in curve.points if not math.isfinite(value))
    return Line(curve.name, style, path, tuple(dots), missing)


def _path(places: Sequence[tuple[float, float]], steps: bool) -> str:
    """SVG path data through places in per cent."""
    units = [(f"{x * VIEW / 100:.1f}", f"{y * VIEW / 100:.1f}") for x, y in places]
    lines = [f"H{x}V{y}" if steps else f"L{x} {y}" for x, y in units[1:]]
    return "".join([f"M{x} {y}" for x, y in units[:1]] + lines)


def level(value: float, scale: Scale, name: str, style: str) -> Line:
    """A line over the whole width at one value."""
    y = scale.place(value) * VIEW / 100
    return Line(name, style, f"M0 {y:.1f}H{VIEW}")


def across(at: float, end: int) -> float:
    """Per cent of the width for a place in work."""
    return 100.0 * at / end if end else 0.0


def apart(wanted: Sequence[tuple[float, str, str]], height: int) -> tuple[Label, ...]:
    """Place labels near where they belong, without two on one another.

    Args:
        wanted: per cent from the top, text, style.
        height: of the plot, pixels.
    """
    tops: list[float] = []
    ordered = sorted(wanted, key=lambda each: each[0])
    for percent, _, _ in ordered:
        top = percent * height / 100
        tops.append(max(top, tops[-1] + LABEL_HEIGHT) if tops else max(top, 0.0))
    overshoot = tops[-1] - height if tops else 0.0
    for index in reversed(range(len(tops))):  # push back up what ran out at the bottom
        limit = tops[index + 1] - LABEL_HEIGHT if index + 1 < len(tops) else float(height)
        tops[index] = min(tops[index], limit) if overshoot > 0 else tops[index]
    return tuple(
        Label(round(top, 1), text, style)
        for top, (_, text, style) in zip(tops, ordered, strict=True)
    )
