"""A machine as an SVG picture that needs nothing else, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from kasmina_generator.emit.diagram import arrows, common_edges
from kasmina_generator.emit.placing import Link, Placing, Point, Route, Size, place
from kasmina_generator.emit.wording import passes, stay
from kasmina_generator.model import Edge, Spec, State

MARGIN = 28.0
LINE = 15.0  # of small text
_NAME, _SMALL = 13.5, 11.5  # font sizes
_LONGEST = 24  # characters of a line on an arrow

# Fill and line of each value of the first attribute; Okabe and Ito's hues, lightened and darkened.
_LIGHT = (
    *(("#eef1f3", "#8595a0"), ("#d6ebf8", "#3f8fc0"), ("#ffe8bf", "#cf8a00")),
    *(("#cdeedd", "#1b946a"), ("#f9d6de", "#c25b7c"), ("#e9e0f6", "#8a6bb8")),
    *(("#fff5b8", "#a89a10"), ("#e2d9d0", "#8d7865")),
)
_DARK = (
    *(("#2b333b", "#8494a3"), ("#17394f", "#5fb2e3"), ("#4a3510", "#eaa83a")),
    *(("#123f31", "#3fbd90"), ("#4b2433", "#e58aa6"), ("#382b52", "#b49ae0")),
    *(("#45400f", "#d4c84a"), ("#3d342c", "#b8a08a")),
)


@dataclass(frozen=True, slots=True)
class _Label:
    """Text of several lines, and what is told when a pointer rests on it."""

    lines: tuple[str, ...]
    title: str

    @property
    def size(self) -> Size:
        return Size(max(_width(line, _SMALL) for line in self.lines) + 12, LINE * len(self.lines))


def svg(spec: Spec) -> str:
    """Return the machine as one SVG document.

    Boxes are states, coloured by their first attribute; an end has a double frame. Arrows that
    re-arm a slot are dashed. What every state does alike is written at its target.
    """
    return "\n".join(_Drawing(spec).lines()) + "\n"


class _Drawing:
    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        common = common_edges(spec)
        self.from_all = {
            state.name: tuple(dict.fromkeys(e.event for e in common if e.target == state.name))
            for state in spec.states
        }
        self.own = [edge for edge in spec.edges if edge not in common]
        drawn = arrows(self.own)
        self.loops = [arrow for arrow in drawn if arrow.source == arrow.target]
        self.arrows = [arrow for arrow in drawn if arrow.source != arrow.target]
        self.labels = [self._label(arrow.source, arrow.target) for arrow in self.arrows]
        self.placing = self._place()

    def _place(self) -> Placing:
        first = [state for state in self.spec.states if state.name == self.spec.initial]
        rest = [state for state in self.spec.states if state.name != self.spec.initial]
        boxes = {state.name: self._box_size(state) for state in [*first, *rest]}
        links = [
            Link(arrow.source, arrow.target, label.size)
            for arrow, label in zip(self.arrows, self.labels, strict=True)
        ]
        return place(boxes, links)

    def _box_size(self, state: State) -> Size:
        texts = [_width(line, _SMALL) for line in self._small(state)]
        width = max(_width(state.name, _NAME, bold=True), *texts) + 28
        return Size(width, 30 + LINE * len(texts))

    def _small(self, state: State) -> list[str]:
        """Return what stands under a state's name."""
        first = dict(state.attributes).get(self.spec.attributes[0].name) if state.attributes else ""
        epochs = "" if state.terminal else f"{stay(state)} epochs"
        told = " · ".join(part for part in (first, epochs) if part)
        events = self.from_all[state.name]
        from_all = f"← {', '.join(events)} from all" if events else ""
        return [line for line in (told or "end", from_all) if line]

    def _label(self, source: str, target: str) -> _Label:
        edges = [edge for edge in self.own if (edge.source, edge.target) == (source, target)]
        title = "\n".join(f"{e.event}: {_passes(self.spec, e)} ({e.place})" for e in edges)
        return _Label(tuple(_wrapped(list(dict.fromkeys(e.event for e in edges)))), title)

    def lines(self) -> Iterator[str]:
        legend = list(self._legend())
        title = f"{self.spec.name}, version {self.spec.version}"
        loops = max((_width(", ".join(a.events), _SMALL) + 60 for a in self.loops), default=0.0)
        wide = [
            self.placing.size.width + loops,
            _width(title, 16, bold=True),
            _legend_width(legend),
        ]
        width, top = max(wide) + 2 * MARGIN, MARGIN + 58
        height = top + self.placing.size.height + 36 + 20 * len(legend) + MARGIN
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" '
            f'width="{_n(width)}" height="{_n(height)}" role="img" aria-label="{escape(title)}">'
        )
        yield f"<title>{escape(title)}</title>"
        yield from _style(sorted({0, *map(self._colour, self.spec.states)}))
        yield f'<rect class="page" width="{_n(width)}" height="{_n(height)}"/>'
        yield f'<text class="title" x="{_n(MARGIN)}" y="{_n(MARGIN + 12)}">{escape(title)}</text>'
        left = (width - self.placing.size.width - loops) / 2
        yield f'<g transform="translate({_n(left)} {_n(top)})">'
        yield from self._body()
        yield "</g>"
        yield f'<g transform="translate({_n(MARGIN)} {_n(height - 20 * len(legend) - MARGIN + 8)})">'
        for row, items in enumerate(legend):
            yield from _legend_row(items, 20 * row)
        yield "</g>"
        yield "</svg>"

    def _body(self) -> Iterator[str]:
        start = self.placing.boxes[self.spec.initial]
        size = self._box_size(self._state(self.spec.initial))
        top = start.y - size.height / 2
        yield f'<circle class="start" cx="{_n(start.x)}" cy="{_n(top - 26)}" r="5"/>'
        yield _path([Point(start.x, top - 21), Point(start.x, top)], "arrow")
        for arrow, route in zip(self.arrows, self.placing.routes, strict=True):
            again = all(edge.recycle for edge in self._between(arrow.source, arrow.target))
            yield _path(route.points, "arrow again" if again else "arrow")
        for label, route in zip(self.labels, self.placing.routes, strict=True):
            yield from _written(label, route)
        for state in self.spec.states:
            yield from self._box(state)
        for loop in self.loops:
            yield from self._loop(loop.source)

    def _between(self, source: str, target: str) -> list[Edge]:
        return [edge for edge in self.own if (edge.source, edge.target) == (source, target)]

    def _state(self, name: str) -> State:
        return next(state for state in self.spec.states if state.name == name)

    def _box(self, state: State) -> Iterator[str]:
        middle, size = self.placing.boxes[state.name], self._box_size(state)
        left, top = middle.x - size.width / 2, middle.y - size.height / 2
        colour = f"box c{self._colour(state)}"
        yield f"<g><title>{escape(f'{state.name} ({state.place}): {state.meaning}')}</title>"
        yield _rect(left, top, size, 9, colour)
        if state.terminal:
            inner = Size(size.width - 7, size.height - 7)
            yield _rect(left + 3.5, top + 3.5, inner, 6, f"{colour} inner")
        yield _text(middle.x, top + 20, state.name, "name")
        for row, line in enumerate(self._small(state)):
            yield _text(middle.x, top + 36 + LINE * row, line, "small")
        yield "</g>"

    def _loop(self, name: str) -> Iterator[str]:
        middle, size = self.placing.boxes[name], self._box_size(self._state(name))
        x, y = middle.x + size.width / 2, middle.y
        yield (
            f'<path class="arrow" d="M{_n(x)} {_n(y - 8)} C{_n(x + 30)} {_n(y - 22)} '
            f'{_n(x + 30)} {_n(y + 22)} {_n(x)} {_n(y + 8)}" marker-end="url(#head)"/>'
        )
        label = self._label(name, name)
        at = Point(x + 26 + label.size.width / 2, y)
        yield from _written(label, Route((), at))

    def _values(self) -> list[tuple[int, str, str]]:
        """Return code, name and meaning of the first attribute's values in use."""
        if not self.spec.attributes:
            return []
        attribute = self.spec.attributes[0]
        used = {dict(state.attributes)[attribute.name] for state in self.spec.states}
        return [(v.code, v.name, v.meaning) for v in attribute.values if v.name in used]

    def _colour(self, state: State) -> int:
        if not self.spec.attributes:
            return 0
        value = dict(state.attributes)[self.spec.attributes[0].name]
        return next(code for code, name, _ in self._values() if name == value) % len(_LIGHT)

    def _legend(self) -> Iterator[list[tuple[str, str]]]:
        """Yield rows of (sign, text)."""
        for code, name, meaning in self._values():
            yield [(f"c{code % len(_LIGHT)}", f"{name}: {meaning}")]
        signs = [("end", "an end")] if any(state.terminal for state in self.spec.states) else []
        if any(edge.recycle for edge in self.spec.edges):
            signs.append(("again", "the slot is used again"))
        if signs:
            yield signs


def _passes(spec: Spec, edge: Edge) -> str:
    return passes(spec, edge).replace("`", "")


def _wrapped(events: Sequence[str]) -> Iterator[str]:
    line = ""
    for place_, event in enumerate(events):
        text = event + ("," if place_ < len(events) - 1 else "")
        if line and len(line) + 1 + len(text) > _LONGEST:
            yield line
            line = ""
        line = f"{line} {text}".strip()
    yield line


def _width(text: str, size: float, *, bold: bool = False) -> float:
    """Return about how wide a text is; fonts differ, so it is on the wide side."""
    widths = (0.72 if c.isupper() else 0.34 if c in "il.,:;'|! " else 0.57 for c in text)
    return sum(widths) * size * (1.06 if bold else 1.0)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _rect(left: float, top: float, size: Size, radius: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="{_n(left)}" y="{_n(top)}" width="{_n(size.width)}" '
        f'height="{_n(size.height)}" rx="{_n(radius)}"/>'
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}">{escape(text)}</text>'


def _path(points: Sequence[Point], kind: str) -> str:
    """Return an arrow through points, upright at each of them."""
    steps = [f"M{_n(points[0].x)} {_n(points[0].y)}"]
    for before, point in pairwise(points):
        middle = (before.y + point.y) / 2
        if abs(before.x - point.x) < 0.5:
            steps.append(f"L{_n(point.x)} {_n(point.y)}")
        else:
            bend = f"{_n(before.x)} {_n(middle)} {_n(point.x)} {_n(middle)}"
            steps.append(f"C{bend} {_n(point.x)} {_n(point.y)}")
    return f'<path class="{kind}" d="{" ".join(steps)}" marker-end="url(#head)"/>'


def _written(label: _Label, route: Route) -> Iterator[str]:
    size, at = label.size, route.text
    yield f"<g><title>{escape(label.title)}</title>"
    yield _rect(at.x - size.width / 2, at.y - size.height / 2, size, 4, "paper")
    for row, line in enumerate(label.lines):
        yield _text(at.x, at.y - size.height / 2 + 11 + LINE * row, line, "event")
    yield "</g>"


def _legend_width(rows: Sequence[Sequence[tuple[str, str]]]) -> float:
    widths = [sum(_width(text, _SMALL) + 60 for _, text in row) for row in rows]
    return max(widths, default=0.0)


def _legend_row(items: Sequence[tuple[str, str]], y: float) -> Iterator[str]:
    x = 0.0
    for sign, text in items:
        if sign == "again":
            yield _path([Point(x, y - 4), Point(x + 24, y - 4)], "arrow again")
        else:
            colour = "c0" if sign == "end" else sign
            yield _rect(x, y - 11, Size(24, 14), 4, f"box {colour}")
            if sign == "end":
                yield _rect(x + 2.5, y - 8.5, Size(19, 9), 2.5, "box c0 inner")
        yield f'<text class="legend" x="{_n(x + 34)}" y="{_n(y)}">{escape(text)}</text>'
        x += _width(text, _SMALL) + 60


def _style(colours: Sequence[int]) -> Iterator[str]:
    yield "<style>"
    yield "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Arial,sans-serif;fill:#1c2730}"
    yield f".title{{font-size:16px;font-weight:600}}.name{{font-size:{_NAME}px;font-weight:600}}"
    yield ".name,.small,.event{text-anchor:middle}"
    yield f".small,.event,.legend{{font-size:{_SMALL}px}}.small,.legend{{fill:#4c5b66}}"
    yield ".page,.paper{fill:#fff}.start{fill:#1c2730}.box{stroke-width:1.4}.inner{fill:none}"
    yield ".arrow{fill:none;stroke:#75858f;stroke-width:1.3}.again{stroke-dasharray:5 4}"
    yield "#head path{fill:#75858f}"
    yield from _colours(_LIGHT, colours)
    yield "@media (prefers-color-scheme:dark){"
    yield "text{fill:#e4eaee}.small,.legend{fill:#a9b6bf}.page,.paper{fill:#14191d}"
    yield ".start{fill:#e4eaee}.arrow{stroke:#8d9ca6}#head path{fill:#8d9ca6}"
    yield from _colours(_DARK, colours)
    yield "}"
    yield "</style>"
    yield (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto-start-reverse"><path d="M0 0.8 8 4 0 7.2z"/></marker></defs>'
    )


def _colours(palette: Sequence[tuple[str, str]], used: Sequence[int]) -> Iterator[str]:
    for code in used:
        fill, line = palette[code]
        yield f".c{code}{{fill:{fill};stroke:{line}}}"
    yield ".inner{fill:none}"
