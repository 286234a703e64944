"""From generated lines to the lines of the spec, and from errors in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from kasmina_generator.build import build, user_target
from kasmina_generator.emit.files import BuildError
from kasmina_generator.emit.render import render
from kasmina_generator.emit.source_map import Declared, Span, at, spans, unmarked
from kasmina_generator.model import ContextField, Limit, Place, Spec
from kasmina_generator.prove.evaluate import atoms
from kasmina_generator.reader import read_spec
from kasmina_generator.where import where
from tests.generated.packages import SPECS, Package, built
from tests.generated.ways import part
from tests.generator.specs import DOOR, write

HERE = Place("a.yaml", 3, 5)
THERE = Place("a.yaml", 4, 5)


class Thing:
    """Something that a spec declares."""

    def __init__(self, place: Place) -> None:
        self.place = place


def test_a_mark_covers_what_hangs_on_its_line() -> None:
    """Deeper lines and a closing bracket; not the next line, not an empty one."""
    here, there = at(Thing(HERE)), at(Thing(THERE))
    text = f"x = [\n    {here}f(\n        1,\n    ),\n    {there}g,\n]\n\n{here}def f():\n    y\n\n    z"
    assert spans(text, offset=10) == [
        Span(12, 14, HERE),
        Span(15, 15, THERE),
        Span(18, 19, HERE),
    ]
    assert unmarked(text).splitlines()[1] == "    f("


def test_neighbours_of_one_place_are_one_span() -> None:
    """A member and its docstring."""
    mark = at(Thing(HERE))
    assert spans(f"{mark}A = 0\n{mark}'''Idle.'''") == [Span(1, 2, HERE)]


def declared(spec: Spec) -> set[Place]:
    """Return where everything stands that `lifecycle.py` shows."""
    parts: list[Iterable[Declared]] = [spec.states, spec.events, spec.edges, spec.effects]
    parts += [spec.context, spec.limits, spec.attributes]
    return {item.place for part in parts for item in part}


@pytest.mark.parametrize("name", SPECS)
def test_everything_declared_is_led_to(name: str) -> None:
    """For every machine: each state, event, edge, field, limit and effect has its lines."""
    spec = read_spec(SPECS[name])
    outputs = {output.name: output for output in render(spec, "kasmina spec build")}
    assert declared(spec) <= {span.place for span in outputs["lifecycle.py"].spans}
    edges = {edge.place for edge in spec.edges}
    for file in ("machine.py", "lifecycle.md", "formal/lifecycle.pml"):
        assert edges <= {span.place for span in outputs[file].spans}, file


@pytest.mark.parametrize("name", SPECS)
def test_guards_lead_to_their_edges(name: str) -> None:
    """Each line of a guard, the docstring and the note included."""
    spec = read_spec(SPECS[name])
    guards = next(o for o in render(spec, "kasmina spec build") if o.name == "guards.py")
    lines = guards.text.split("\n")
    found = 0
    for span in guards.spans:
        if match := re.match(r"def guard_(\d+)", lines[span.first - 1]):
            edge = spec.edges[int(match[1])]
            found += 1
            assert span.place == edge.place
            assert f'"in the guard of {edge.place}"' in lines[span.last - 2]
            assert lines[span.last - 1] == "        raise"
    assert found == sum(line.startswith("def guard_") for line in lines)


def test_the_vector_step_leads_to_the_edge_that_asks() -> None:
    """The gathered bits come from the first guard that reads them."""
    spec = read_spec(SPECS["lifecycle"])
    vector = next(o for o in render(spec, "kasmina spec build") if o.name == "vector.py")
    lines = vector.text.split("\n")
    number = next(i for i, line in enumerate(lines, 1) if "seen.alpha >= 1.0" in line)
    span = next(span for span in vector.spans if span.first <= number <= span.last)
    assert span.place == next(e.place for e in spec.edges if e.event == "complete")


@pytest.mark.parametrize("name", SPECS)
def test_the_kernel_leads_to_edges_and_fields(name: str) -> None:
    """Each test of a guard, each edge that is tried, and each measurement that is read."""
    spec = read_spec(SPECS[name])
    outputs = {o.name: o for o in render(spec, "kasmina spec build")}
    kernel = outputs["kernels/step.py"]
    lines = kernel.text.split("\n")
    places = {n: span.place for span in kernel.spans for n in range(span.first, span.last + 1)}
    tried, tests, loads = 0, 0, 0
    for number, line in enumerate(lines, 1):
        if match := re.match(r"    packed = tl\.where\(.*, (\d+), packed\)", line):
            tried += 1
            assert places[number] == spec.edges[int(match[1]) >> 8].place
        elif re.match(r"    test_\d+ = ", line):
            tests += 1
            assert places[number] in {edge.place for edge in spec.edges}
        elif match := re.match(r"    raw = tl\.load\(field_(\w+)_at \+ rows", line):
            loads += 1
            assert places[number] == next(f.place for f in spec.context if f.name == match[1])
        elif line == "    packed = tl.where(":  # too long for one line
            tried += 1
            assert places[number] in {edge.place for edge in spec.edges}
    assert tried == len(spec.edges)
    assert (tests > 0) is any(True for edge in spec.edges for _ in atoms(edge.guard))
    assert (loads > 0) is any("tl.load(field_" in line for line in lines)


@pytest.mark.parametrize("name", SPECS)
def test_every_line_of_a_condition_of_the_machine_leads_to_its_edge(name: str) -> None:
    """`machine.py`: the definition, its docstring and what it returns."""
    spec = read_spec(SPECS[name])
    machine = next(o for o in render(spec, "kasmina spec build") if o.name == "machine.py")
    places = {n: span.place for span in machine.spans for n in range(span.first, span.last + 1)}
    edge = None
    for number, line in enumerate(machine.text.split("\n"), 1):
        if match := re.match(r"    def guard_(\d+)\(self\)", line):
            edge = spec.edges[int(match[1])]
        elif not line.startswith("        "):
            edge = None
        if edge is not None:
            assert places[number] == edge.place


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package as `kasmina spec build FILE --out DIR` writes it."""
    folder = tmp_path_factory.mktemp("door")
    build([user_target(write(folder, DOOR), folder / "built")])
    return folder / "built"


def line_of(file: Path, text: str) -> int:
    """Return the first line of a file that holds `text`."""
    return next(i for i, line in enumerate(file.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("file", "generated", "yaml"),
    [
        ("lifecycle.py", '"""People pass."""', "  OPEN: {"),
        ("lifecycle.py", "LimitField(", "  gale: {"),
        ("guards.py", "context.wind < limits.gale", "on: push"),
        ("machine.py", "return GUARDS[1]", "on: push"),
        ("tables.py", "# SHUT --push--> OPEN", "on: push"),
        ("lifecycle.md", "| `crowd` |", "  crowd: {"),
        ("formal/lifecycle.pml", "ltl p0", "name: can be locked"),
        ("kernels/step.py", "nothing", ""),
    ],
)
def test_where(door: Path, file: str, generated: str, yaml: str) -> None:
    """Files of subpackages are found by their folder."""
    if not yaml:
        assert where(door / file, 1).place is None
        return
    origin = where(door / file, line_of(door / file, generated))
    assert origin.place is not None
    lines = DOOR.splitlines()
    before = lines[origin.place.line - 1][: origin.place.column - 1]
    assert not before.strip(" -")
    assert yaml in lines[origin.place.line - 1]
    assert not origin.edited


def test_where_says_that_a_hand_was_at_the_file(door: Path, tmp_path: Path) -> None:
    """Lines may have moved."""
    for name in ("guards.py", "source_map.py"):
        (tmp_path / name).write_text((door / name).read_text())
    guards = tmp_path / "guards.py"
    guards.write_text(guards.read_text() + "\n# mine\n")
    assert where(guards, 1).edited


def test_where_refuses_what_has_no_origin(door: Path, tmp_path: Path) -> None:
    """Each message names the file and what to do."""
    own = tmp_path / "own.py"
    with pytest.raises(BuildError, match=r"own\.py: cannot be read: No such file"):
        where(own, 1)
    own.write_text("x = 1\n")
    with pytest.raises(BuildError, match="was not generated by Kasmina"):
        where(own, 1)
    with pytest.raises(BuildError, match=r"guards\.py: has no line 9999; it has lines 1 to \d+"):
        where(door / "guards.py", 9999)
    own.write_text((door / "guards.py").read_text())
    with pytest.raises(BuildError, match=r"source_map\.py: is missing; build the package again"):
        where(own, 1)
    (tmp_path / "source_map.py").write_text("")
    with pytest.raises(BuildError, match=r"source_map\.py: holds no map"):
        where(own, 1)


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Fields that refuse, of every dtype."""
    return built(SPECS["orders"], tmp_path_factory.mktemp("orders"))


def notes(error: BaseException) -> list[str]:
    """Return what was noted on an error."""
    return getattr(error, "__notes__", [])


def test_an_error_in_a_guard_names_the_edge(orders: Package) -> None:
    """Whatever is wrong with what the guard was given."""
    edge = next(edge for edge in orders.spec.edges if edge.event == "submit")
    with pytest.raises(AttributeError) as caught:
        orders.guards.GUARDS[edge.index](None, None, 0)
    assert notes(caught.value) == [f"in the guard of {edge.place}"]


@pytest.mark.parametrize("way", ["vector", "kernels.step"])
def test_rows_that_do_not_fit_name_their_field(orders: Package, way: str) -> None:
    """A measurement of three rows for two states, before any guard meets it."""
    place = next(field.place for field in orders.spec.context if field.name == "price")
    rows = torch.zeros(2, dtype=torch.int32)
    context = orders.context(2)._replace(price=torch.ones(3))
    steps = part(orders, way) if "." in way else orders.vector
    with pytest.raises(ValueError, match=r"price (is|has) .*3.*; it must be like") as caught:
        steps.step(rows.to(torch.int8), rows, rows, context, orders.limits(), True)
    assert notes(caught.value) == [f"declared at {place}"]
    with pytest.raises(ValueError, match=r"events (is|has) .*1.*; it must be like") as caught:
        steps.step(rows.to(torch.int8), rows, rows[:1], orders.context(2), orders.limits(), True)
    assert notes(caught.value) == []


def test_a_refused_value_names_its_field(orders: Package) -> None:
    """Of one row, and of many."""
    place = next(field.place for field in orders.spec.context if field.name == "price")
    with pytest.raises(ValueError, match="'price': nan is refused") as caught:
        orders.lifecycle.Context(price=float("nan"))
    assert notes(caught.value) == [f"declared at {place}"]
    rows = torch.zeros(2, dtype=torch.int32)
    context = orders.context(2, price=[1.0, float("inf")])
    with pytest.raises(ValueError, match="'price', row 1: infinity is refused") as caught:
        orders.vector.step(rows.to(torch.int8), rows, rows, context, orders.limits(), True)
    assert notes(caught.value) == [f"declared at {place}"]


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("deposit", 7.0, "limit 'deposit': 7.0 is out of range"),
        ("packers", -1, "limit 'packers': -1 is out of range"),
        ("open_for_business", 2, "limit 'open_for_business': 2 is no bool"),
    ],
)
def test_a_limit_out_of_range_names_its_line(
    orders: Package, name: str, value: float, what: str
) -> None:
    """Of each dtype."""
    place = next(limit.place for limit in orders.spec.limits if limit.name == name)
    with pytest.raises(ValueError, match=what) as caught:
        orders.lifecycle.Limits(**{name: value})
    assert notes(caught.value) == [f"declared at {place}"]


def test_the_data_hold_line_and_column(orders: Package) -> None:
    """Edges, fields and limits; the file is named once."""
    package = orders.lifecycle
    assert package.SPEC_FILE == "orders.yaml"
    for edge, given in zip(package.EDGES, orders.spec.edges, strict=True):
        assert Place(package.SPEC_FILE, edge.line, edge.column) == given.place
    declared_fields: list[ContextField | Limit] = [*orders.spec.context, *orders.spec.limits]
    for item in declared_fields:
        found = {**package.CONTEXT_FIELDS, **package.LIMIT_FIELDS}[item.name]
        assert (found.line, found.column) == (item.place.line, item.place.column)
