"""Each structural check finds the fault that was planted for it, with place, witness and hint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import Finding, check_spec, read_spec
from kasmina_generator.expression import Truth
from tests.generator.specs import DOOR, MACHINES, findings, read, spoil

SPECS = (
    kasmina_spec.LIFECYCLE,
    kasmina_spec.LIFECYCLE_V1,
    MACHINES / "traffic_light.yaml",
    MACHINES / "orders.yaml",
)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_no_false_alarm(path: Path) -> None:
    """The machines that are right stay without findings."""
    assert check_spec(read_spec(path)) == []


def planted(folder: Path, old: str, new: str, check: str) -> list[str]:
    """Return what a check says of the door with one change; every finding must be its own."""
    found = findings(folder, spoil(DOOR, old, new))
    assert [finding.check for finding in found] == [check] * len(found), found
    return [str(finding) for finding in found]


def test_an_unreachable_state(tmp_path: Path) -> None:
    """A state that no edge leads to."""
    new = "  SHUT: {code: 0, lamp: dark, max_epochs: unbounded"
    text = spoil(
        DOOR, new, f"  BENT: {{code: 5, lamp: lit, terminal: true, meaning: Bent.}}\n{new}"
    )
    assert [str(finding) for finding in findings(tmp_path, text)] == [
        (
            "door.yaml:11:3: state 'BENT' cannot be reached from 'SHUT': no edge leads there\n"
            "    witness: BENT\n"
            "    hint: add an edge or drop the state"
        )
    ]


def test_an_unreachable_pair(tmp_path: Path) -> None:
    """Two states that only lead to each other are both named, with the way between them."""
    states = (
        "states:\n"
        "  ILL: {code: 5, lamp: lit, max_epochs: unbounded, meaning: Ill.}\n"
        "  BENT: {code: 6, lamp: lit, max_epochs: unbounded, meaning: Bent.}\n"
    )
    edges = (
        "transitions:\n"
        "  - {from: ILL, on: push, to: BENT}\n"
        "  - {from: BENT, on: push, to: ILL}\n"
        "  - {from: [ILL, BENT], on: lock, to: LOCKED}\n"
    )
    text = spoil(spoil(DOOR, "states:\n", states), "transitions:\n", edges)
    found = [str(finding) for finding in findings(tmp_path, text)]
    assert found[0] == (
        "door.yaml:11:3: state 'ILL' cannot be reached from 'SHUT': only 'BENT' leads there\n"
        "    witness: BENT --push--> ILL\n"
        "    hint: add an edge or drop the state"
    )
    assert found[1].startswith("door.yaml:12:3: state 'BENT' cannot be reached")
    assert len(found) == 2


def test_a_guard_that_never_holds_leads_nowhere(tmp_path: Path) -> None:
    """Reachability counts only edges that some value can take."""
    text = spoil(DOOR, "guard: calm", "guard: wind > 51 or visitors > 99")
    assert [str(finding) for finding in findings(tmp_path, text)] == [
        (
            "door.yaml:12:3: state 'OPEN' cannot be reached from 'SHUT': no edge leads there\n"
            "    witness: OPEN\n"
            "    hint: add an edge or drop the state"
        ),
        (
            "door.yaml:34:5: guard 'wind > 51 or visitors > 99' can never hold in 'SHUT'\n"
            "    witness: SHUT\n"
            "    hint: compare it with the ranges of the fields and limits that it reads"
        ),
    ]


def test_a_trap(tmp_path: Path) -> None:
    """A state that is not terminal and has no way out, but for one to itself."""
    text = spoil(DOOR, "{from: OPEN, on: close, to: SHUT,", "{from: OPEN, on: close, to: OPEN,")
    text = spoil(text, "from: usable, on: lock", "from: SHUT, on: lock")
    text = spoil(text, "in: usable", "in: SHUT")
    assert [str(finding) for finding in findings(tmp_path, text)] == [
        (
            "door.yaml:12:3: state 'OPEN' is a trap: no edge leaves it and it is not terminal\n"
            "    witness: SHUT --push--> OPEN\n"
            "    hint: add an edge, or 'terminal: true' if this is an end"
        )
    ]


def test_a_loop_without_an_end(tmp_path: Path) -> None:
    """States that lead to each other and to no terminal state."""
    ajar = "  AJAR: {code: 7, lamp: lit, max_epochs: 3, meaning: A bit.}\n"
    back = "  - {from: AJAR, on: close, to: OPEN, guard: timed_out}\n"
    text = spoil(DOOR, "from: usable, on: lock", "from: [SHUT], on: lock")
    text = spoil(text, "{from: OPEN, on: close, to: SHUT,", "{from: OPEN, on: close, to: AJAR,")
    text = spoil(text, "groups:\n", f"{ajar}groups:\n")
    text = spoil(text, "capacities:\n", f"{back}capacities:\n")
    text = spoil(text, "in: usable", "in: SHUT")
    assert [str(finding) for finding in findings(tmp_path, text)] == [
        (
            "door.yaml:12:3: no terminal state can be reached from 'OPEN', 'AJAR'\n"
            "    witness: SHUT --push--> OPEN --close--> AJAR --close--> OPEN\n"
            "    hint: lead an edge from one of them towards an end"
        )
    ]


def test_an_edge_out_of_a_terminal(tmp_path: Path) -> None:
    """A terminal state is left by recycling only."""
    assert planted(tmp_path, "from: usable, on: lock, to: LOCKED}",
                   "from: usable, on: lock, to: LOCKED}\n  - {from: LOCKED, on: push, to: SHUT}",
                   "terminal_exit") == [
        ("door.yaml:34:5: terminal state 'LOCKED' is left to 'SHUT' on 'push'\n"
        "    witness: SHUT --lock--> LOCKED --push--> SHUT\n"
        "    hint: drop the edge, drop 'terminal', or re-arm the slot under 'recycle'")
    ]  # fmt: skip


def test_recycling_what_has_not_ended(tmp_path: Path) -> None:
    """Only ends are re-armed."""
    text = spoil(DOOR, "{from: LOCKED, to: SHUT, after_epochs: 3}",
                 "{from: OPEN, to: SHUT, after_epochs: 20}")  # fmt: skip
    assert [str(finding) for finding in findings(tmp_path, text)] == [
        (
            "door.yaml:39:5: recycle leaves 'OPEN', which is not terminal\n"
            "    witness: SHUT --push--> OPEN --recycle--> SHUT\n"
            "    hint: recycle from terminal states only, or make it a transition"
        ),
    ]


def test_recycling_into_an_end(tmp_path: Path) -> None:
    """A generation cannot begin at its end."""
    assert planted(tmp_path, "{from: LOCKED, to: SHUT, after_epochs: 3}",
                   "{from: LOCKED, to: LOCKED, after_epochs: 3}", "recycle") == [
        ("door.yaml:39:5: recycle leads to 'LOCKED', which is terminal\n"
        "    witness: SHUT --lock--> LOCKED --recycle--> LOCKED\n"
        "    hint: lead it to where a life begins")
    ]  # fmt: skip


def test_a_duplicate_edge(tmp_path: Path) -> None:
    """Same source, event and guard; the group's edge is the earlier one."""
    assert planted(tmp_path, "to: LOCKED}\n", "to: LOCKED}\n  - {from: OPEN, on: lock, to: SHUT}\n",
                   "duplicate") == [
        ("door.yaml:34:5: edge 'OPEN' to 'SHUT' on 'lock' repeats the edge to 'LOCKED' on 'lock' "
        "in line 33, with the same guard\n"
        "    witness: SHUT --push--> OPEN --lock--> LOCKED\n"
        "    hint: drop one, narrow the earlier guard, or give this edge a lower priority number")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("", "guard: wind < 3"),
        ("guard: wind >= 0", "guard: alarm"),  # holds for every value in range
        ("guard: wind < 3", "guard: wind < 2 and alarm"),
        ("guard: wind < 3 or alarm", "guard: alarm"),
        ("guard: gale > wind", "guard: calm"),
    ],
)
def test_a_shadowed_command(tmp_path: Path, earlier: str, later: str) -> None:
    """A later edge of the same event, whose guard the earlier one covers."""
    old = "  - {from: SHUT, on: push, to: OPEN, guard: calm, effects: [ring]}\n"
    edges = [f"  - {{from: SHUT, on: push, to: OPEN, {guard}}}\n" for guard in (earlier, later)]
    (message,) = planted(tmp_path, old, "".join(edges).replace(", }", "}"), "shadowed")
    assert message == (
        "door.yaml:35:5: edge 'SHUT' to 'OPEN' on 'push' is never taken: it comes after the edge "
        "to 'OPEN' on 'push' in line 34, whose guard holds wherever this one does\n"
        "    witness: SHUT --push--> OPEN\n"
        "    hint: drop one, narrow the earlier guard, or give this edge a lower priority number"
    )


def test_a_priority_undoes_a_shadow(tmp_path: Path) -> None:
    """The narrower edge may come first by its priority instead of its line."""
    old = "  - {from: SHUT, on: push, to: OPEN, guard: calm, effects: [ring]}\n"
    wide = "  - {from: SHUT, on: push, to: OPEN}\n"
    narrow = "  - {from: SHUT, on: push, to: OPEN, guard: alarm, priority: 3}\n"
    assert findings(tmp_path, spoil(DOOR, old, wide + narrow)) == []


def test_a_shadowed_automatic_edge(tmp_path: Path) -> None:
    """Automatic edges shadow each other across events, commands do not."""
    text = spoil(
        DOOR, "  close: {", "  fall: {kind: automatic, meaning: It falls shut.}\n  close: {"
    )
    text = spoil(
        text,
        "  - {from: OPEN, on: close",
        "  - {from: OPEN, on: fall, to: LOCKED}\n  - {from: OPEN, on: close",
    )
    assert [str(finding).split("\n")[0] for finding in findings(tmp_path, text)] == [
        (
            "door.yaml:37:5: edge 'OPEN' to 'SHUT' on 'close' is never taken: it comes after the edge "
            "to 'LOCKED' on 'fall' in line 36, whose guard holds wherever this one does"
        )
    ]
    text = spoil(text, "  fall: {kind: automatic", "  fall: {kind: command")
    assert findings(tmp_path, text) == []


def test_a_group_tells_a_shadow_once(tmp_path: Path) -> None:
    """One transition from many states is one fault."""
    new = "to: LOCKED}\n  - {from: non_terminal, on: lock, to: LOCKED}\n"
    assert len(planted(tmp_path, "to: LOCKED}\n", new, "duplicate")) == 1


def test_an_event_that_nothing_handles(tmp_path: Path) -> None:
    """Its bit would be refused for ever."""
    assert planted(tmp_path, "  push: {", "  kick: {kind: command, meaning: Rude.}\n  push: {",
                   "unhandled") == [
        ("door.yaml:18:3: event 'kick' is handled by no transition\n"
        "    witness: SHUT\n"
        "    hint: add a transition 'on' it or drop the event")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "guard", ["visitors == 0", "timed_out and visitors == 0", "epochs >= max_epochs + 32000"]
)
def test_max_epochs_without_a_timeout(tmp_path: Path, guard: str) -> None:
    """A bound must be kept by an automatic edge whatever the context says."""
    assert planted(tmp_path, "guard: timed_out", f"guard: {guard}", "no_timeout") == [
        (
            "door.yaml:12:3: state 'OPEN' has max_epochs 9 and no time-out edge\n"
            "    witness: SHUT --push--> OPEN\n"
            "    hint: add an automatic transition with guard 'timed_out', or 'timed_out or ...'"
        )
    ]


@pytest.mark.parametrize(
    "guard", ["timed_out or alarm", "epochs >= 8", "not (epochs < max_epochs)"]
)
def test_a_timeout_may_be_said_otherwise(tmp_path: Path, guard: str) -> None:
    """What counts is that the guard holds once the bound is reached."""
    assert findings(tmp_path, spoil(DOOR, "guard: timed_out", f"guard: {guard}")) == []


def test_a_command_is_no_timeout(tmp_path: Path) -> None:
    """A time-out that waits for a command is none."""
    assert planted(tmp_path, "kind: automatic", "kind: command", "no_timeout")


def test_checks_run_on_models_too() -> None:
    """A model that was changed in memory is checked like one that was read."""
    spec = read_spec(kasmina_spec.LIFECYCLE)
    exits = tuple(edge for edge in spec.edges if edge.source != "STABILIZATION")
    found = check_spec(replace(spec, edges=exits))
    assert {finding.check for finding in found} >= {"trap", "unreachable", "no_timeout", "handles"}
    never = tuple(
        replace(edge, guard=Truth(False)) if edge.target == "TRAINING" else edge
        for edge in spec.edges
    )
    assert "impossible" in {finding.check for finding in check_spec(replace(spec, edges=never))}


def test_findings_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Whatever check they are from."""
    text = spoil(DOOR, "  push: {", "  kick: {kind: command, meaning: Rude.}\n  push: {")
    text = spoil(text, "guard: timed_out", "guard: alarm")
    text = spoil(text, "in: usable", "in: non_terminal")
    text = spoil(text, "from: usable, on: lock", "from: OPEN, on: lock")
    lines = [finding.place.line for finding in findings(tmp_path, text)]
    assert lines == sorted(lines)
    assert len(lines) >= 3


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_dropping_any_state_s_exits_is_seen(path: Path) -> None:
    """In every machine, a state that loses its exits is a finding with a witness and a place."""
    spec = read_spec(path)
    for state in spec.states:
        if state.terminal:
            continue
        edges = tuple(edge for edge in spec.edges if edge.source != state.name)
        found = [f for f in check_spec(replace(spec, edges=edges)) if f.check == "trap"]
        assert [finding.place for finding in found] == [state.place]
        assert found[0].witness[-1].partition("@")[0] == state.name
        assert isinstance(found[0], Finding)
        assert found[0].hint


def test_reading_and_checking_again_gives_the_same(tmp_path: Path) -> None:
    """Nothing depends on a hash order."""
    text = spoil(DOOR, "guard: timed_out", "guard: alarm")
    assert check_spec(read(tmp_path, text)) == check_spec(read(tmp_path, text))
