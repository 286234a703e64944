"""The plots of a report, from a story: score, loss, parameters, and the lanes of the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kasmina.observe.drawing import (
    Panel,
    Tick,
    across,
    apart,
    draw,
    fit,
    level,
    rounded,
    ticks,
)
from kasmina.observe.record import SeedKey, site_name
from kasmina.observe.story import Curve, Lane, Span, Story

MOST_LANES = 60


@dataclass(frozen=True, slots=True)
class Bar:
    """A stay in a state, as a bar of a lane."""

    left: float  # per cent
    width: float
    state: str
    hover: str
    thin: bool  # the seed held no blueprint


@dataclass(frozen=True, slots=True)
class LaneRow:
    """One seed's lane."""

    name: str
    bars: tuple[Bar, ...]
    state: str  # at the end
    outcome: str


def panels(story: Story) -> list[Panel]:
    """Return the plots above the lanes, top to bottom."""
    return [_score(story), _loss(story), _parameters(story)] if story.epochs else []


def work_ticks(story: Story, most: int = 8) -> list[Tick]:
    """Round numbers of steps along the shared axis."""
    return [Tick(across(at, story.end), f"{at:,g}") for at in rounded(0, story.end, most)]


def lanes(story: Story) -> tuple[list[LaneRow], int]:
    """Return the lanes of the seeds that ever left the initial state, and how many are not shown.

    Where there are too many, those that held a blueprint come first.
    """
    order = sorted(story.lanes, key=lambda lane: (lane not in story.blueprints, lane))
    shown = sorted(order[:MOST_LANES])
    return [_lane(story, lane) for lane in shown], len(order) - len(shown)


def _score(story: Story) -> Panel:
    name = metric_name(story)
    grown = story.curve("grown", "validation_metric")
    others = [_compared(record["name"], record["curve"]) for record in story.comparisons]
    scale = fit((value for curve in (grown, *others) for _, value in curve.points), floor=0.0)
    styles = [f"static-{index % 3}" for index in range(len(others))]
    lines = [
        draw(curve, scale, story.end, style) for curve, style in zip(others, styles, strict=True)
    ]
    labels = [
        (scale.place(curve.last), f"{curve.name} {percent(curve.last)}", style)
        for curve, style in [*zip(others, styles, strict=True), (grown, "grown")]
        if math.isfinite(curve.last)
    ]
    return Panel(
        key="score",
        title=f"Validation {name}",
        note="",
        height=210,
        ticks=ticks(scale, 5, "{:.0%}")
        if scale.high - scale.low > 0.05
        else ticks(scale, 4, "{:.1%}"),
        lines=(*lines, draw(grown, scale, story.end, "grown")),
        labels=apart(labels, 210),
    )


def _loss(story: Story) -> Panel:
    train, validation = (
        story.curve("train", "train_loss"),
        story.curve("validation", "validation_loss"),
    )
    values = [value for curve in (train, validation) for _, value in curve.points]
    scale = fit(values, floor=0.0 if min(values, default=0) >= 0 else None, logarithmic=True)
    labels = [
        (scale.place(curve.last), f"{curve.name} {curve.last:.3g}", style)
        for curve, style in ((train, "train"), (validation, "grown"))
        if math.isfinite(curve.last)
    ]
    return Panel(
        key="loss",
        title="Loss",
        note="nats" + (", logarithmic" if scale.logarithmic else ""),
        height=150,
        ticks=ticks(scale, 4),
        lines=(
            draw(train, scale, story.end, "train"),
            draw(validation, scale, story.end, "grown"),
        ),
        labels=apart(labels, 150),
    )


def _parameters(story: Story) -> Panel:
    curve = Curve("parameters", tuple((at, float(value)) for at, value in story.parameters))
    highest = max(value for _, value in curve.points)
    budget = math.inf if story.start is None else float(story.start["budget"] or math.inf)
    near = budget <= 4 * highest  # a far one would flatten the curve
    scale = fit([0.0, highest, *([budget] if near else [])], floor=0.0)
    lines = [draw(curve, scale, story.end, "grown", steps=True)]
    labels = [(scale.place(curve.last), f"{curve.last:,.0f}", "grown")]
    if near:
        lines.insert(0, level(budget, scale, "budget", "budget"))
        labels.append((scale.place(budget), f"budget {budget:,.0f}", "budget"))
    return Panel(
        key="parameters",
        title="Parameters",
        note="" if near or budget == math.inf else f"budget {budget:,.0f}, off the scale",
        height=110,
        ticks=ticks(scale, 3),
        lines=tuple(lines),
        labels=apart(labels, 110),
    )


def _compared(name: str, points: Sequence[Sequence[float | str]]) -> Curve:
    return Curve(name, tuple((int(step), float(value)) for step, value in points))


def metric_name(story: Story) -> str:
    """What the run calls its metric."""
    return "score" if story.start is None else str(story.start.get("metric", "score"))


def percent(value: float) -> str:
    """A metric as one reads it."""
    return f"{value:.1%}" if math.isfinite(value) else "-"


def _lane(story: Story, lane: Lane) -> LaneRow:
    spans = story.lanes[lane]
    bars = tuple(
        bar for span in spans if span.state != story.initial for bar in _bars(story, lane, span)
    )
    last = spans[-1]
    kind = "" if last.state == story.initial else story.blueprints.get(lane, "")
    outcome = last.state.lower().replace("_", " ")
    return LaneRow(
        f"{site_name(lane[0])}[{lane[1]}]", bars, last.state, f"{outcome} {kind}".strip()
    )


def _bars(story: Story, lane: Lane, span: Span) -> Iterator[Bar]:
    """One bar, or up to three where the seed took or gave back a blueprint in the state."""
    end = story.end if span.end is None else span.end
    begun = end if span.holds_from is None else span.holds_from
    ended = end if span.holds_to is None else span.holds_to
    hover = _hover(story, lane, span)
    for left, right, thin in ((span.start, begun, True), (begun, ended, False), (ended, end, True)):
        if right > left:
            width = across(right - left, story.end)
            yield Bar(round(across(left, story.end), 3), round(width, 3), span.state, hover, thin)


def _hover(story: Story, lane: Lane, span: Span) -> str:
    end = story.end if span.end is None else span.end
    until = "the end" if span.end_epoch is None else f"epoch {span.end_epoch}"
    reason = f": {span.reason}" if span.reason else ""
    return (
        f"{SeedKey(*lane, span.generation)} {span.state}\n"
        f"epoch {span.epoch} to {until}, steps {span.start:,} to {end:,}\n{span.event}{reason}"
    )
