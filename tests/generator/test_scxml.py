"""SCXML: an interpreter of the standard takes the edges that the generated machine takes."""

from __future__ import annotations

import importlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from statemachine.io.scxml.processor import SCXMLProcessor

import kasmina_spec
from kasmina_generator.emit.promela import stretches
from kasmina_generator.emit.scxml import MOST_EPOCHS, scxml
from kasmina_generator.model import Edge, Scalar, Spec
from kasmina_generator.prove.domain import domains
from kasmina_generator.prove.regions import Finder
from kasmina_generator.prove.smt import solver
from kasmina_generator.reader import read_spec
from tests.generated.packages import SPECS, Package, built
from tests.generator.specs import DOOR, MACHINES, read, spoil

NAMESPACE = "{http://www.w3.org/2005/07/scxml}"
FLOAT32 = SimpleNamespace(fround=lambda value: float(np.float32(value)))


@dataclass
class Interpreter:
    """A document in python-statemachine; JavaScript's `Math` is the only thing it lacks."""

    text: str

    def __post_init__(self) -> None:
        # Trusted, because the safe evaluator allows no call, and Math.fround is one.
        self.processor: Any = SCXMLProcessor(trusted=True)
        self.processor.parse_scxml("machine", self.text)
        self.restart()

    def restart(self) -> None:
        """Begin anew; a document ends for good in a state that it calls final."""
        self.chart: Any = self.processor.start()
        self.data = self.chart.model
        self.data.Math = FLOAT32

    def step(
        self, state: str, epochs: int, data: Mapping[str, Scalar], event: str
    ) -> tuple[str, int]:
        """Return where an event leads from a state, and the epochs there."""
        self.chart.current_state_value = state
        self.data.epochs = epochs
        for name, value in data.items():
            setattr(self.data, name, value)
        self.chart.send(event)
        (after,) = self.chart.configuration_values
        found = str(after), self.data.epochs
        if self.chart.is_terminated:
            self.restart()
        return found


@dataclass(frozen=True)
class Case:
    """A row at a boundary: just where guards change their minds."""

    state: str
    epochs: int
    seen: Mapping[str, Scalar]
    command: str | None
    tick: bool

    @property
    def event(self) -> str:
        """Return the event of the document that is this step."""
        return ".".join(part for part in ("tick" if self.tick else "", self.command) if part)


def cases(spec: Spec) -> Iterator[Case]:
    """Yield every region of every state at both ends of each stretch of epochs."""
    z3 = solver()
    found = stretches(spec, Finder(domains(spec), z3))
    for state in spec.states:
        leaving = [edge for edge in spec.edges if edge.source == state.name]
        known = {event.name for event in spec.events if event.kind == "command"}
        commands = [e.event for e in leaving if e.event in known]
        for stretch in found[state.name] if leaving else ():
            for epochs in sorted({stretch.first, stretch.last, stretch.last + stretch.final}):
                for region in stretch.regions:
                    for command in dict.fromkeys([None, *commands]):
                        for tick in (True, False):
                            if tick or command:
                                yield Case(state.name, epochs, region.row, command, tick)


def expected(package: Package, case: Case, sequential: Any, room: bool) -> tuple[str, int]:
    """Return what the generated sequential machine does with a case."""
    lifecycle = package.lifecycle
    row = sequential.Row(
        state=lifecycle.State[case.state],
        epochs=case.epochs,
        context=lifecycle.Context(**_part(case.seen, lifecycle.CONTEXT_FIELDS)),
        limits=lifecycle.Limits(**_part(case.seen, lifecycle.LIMIT_FIELDS)),
    )
    mask = 1 << lifecycle.Event[case.command] if case.command else 0
    edge = sequential.wanted(row, mask, case.tick)
    asks = edge is not None and any(sequential._asks(edge, c) for c in sequential.CAPACITIES)
    if edge is None or (asks and not room):
        return case.state, min(case.epochs + case.tick, MOST_EPOCHS)
    return edge.target.name, 0


def _part(seen: Mapping[str, Scalar], names: Mapping[str, object]) -> dict[str, Scalar]:
    return {name: value for name, value in seen.items() if name in names}


@pytest.mark.parametrize("name", [*SPECS, "mission"])
def test_the_same_edges_at_every_boundary(name: str, tmp_path: Path) -> None:
    """All regions of all states, every event, with room and without."""
    path = SPECS.get(name, MACHINES / f"{name}.yaml")
    package = built(path, tmp_path / "package")
    spec = package.spec
    sequential = importlib.import_module(f"{package.lifecycle.__package__}.testing.sequential")
    interpreter = Interpreter(scxml(spec))
    defaults = {item.name: item.default for item in spec.context}
    defaults |= {item.name: item.default for item in spec.limits}
    moved: set[str] = set()
    count = 0
    for case in cases(spec):
        for room in (True, False):
            rooms = {f"room_{capacity.name}": room for capacity in spec.capacities}
            data = {**defaults, **case.seen, **rooms}
            found = interpreter.step(case.state, case.epochs, data, case.event)
            assert found == expected(package, case, sequential, room), (case, room)
            moved.add(f"{case.state} {found[0]}")
            count += 1
    assert {f"{edge.source} {edge.target}" for edge in spec.edges} <= moved
    assert count > 40


def test_epochs_saturate() -> None:
    """The counter stops where that of the generated packages stops."""
    interpreter = Interpreter(scxml(read_spec(kasmina_spec.LIFECYCLE)))
    assert interpreter.step("DORMANT", MOST_EPOCHS - 1, {}, "tick") == ("DORMANT", MOST_EPOCHS)
    assert interpreter.step("DORMANT", MOST_EPOCHS, {}, "tick") == ("DORMANT", MOST_EPOCHS)


def document(spec: Spec) -> ET.Element:
    """Return the parsed document of a spec."""
    return ET.fromstring(scxml(spec))


def test_ends_that_are_never_left_are_final() -> None:
    """What is re-armed is a state."""
    root = document(read_spec(kasmina_spec.LIFECYCLE))
    assert [final.get("id") for final in root.iter(f"{NAMESPACE}final")] == ["FOSSILIZED"]


def test_data_hold_the_defaults() -> None:
    """Exactly, infinity and truth in words that JavaScript and Python both read."""
    root = document(read_spec(MACHINES / "orders.yaml"))
    data = {item.get("id"): item.get("expr") for item in root.iter(f"{NAMESPACE}data")}
    assert data["deposit"] == "0.949999988079071"
    assert data["open_for_business"] == "1 == 1"
    assert data["signed"] == "1 == 0"
    assert data["room_tables"] == "1 == 1"
    loss = document(read_spec(kasmina_spec.LIFECYCLE)).find(f".//{NAMESPACE}data[2]")
    assert loss is not None
    assert loss.attrib == {"id": "reconstruction_loss", "expr": "1e999"}


def test_arithmetic_rounds_to_float32() -> None:
    """After each operation, as every backend does; whole numbers need none."""
    text = scxml(read_spec(MACHINES / "orders.yaml"))
    assert "(Math.fround(paid / price) &gt;= deposit)" in text
    assert "Math.fround(Math.fround(weight * 2.0) - heaviest)" in text
    assert "((items * 2) &gt; packed)" in text


def test_an_event_called_tick_keeps_its_name(tmp_path: Path) -> None:
    """The end of an epoch then has another one."""
    text = spoil(DOOR, "  push: {kind", "  tick: {kind")
    spec = read(tmp_path, spoil(text, "on: push", "on: tick"))
    assert '<transition event="tick tick_.tick" cond="wind &lt; gale"' in scxml(spec)
    assert '<transition event="tick_" cond="' in scxml(spec)


def test_effects_are_logged() -> None:
    """Each by its name, in order."""
    root = document(read_spec(kasmina_spec.LIFECYCLE))
    graft = root.find(f".//{NAMESPACE}state[@id='TRAINING']/*[@target='GRAFTING']")
    assert graft is not None
    assert [log.get("expr") for log in graft] == ["'snapshot'", "'graft'"]


def test_places_are_told(tmp_path: Path) -> None:
    """And nothing in a spec's prose can end a comment."""
    spec = read(tmp_path, spoil(DOOR, "A door with a spring.", "A door -- with <a> spring -->."))
    text = scxml(spec)
    assert "<!-- door version 1: A door - - with &lt;a&gt; spring - -&gt;. -->" in text
    edge: Edge = spec.edges[0]
    assert f"<!-- {edge.place}: {edge.event} -->" in text
    ET.fromstring(text)
