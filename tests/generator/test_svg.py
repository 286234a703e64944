"""The picture of a machine: everything is on it, nothing lies on anything else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator.emit.diagram import common_edges
from kasmina_generator.emit.placing import Link, Placing, Size, place
from kasmina_generator.emit.svg import svg
from kasmina_generator.model import Spec
from kasmina_generator.reader import read_spec
from tests.generator.specs import DOOR, MACHINES, read, spoil

FILES = [kasmina_spec.LIFECYCLE, kasmina_spec.LIFECYCLE_V1, *sorted(MACHINES.glob("*.yaml"))]
SPECS = [path for path in FILES if "state" not in path.stem]
SVG = "{http://www.w3.org/2000/svg}"
TEXT = Size(60.0, 15.0)


def drawn(spec: Spec) -> ET.Element:
    """Return the parsed picture."""
    return ET.fromstring(svg(spec))


def texts(root: ET.Element, kind: str) -> list[str]:
    """Return the texts of one kind."""
    return [text.text or "" for text in root.iter(f"{SVG}text") if text.get("class") == kind]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_state_and_event_is_on_it(path: Path) -> None:
    """Boxes by name, arrows by event; what all states do alike at its target."""
    spec = read_spec(path)
    root = drawn(spec)
    assert sorted(texts(root, "name")) == sorted(state.name for state in spec.states)
    common = {edge.event for edge in common_edges(spec)}
    words = set(re.findall(r"\w+", " ".join(texts(root, "event"))))
    assert {edge.event for edge in spec.edges} - common <= words
    for event in common:
        assert re.search(rf"\b{event}\b.* from all", "\n".join(texts(root, "small")))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_boxes_and_texts_do_not_overlap(path: Path) -> None:
    """Rectangles of states and of what is written on arrows keep apart, inside the page."""
    root = drawn(read_spec(path))
    found = [
        tuple(float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
        for rect in root.iter(f"{SVG}rect")
        if "inner" not in rect.get("class", "") and rect.get("class") != "page"
    ]
    legend = next(g for g in list(root)[::-1] if g.tag == f"{SVG}g")
    count = sum(1 for r in legend.iter(f"{SVG}rect") if "inner" not in r.get("class", ""))
    for one, other in combinations(found[: len(found) - count], 2):
        apart = (
            one[0] + one[2] <= other[0] + 0.2
            or other[0] + other[2] <= one[0] + 0.2
            or one[1] + one[3] <= other[1] + 0.2
            or other[1] + other[3] <= one[1] + 0.2
        )
        assert apart, (one, other)
    width, height = (float(root.get(name, "0")) for name in ("width", "height"))
    assert all(x >= 0 and x + w <= width and y + h <= height for x, y, w, h in found)


def test_nothing_is_fetched() -> None:
    """No image, no script, no font, no style sheet from elsewhere."""
    text = svg(read_spec(kasmina_spec.LIFECYCLE))
    assert not re.search(r"href|<script|@import|url\((?!#head)", text)
    assert text.count("http") == 1  # the name space


def test_the_picture_is_the_same_each_time() -> None:
    """For files under version control."""
    spec = read_spec(MACHINES / "mission.yaml")
    assert svg(spec) == svg(spec)


def test_colours_are_told_and_turn_dark() -> None:
    """The first attribute's values in use, in a legend; both palettes have each of them."""
    spec = read_spec(MACHINES / "traffic_light.yaml")
    root = drawn(spec)
    legend = texts(root, "legend")
    assert legend == [
        "stop: red",
        "prepare: red and amber",
        "go: green",
        "clear: amber",
        "blink: amber, on and off",
    ]
    style = root.findtext(f"{SVG}style")
    assert style is not None
    light, dark = style.split("@media (prefers-color-scheme:dark)")
    used = {c for g in root.iter(f"{SVG}rect") for c in g.get("class", "").split() if c[0] == "c"}
    assert all(f".{name}{{" in light and f".{name}{{" in dark for name in used)


def test_marks_of_ends_and_of_slots_used_again() -> None:
    """A double frame, and a dashed arrow."""
    root = drawn(read_spec(MACHINES / "orders.yaml"))
    assert texts(root, "legend")[-2:] == ["an end", "the slot is used again"]
    inner = [r for r in root.iter(f"{SVG}rect") if "inner" in r.get("class", "")]
    assert len(inner) == 3 + 1
    again = [p for p in root.iter(f"{SVG}path") if p.get("class") == "arrow again"]
    assert len(again) == 3 + 1


def test_prose_cannot_break_the_document(tmp_path: Path) -> None:
    """Meanings and guards stand in titles, escaped."""
    spec = read(tmp_path, spoil(DOOR, "People pass.", '<b> & "them" pass.'))
    titles = [title.text or "" for title in drawn(spec).iter(f"{SVG}title")]
    assert any('<b> & "them" pass.' in title for title in titles)
    assert any("push: On command, when `wind`".replace("`", "") in title for title in titles)


def test_an_edge_to_its_own_state_is_a_loop(tmp_path: Path) -> None:
    """Beside its box, with its event."""
    spec = read(tmp_path, spoil(DOOR, "on: push, to: OPEN", "on: push, to: SHUT"))
    root = drawn(spec)
    assert "push" in texts(root, "event")


def layers(placing: Placing) -> dict[str, float]:
    """Return the height of each box."""
    return {name: point.y for name, point in placing.boxes.items()}


BOX = Size(100.0, 40.0)


def test_arrows_lead_down_but_those_that_close_a_circle() -> None:
    """The first box stands at the top."""
    names = ("a", "b", "c")
    links = [Link("a", "b", TEXT), Link("b", "c", TEXT), Link("c", "a", TEXT)]
    placing = place(dict.fromkeys(names, BOX), links)
    heights = layers(placing)
    assert heights["a"] < heights["b"] < heights["c"]
    for link, route in zip(links, placing.routes, strict=True):
        first, last = route.points[0], route.points[-1]
        assert abs(first.y - heights[link.source]) == abs(last.y - heights[link.target]) == 20
        assert first.y != last.y


def test_nothing_stands_above_the_first_box() -> None:
    """A box that leads to it and that no arrow reaches would go before it by its arrows alone."""
    links = [Link("a", "b", TEXT), Link("lost", "a", TEXT), Link("b", "lost", TEXT)]
    for some in (links[:2], links[1:], links[1:2], links):
        heights = layers(place(dict.fromkeys(("a", "b", "lost"), BOX), some))
        assert heights["a"] == min(heights.values())
        assert heights["lost"] > heights["a"]


RECYCLED = """\
schema: kasmina/lifecycle@1
name: slot
version: 1
meaning: An end that is reached from all states alike, and left for a new life.
initial: IDLE
states:
  IDLE: {code: 0, max_epochs: unbounded, meaning: Waits.}
  BUSY: {code: 1, max_epochs: 5, meaning: Works.}
  BROKEN: {code: 2, terminal: true, meaning: Out of order.}
events:
  alarm: {kind: command, urgent: true, priority: 0, meaning: Break it.}
  work: {kind: command, priority: 5, meaning: Begin.}
  rest: {kind: automatic, priority: 10, meaning: Enough.}
transitions:
  - {from: non_terminal, on: alarm, to: BROKEN}
  - {from: IDLE, on: work, to: BUSY}
  - {from: BUSY, on: rest, to: IDLE, guard: timed_out}
recycle:
  - {from: BROKEN, to: IDLE, after_epochs: 1}
"""


def test_the_start_is_seen(tmp_path: Path) -> None:
    """The dot and its arrow stand above every box and every text."""
    specs = [read_spec(path) for path in SPECS] + [read(tmp_path, RECYCLED)]
    for spec in specs:
        root = drawn(spec)
        (dot,) = root.iter(f"{SVG}circle")
        picture = next(root.iter(f"{SVG}g"))
        tops = [
            float(rect.get("y", "nan"))
            for rect in picture.iter(f"{SVG}rect")
            if "inner" not in rect.get("class", "")
        ]
        assert float(dot.get("cy", "nan")) + float(dot.get("r", "nan")) < min(tops) - 10
        shift = re.fullmatch(r"translate\(.* (.*)\)", picture.get("transform", ""))
        assert shift is not None
        title = next(text for text in root.iter(f"{SVG}text") if text.get("class") == "title")
        assert float(shift[1]) + float(dot.get("cy", "nan")) - 5 > float(title.get("y", "nan"))


def test_a_box_without_arrows_has_its_place() -> None:
    """In the first layer, beside the others."""
    placing = place({"a": BOX, "b": BOX}, [])
    assert placing.boxes["a"].y == placing.boxes["b"].y
    assert abs(placing.boxes["a"].x - placing.boxes["b"].x) >= 100
    assert placing.routes == ()


def test_arrows_that_need_not_cross_do_not() -> None:
    """Two boxes over two, listed the wrong way round."""
    links = [Link("r", "a", TEXT), Link("r", "b", TEXT), Link("a", "d", TEXT), Link("b", "c", TEXT)]
    found = place(dict.fromkeys(("r", "a", "b", "c", "d"), BOX), links).boxes
    assert (found["a"].x < found["b"].x) == (found["d"].x < found["c"].x)


def test_a_long_arrow_runs_straight() -> None:
    """Past the boxes between its ends it is upright."""
    links = [Link("a", "b", TEXT), Link("b", "c", TEXT), Link("c", "d", TEXT), Link("a", "d", TEXT)]
    route = place(dict.fromkeys("abcd", BOX), links).routes[-1]
    assert len({point.x for point in route.points[1:-1]}) == 1


def test_a_large_machine_is_placed_in_seconds() -> None:
    """A ring of sixty boxes with three hundred arrows."""
    names = [f"s{number}" for number in range(60)]
    links = [
        Link(names[i], names[(i + step) % 60], TEXT)
        for i in range(60)
        for step in (1, 2, 5, 11, 29)
    ]
    placing = place(dict.fromkeys(names, BOX), links)
    assert len(placing.routes) == 300
