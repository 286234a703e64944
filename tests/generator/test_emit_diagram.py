"""Pictures and sentences of a machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.emit.diagram import arrows, common_edges, dot, mermaid
from kasmina_generator.emit.wording import _STATEMENTS, cell, entry_order, passes, plain, stay
from kasmina_generator.vocabulary import RECORDS
from tests.generator.specs import DOOR, MACHINES, read

DOOR_DIAGRAM = """\
stateDiagram-v2
    [*] --> SHUT
    SHUT --> OPEN: push
    OPEN --> SHUT: close
    LOCKED --> SHUT: recycle
    note right of LOCKED: lock from every state that is no end
    classDef lamp_dark fill:#eceff1,stroke:#546e7a,color:#111111
    class SHUT,LOCKED lamp_dark
    classDef lamp_lit fill:#cfe8f7,stroke:#546e7a,color:#111111
    class OPEN lamp_lit
"""


def test_mermaid(tmp_path: Path) -> None:
    """Arrows, what all states do alike, and the first attribute as a fill."""
    assert mermaid(read(tmp_path, DOOR)) == DOOR_DIAGRAM


@pytest.mark.parametrize("path", [kasmina_spec.LIFECYCLE, MACHINES / "orders.yaml"])
def test_every_edge_is_in_the_picture(path: Path) -> None:
    """As an arrow or in a note."""
    spec = read_spec(path)
    text = mermaid(spec)
    common = common_edges(spec)
    for edge in spec.edges:
        if edge in common:
            assert re.search(rf"note right of {edge.target}: .*\b{edge.event}\b", text)
        else:
            assert re.search(rf"{edge.source} --> {edge.target}: .*\b{edge.event}\b", text)


def test_ways_between_the_same_states_share_an_arrow() -> None:
    """The events are listed on it."""
    spec = read_spec(MACHINES / "traffic_light.yaml")
    arrow = next(
        a for a in arrows(list(spec.edges)) if (a.source, a.target) == ("RED", "RED_AMBER")
    )
    assert arrow.events == ["request", "change"]


def test_a_state_by_a_word_of_mermaid_gets_another_id(tmp_path: Path) -> None:
    """`end` would end the diagram."""
    text = mermaid(read(tmp_path, DOOR.replace("LOCKED", "end")))
    assert "    end_: end\n" in text
    assert "    end_ --> SHUT: recycle\n" in text


def test_a_machine_without_attributes_has_no_fills(tmp_path: Path) -> None:
    """And without an end no arrow to one."""
    text = DOOR.replace("lamp: dark, ", "").replace("lamp: lit, ", "")
    start = text.index("attributes:")
    text = text[:start] + text[text.index("states:") :]
    assert "classDef" not in mermaid(read(tmp_path, text))


def test_ends_lead_out_of_the_picture() -> None:
    """A state that nothing leaves."""
    assert "    FOSSILIZED --> [*]\n" in mermaid(read_spec(kasmina_spec.LIFECYCLE))


def test_dot(tmp_path: Path) -> None:
    """Every edge with its guard."""
    text = dot(read(tmp_path, DOOR))
    assert text.startswith('digraph "door" {\n')
    assert '    "SHUT" -> "OPEN" [label="push\\n[calm]"];\n' in text
    assert '    "LOCKED" [peripheries=2];\n' in text
    assert text.count("->") == 6


def test_sentences_of_edges() -> None:
    """When an edge is taken, and by what."""
    spec = read_spec(kasmina_spec.LIFECYCLE)
    said = {edge.event: passes(spec, edge) for edge in spec.edges}
    assert said["cancel"] == "On command, at any time."
    assert said["promote"] == "At the end of an epoch."
    assert said["expire"] == "At the end of an epoch, when 20 epochs have passed."
    assert said["settle"] == (
        "At the end of an epoch, when 1 epoch has passed and `stability` is at least `min_stability`."
    )
    assert said["recycle"] == (
        "At the end of an epoch, when 3 epochs have passed and `alpha` is at most 0; "
        "a new generation begins. A freed slot may grow something new."
    )


def test_the_wording_of_tables() -> None:
    """Epochs, orders, numbers and cells."""
    spec = read_spec(MACHINES / "orders.yaml")
    assert {stay(state) for state in spec.states} >= {"end", "0 or more", "1 to 5"}
    orders = {capacity.name: entry_order(capacity) for capacity in spec.capacities}
    assert orders == {
        "tables": "the largest `price`, then the lowest row",
        "road": "the lowest row",
    }
    assert [
        plain(v) for v in (0.1, float("inf"), -float("inf"), True, False, None, 3, "refuse")
    ] == [*("0.1", "∞", "-∞", "true", "false", "", "3", "refuse")]
    assert cell("a | b\n c") == "a \\| b c"


def test_every_kind_of_property_has_a_sentence() -> None:
    """A kind that the reader learns must be worded too."""
    assert set(_STATEMENTS) == set(RECORDS["property"].optional)
