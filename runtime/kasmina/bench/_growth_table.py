"""Means, intervals, the table and the picture of the growth benchmark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from kasmina.bench import Row
from kasmina.bench._growth_arms import Outcome

Z975 = 1.959964


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with the ends of its two-sided 95% interval, and of how many values."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return self.told()

    def told(self, form: str = ".2f") -> str:
        """The mean, and the ends where there is more than one value."""
        ends = f" ({self.low:{form}} to {self.high:{form}})" if self.n > 1 else ""
        return f"{self.mean:{form}}{ends}"


def interval(values: Sequence[float]) -> Interval:
    """Student's interval of the mean; without ends for a single value."""
    mean, n = fmean(values), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = student(n - 1) * stdev(values) / n**0.5
    return Interval(mean, mean - half, mean + half, n)


def student(freedom: int) -> float:
    """The 97.5% quantile of Student's t, to 0.5% from 4 degrees of freedom on.

    The expansion of Abramowitz & Stegun 26.7.5.
    """
    if freedom <= 3:
        return (12.7062, 4.3027, 3.1824)[freedom - 1]
    z = Z975
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))


class Results:
    """Outcomes by task and arm."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes = sorted(outcomes, key=lambda each: (each.task, each.arm, each.seed))

    def tasks(self) -> list[str]:
        """The subjects that have outcomes."""
        return list(dict.fromkeys(each.task for each in self.outcomes))

    def arms(self, task: str) -> list[str]:
        """The arms of a task."""
        return list(dict.fromkeys(each.arm for each in self.outcomes if each.task == task))

    def of(self, task: str, arm: str) -> dict[int, Outcome]:
        """The outcomes of an arm, by seed."""
        return {o.seed: o for o in self.outcomes if (o.task, o.arm) == (task, arm)}

    def paired(self, task: str, arm: str, other: str, what: str = "test") -> Interval | None:
        """The interval of `arm` minus `other` over the seeds that both have; in percent or nats."""
        one, two = self.of(task, arm), self.of(task, other)
        scale = 1 if what == "loss" else 100
        seeds = sorted(one.keys() & two.keys())
        if not seeds:
            return None
        return interval([scale * (getattr(one[s], what) - getattr(two[s], what)) for s in seeds])


def grew_nothing(outcome: Outcome) -> bool:
    """Whether it is of a run that may grow, and no seed of it was kept."""
    return bool(outcome.facts) and not outcome.facts["ended"].get("FOSSILIZED", 0)


def table(results: Results, base: str) -> str:
    """Markdown: every arm of every task, and what `base` is better by at the same seeds."""
    names = ("task", "arm", "seeds", "test %", "loss", "parameters", "GFLOP", "wall s")
    heads = (*names, f"{base} minus this, points")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for task in results.tasks():
        for arm in results.arms(task):
            found = list(results.of(task, arm).values())
            test = interval([100 * each.test for each in found])
            gap = None if arm == base else results.paired(task, base, arm)
            bare = sum(map(grew_nothing, found))
            cells = [
                task,
                f"{arm}, of which {bare} grew nothing" if bare else arm,
                f"{test.n}",
                str(test),
                f"{fmean(each.loss for each in found):.3f}",
                f"{fmean(each.parameters for each in found):.0f}",
                f"{fmean(each.flops for each in found) / 1e9:.1f}",
                f"{fmean(each.wall_s for each in found):.1f}",
                "" if gap is None else gap.told("+.2f"),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def targets(rows: Iterable[Row]) -> str:
    """Markdown: every figure, its target and whether it was met."""
    lines = ["| what | figure | target | met | beside it |", "|---|---|---|---|---|"]
    for row in rows:
        target = "" if row.target is None else f"{row.op} {row.target:g} {row.unit}".strip()
        met = {None: "", True: "yes", False: "**no**"}[row.met]
        beside = "; ".join(f"{name} {value:.4g}" for name, value in row.baselines.items())
        figure = f"{row.value:.4g} {row.unit}".strip()
        lines.append(f"| {row.name} | {figure} | {target} | {met} | {beside} |")
    return "\n".join(lines) + "\n"


COLOURS = ("#1f6feb", "#d1242f", "#9a6700", "#6e7781", "#1a7f37", "#8250df", "#bf3989", "#0a7ea4")
WIDTH, HEIGHT, GAP, LEGEND = 380, 260, 60, 150


def picture(results: Results, arms: Mapping[str, str]) -> str:
    """SVG: validation metric over the FLOPs spent, one panel a task, the mean of all seeds.

    Args:
        results: what was measured.
        arms: the arms to draw, by name, and what each is called.
    """
    panels = [
        _panel(results, task, list(arms), GAP + place * (WIDTH + GAP))
        for place, task in enumerate(results.tasks())
    ]
    width = GAP + len(panels) * (WIDTH + GAP)
    legend = "".join(
        f'<text x="{GAP + 12}" y="{HEIGHT + 2 * GAP + 16 * n}" fill="{COLOURS[n % 8]}">'
        f"&#9644; {name}</text>"
        for n, name in enumerate(arms.values())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + GAP + LEGEND + GAP}"'
        f' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(panels)}{legend}</svg>\n"
    )


def _panel(results: Results, task: str, arms: list[str], left: float) -> str:
    curves = {arm: _mean_curve(list(results.of(task, arm).values())) for arm in arms}
    points = [point for curve in curves.values() for point in curve if point[0] > 0]
    if not points:
        return ""
    xs, ys = zip(*((math.log10(x), y) for x, y in points), strict=True)
    (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(ys), max(ys))

    def place(x: float, y: float) -> str:
        across = left + WIDTH * (math.log10(x) - x0) / max(x1 - x0, 1e-9)
        down = GAP + HEIGHT * (1 - (y - y0) / max(y1 - y0, 1e-9))
        return f"{across:.1f},{down:.1f}"

    drawn = []
    for n, arm in enumerate(arms):
        path = " ".join(place(x, y) for x, y in curves[arm] if x > 0)
        drawn.append(
            f'<polyline fill="none" stroke="{COLOURS[n % 8]}" stroke-width="2" points="{path}"/>'
        )
    axes = (
        f'<rect x="{left}" y="{GAP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
        f'<text x="{left}" y="{GAP - 10}" font-size="14">{task}</text>'
        f'<text x="{left - 6}" y="{GAP + 10}" text-anchor="end">{100 * y1:.0f}%</text>'
        f'<text x="{left - 6}" y="{GAP + HEIGHT}" text-anchor="end">{100 * y0:.0f}%</text>'
        f'<text x="{left}" y="{GAP + HEIGHT + 16}">{10**x0 / 1e9:.2g}</text>'
        f'<text x="{left + WIDTH}" y="{GAP + HEIGHT + 16}" text-anchor="end">'
        f"{10**x1 / 1e9:.3g} GFLOP (log)</text>"
    )
    return axes + "".join(drawn)


def _mean_curve(outcomes: list[Outcome]) -> list[tuple[float, float]]:
    """The mean over the seeds, epoch by epoch, as far as all of them go."""
    curves = [each.curve for each in outcomes if each.curve]
    if not curves:
        return []
    return [
        (fmean(c[n][0] for c in curves), fmean(c[n][1] for c in curves))
        for n in range(min(map(len, curves)))
    ]
