"""A trail of SPIN as states, values and YAML lines."""

from __future__ import annotations

from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator.model import Spec
from kasmina_generator.spin import Answer, ask
from kasmina_generator.spin.trail import Step, lines
from tests.generator.specs import MACHINES, read, spoil

V1 = kasmina_spec.LIFECYCLE_V1.read_text(encoding="utf-8").replace("state: state_v1.yaml\n", "")


def _refuted(folder: Path, old: str, new: str, name: str) -> tuple[Spec, Answer]:
    spec = read(folder, spoil(V1, old, new))
    (answer,) = ask(spec, only={name}).answers
    assert not answer.holds
    return spec, answer


@pytest.fixture(scope="module")
def unjudged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Spec, Answer]:
    """A seed that was never grafted is kept."""
    return _refuted(
        tmp_path_factory.mktemp("unjudged"),
        "  - {from: GERMINATED, on: cull, to: CULLED, guard: timed_out}",
        "  - {from: GERMINATED, on: cull, to: FOSSILIZED, guard: timed_out}",
        "grafted before kept",
    )


def test_a_trail_ends_where_the_property_breaks(unjudged: tuple[Spec, Answer]) -> None:
    """The shortest run: asked for, 12 epochs, kept, each with the line of its edge."""
    spec, answer = unjudged
    own = [row for step in answer.trail for row in step.rows if row.observed and row.edge]
    cull = next(edge for edge in spec.edges if edge.target == "FOSSILIZED")
    assert [(row.state, row.edge.event if row.edge else "") for row in own] == [
        ("DORMANT", "request_germination"),
        ("GERMINATED", "cull"),
    ]
    assert own[-1].epochs == 12
    assert own[-1].edge == cull
    assert len(answer.trail) == 14


def test_a_trail_is_told_by_states_and_yaml_lines(unjudged: tuple[Spec, Answer]) -> None:
    """Quiet ticks are drawn together; values stand where a guard reads some."""
    spec, answer = unjudged
    edge = next(edge for edge in spec.edges if edge.target == "FOSSILIZED")
    told = list(lines(answer.trail))
    assert f"--request_germination--> GERMINATED  door.yaml:{edge.place.line - 2}:5" in told[0]
    assert "   2 to 13 12 ticks: " in told[1]
    assert "GERMINATED@11" in told[1]
    assert "GERMINATED@12 [" in told[-1]
    assert told[-1].endswith(f"--cull--> FOSSILIZED  door.yaml:{edge.place.line}:5")


def test_a_run_that_never_ends_shows_what_repeats(tmp_path: Path) -> None:
    """A circle is told from the way that leads to it."""
    _, answer = _refuted(
        tmp_path,
        "  - {from: GRAFTING, on: cull, to: CULLED, guard: timed_out}",
        "  - {from: GRAFTING, on: cull, to: GERMINATED, guard: timed_out}",
        "a germinated seed ends",
    )
    told = list(lines(answer.trail))
    again = told.index("and from here on for ever:")
    assert any("--cull--> GERMINATED" in line for line in told[again:])
    assert not any("FOSSILIZED" in line for line in told)


def test_refused_entities_are_told(tmp_path: Path) -> None:
    """Who finds no room stays, and the trail says so."""
    text = (MACHINES / "berths.yaml").read_text(encoding="utf-8")
    spec = read(tmp_path, f'{text}  - {{name: waits, ctl: "AG !(WAITING & epochs >= 1)"}}\n')
    (answer,) = ask(spec, only={"waits"}).answers
    told = [line for line in lines(answer.trail) if "finds no room" in line]
    assert len(told) == 1
    assert "*: WAITING@0 finds no room" in told[0]


def test_lines_of_no_trail() -> None:
    """Nothing is nothing."""
    assert list(lines(())) == []


def test_a_step_of_nobody_is_quiet() -> None:
    """Then it may be drawn together with its neighbours."""
    assert Step(tick=True, repeats=False, rows=()).quiet
