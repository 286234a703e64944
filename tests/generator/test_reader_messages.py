"""Every way to write a spec wrongly, and exactly what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.generator.specs import DOOR, MACHINES, blocks, changes, faults, findings, spoil


def test_the_door_is_right(tmp_path: Path) -> None:
    """What the other tests spoil is without a fault."""
    assert faults(tmp_path, DOOR) == []
    assert findings(tmp_path, DOOR) == []


@pytest.mark.parametrize(("old", "new", "messages"), list(changes("bad_specs.txt")))
def test_a_wrong_spec_is_refused(tmp_path: Path, old: str, new: str, messages: list[str]) -> None:
    """One change, and every line that is said about it."""
    assert faults(tmp_path, spoil(DOOR, old, new)) == messages


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        pytest.param(block[0], "\n".join(block[1:]).strip(), id=block[0])
        for block in blocks("bad_guards.txt")
    ],
)
def test_a_wrong_guard_is_refused_at_its_column(tmp_path: Path, guard: str, message: str) -> None:
    """One guard, what is said at which column, and a hint where the fault does not give it away."""
    text = spoil(DOOR, "guard: calm, effects", f"guard: {json.dumps(guard)}, effects")
    assert faults(tmp_path, text) == [message]


def test_all_faults_come_in_one_run(tmp_path: Path) -> None:
    """Faults of every kind are told together, in the order of the file."""
    text = spoil(DOOR, "initial: SHUT", "initial: SHUTT")
    text = spoil(text, "code: 1,", "code: 1, code: 2, colour: red,")
    text = spoil(text, "kind: automatic", "kind: *automatic")
    text = spoil(text, "guard: calm", "guard: calm and wind(3) < gael")
    assert [message.split(": ")[0] for message in faults(tmp_path, text)] == [
        "door.yaml:5:10",
        "door.yaml:12:19",
        "door.yaml:12:28",
        "door.yaml:19:17",
        "door.yaml:34:54",
    ]


def test_a_spec_that_is_wrong_everywhere_is_not_endless(tmp_path: Path) -> None:
    """After a thousand faults the rest is left out, and that is said."""
    extra = "\n".join(f"  bad-{number}: 1" for number in range(1200))
    messages = faults(tmp_path, spoil(DOOR, "groups:\n", f"groups:\n{extra}\n"))
    assert len(messages) == 1001
    assert any("more than 1000 faults; the rest is left out" in message for message in messages)


def test_too_many_of_anything(tmp_path: Path) -> None:
    """Events and effects have a bit each, attribute values a byte."""
    events = "\n".join(f"  e{n}: {{kind: command, meaning: one}}" for n in range(30))
    effects = "\n".join(f"  f{n}: {{meaning: one}}" for n in range(31))
    values = ", ".join(f"v{n}: one" for n in range(257))
    text = spoil(DOOR, "events:\n", f"events:\n{events}\n")
    text = spoil(text, "effects:\n", f"effects:\n{effects}\n")
    text = spoil(text, "attributes:\n", f"attributes:\n  a: {{meaning: b, values: {{{values}}}}}\n")
    said = [m.split(": ", 1)[1] for m in faults(tmp_path, text) if "at most" in m]
    assert said == [
        "attribute 'a': values: 257 values; at most 256",
        "spec: events: 33 events; at most 31, one bit each",
        "spec: effects: 32 effects; at most 31, one bit each",
    ]


def test_too_many_edges_of_one_state(tmp_path: Path) -> None:
    """Edges of a state are compared pairwise, so their number is bounded."""
    edges = "\n".join(
        f"  - {{from: SHUT, on: push, to: OPEN, guard: visitors == {n % 99}}}" for n in range(300)
    )
    text = spoil(DOOR, "transitions:\n", f"transitions:\n{edges}\n")
    assert faults(tmp_path, text) == [
        "door.yaml:33:3: spec: transitions: 302 edges leave 'SHUT'; at most 255"
    ]


def test_too_many_edges_in_all(tmp_path: Path) -> None:
    """Groups are not written out without a bound: 1.2 million edges are refused at once."""
    states = "\n".join(
        f"  S{n}: {{code: {n}, max_epochs: unbounded, meaning: one}}" for n in range(120)
    )
    edges = "\n".join("  - {from: non_terminal, on: go, to: S0}" for _ in range(10_000))
    text = (
        "schema: kasmina/lifecycle@1\nname: many\nversion: 1\nmeaning: Many.\ninitial: S0\n"
        f"states:\n{states}\nevents:\n  go: {{kind: command, meaning: Go.}}\n"
        f"transitions:\n{edges}\n"
    )
    messages = faults(tmp_path, text)
    assert messages[0] == "door.yaml:130:3: spec: transitions: 274 edges leave 'S0'; at most 255"
    assert len(messages) == 120


def test_a_built_in_group_may_be_empty(tmp_path: Path) -> None:
    """A machine without ends has no state in `terminal`."""
    text = (MACHINES / "traffic_light.yaml").read_text()
    text = spoil(text, "{from: FLASHING, on: repaired", "{from: terminal, on: repaired")
    assert faults(tmp_path, text) == [
        "door.yaml:60:12: transition from terminal on repaired: from: no state is 'terminal'"
    ]
