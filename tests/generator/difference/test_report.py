"""A comparison as people read it, and as programs do."""

from __future__ import annotations

import json
from pathlib import Path

from kasmina_generator import read_spec
from kasmina_generator.difference import compare
from kasmina_generator.difference.report import as_json, text
from tests.generator.difference.lifts import Edit, edited, lift

EDITS: list[Edit] = [
    ("guard: people >= 1}", "guard: people >= 1 and speed < 1.0}"),
    ("DEAD: {code: 4,", "DEAD: {code: 5,"),
    ("call: {kind: command, priority: 10", "call: {kind: command, priority: 11"),
    ("It was mended.", "Mended."),
]


def test_the_whole_text(tmp_path: Path) -> None:
    """Worst first: class, rule, subject, places, what changed, how it is known, what follows."""
    comparison = edited(tmp_path, EDITS)
    digest = comparison.old_digest
    assert (
        "\n".join(text(comparison))
        == f"""\
behaviour: guard_stronger: edge WAIT --leave--> MOVE
    lift.yaml:46:5 -> lift.yaml:46:5
    guard 'people >= 1' became 'people >= 1 and speed < 1.0': stronger (by trying a value from every region)
    passes no more: [people=1, speed=1]
    so an entity that passed waits, or takes a later edge

stored: state_code: state 'DEAD'
    lift.yaml:15:3 -> lift.yaml:15:3
    code was 4, is 5
    so stored rows mean something else or cannot be read; declare a migration

table: event_priority: event 'call'
    lift.yaml:21:3 -> lift.yaml:21:3
    priority was 10, is 11
    so edges that take it over are told on their own

table: edge_priority: edge IDLE --call--> OPEN
    lift.yaml:41:5 -> lift.yaml:41:5
    priority was 10, is 11
    so an order that changed by it is told on its own

source: meaning: edge DEAD --recycle--> IDLE
    lift.yaml:52:5 -> lift.yaml:52:5
    meaning was 'It was mended.', is 'Mended.'
    so generated comments change

lift version 3 to lift version 3: 1 behaviour, 1 stored, 2 table, 1 source
stored rows: refused: the new spec declares no migration from {digest}"""
    )


def test_nothing_to_tell(tmp_path: Path) -> None:
    """Two lines."""
    spec = lift(tmp_path / "lift")
    assert list(text(compare(spec, spec))) == [
        "lift version 3 to lift version 3: no difference",
        f"stored rows: read as they are, under the same digest {spec.digest}",
    ]


def test_what_is_the_same_for_many_edges_is_told_once(tmp_path: Path) -> None:
    """One transition from a group is many edges; four are named, the others counted."""
    comparison = edited(tmp_path, [("effects: [ring, log]}", "effects: [ring]}")])
    assert len(comparison.changes) == 4
    lines = list(text(comparison))
    assert lines[0] == (
        "behaviour: edge_effects: edge IDLE --alarm--> DEAD, edge OPEN --alarm--> DEAD, "
        "edge MOVE --alarm--> DEAD, edge WAIT --alarm--> DEAD"
    )
    assert lines[-2].endswith(": 4 behaviour")
    group = [("busy: [OPEN, MOVE]", "busy: [OPEN, MOVE, IDLE, WAIT, DEAD]"),
             ("from: non_terminal, on: alarm, to: DEAD, effects: [ring, log]", "from: busy, on: call, to: DEAD")]  # fmt: skip
    (first, *_) = text(edited(tmp_path, group))
    assert first.endswith(" and 1 more")


def test_a_migration_is_told(tmp_path: Path) -> None:
    """From the old lift to the new one."""
    lift(tmp_path / "lift")
    old, new = (read_spec(tmp_path / "lift" / name) for name in ("old_lift.yaml", "lift.yaml"))
    comparison = compare(old, new)
    assert comparison.readable == "by migration"
    last = list(text(comparison))[-1]
    assert last == f"stored rows: the new spec declares a migration from {old.digest}"


def test_the_whole_json(tmp_path: Path) -> None:
    """Values that JSON has no number for are strings; nothing else is lost."""
    edits = [("guard: speed > 3.5}", "guard: speed <= 3.5 or load > 1.0}")]
    comparison = edited(tmp_path, edits)
    found = as_json(comparison)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == {
        "old": {"spec": "lift version 3", "digest": comparison.old_digest},
        "new": {"spec": "lift version 3", "digest": comparison.new_digest},
        "stored_rows": "not at all",
        "worst": "behaviour",
        "counts": {"behaviour": 1, "stored": 0, "table": 0, "source": 0},
        "changes": [
            {
                "class": "behaviour",
                "rule": "guard_different",
                "subject": "edge MOVE --halt--> WAIT",
                "old": {"file": "lift.yaml", "line": 44, "column": 5},
                "new": {"file": "lift.yaml", "line": 44, "column": 5},
                "what": "guard 'speed > 3.5' became 'speed <= 3.5 or load > 1.0': different",
                "follows": "some entities that passed wait, and some that waited pass",
                "proof": "by trying a value from every region",
                "witnesses": [
                    {"says": "passes no more", "values": {"epochs": 1, "speed": 4.0, "load": 0.0}},
                    {"says": "passes now", "values": {"epochs": 1, "speed": 0.0, "load": 0.0}},
                ],
            }
        ],
    }  # fmt: skip


def test_nan_is_a_string_in_json(tmp_path: Path) -> None:
    """So that every parser reads it."""
    (change,) = as_json(edited(tmp_path, [("guard: people >= 1}", "guard: people >= 1 and speed <= 4.0}")]))["changes"]  # fmt: skip
    assert change["witnesses"][0]["values"] == {"people": 1, "speed": "nan"}
