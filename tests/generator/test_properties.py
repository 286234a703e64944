"""Each declared property is refuted where it does not hold, with a witness."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.generator.specs import DOOR, findings, spoil

PROPERTY = "  - {name: can be locked, handles: {event: lock, in: usable}}\n"


def refuted(folder: Path, declared: str, *changes: tuple[str, str]) -> list[str]:
    """Return what is said of the door with another property and some changes."""
    text = spoil(DOOR, PROPERTY, f"  - {{name: wish, {declared}}}\n")
    for old, new in changes:
        text = spoil(text, old, new)
    found = findings(folder, text)
    assert all(finding.check == declared.split(":")[0] for finding in found), found
    return [str(finding) for finding in found]


@pytest.mark.parametrize(
    "declared",
    [
        "reachable: LOCKED",
        "reachable: usable",
        "absorbing: non_terminal",
        "must_pass: {to: OPEN, through: SHUT}",
        "must_pass: {to: LOCKED, through: usable}",
        "handles: {event: lock, in: non_terminal}",
        "handles: {event: push, in: terminal}",
    ],
)
def test_what_holds_is_silent_or_not_claimed(tmp_path: Path, declared: str) -> None:
    """Properties that hold of the door, and two that do not."""
    wrong = declared in ("absorbing: non_terminal", "handles: {event: push, in: terminal}")
    assert bool(refuted(tmp_path, declared)) is wrong


def test_must_pass(tmp_path: Path) -> None:
    """The witness goes around the state."""
    assert refuted(tmp_path, "must_pass: {to: LOCKED, through: OPEN}") == [
        (
            "door.yaml:41:5: property 'wish' does not hold: 'LOCKED' is reached without 'OPEN'\n"
            "    witness: SHUT --lock--> LOCKED\n"
            "    hint: drop an edge of the witness or lead it through that state"
        )
    ]


def test_must_pass_holds_in_each_generation(tmp_path: Path) -> None:
    """What an earlier generation passed does not count for the next."""
    changes = (
        ("from: usable, on: lock", "from: OPEN, on: lock"),
        ("{from: LOCKED, to: SHUT, after", "{from: LOCKED, to: OPEN, after"),
    )
    assert refuted(tmp_path, "must_pass: {to: LOCKED, through: SHUT}", *changes) == [
        (
            "door.yaml:41:5: property 'wish' does not hold: 'LOCKED' is reached without 'SHUT'\n"
            "    witness: OPEN --lock--> LOCKED\n"
            "    hint: drop an edge of the witness or lead it through that state"
        )
    ]


def test_handles_needs_an_edge(tmp_path: Path) -> None:
    """In each state of the group."""
    assert refuted(tmp_path, "handles: {event: push, in: usable}",
                   ("guard: calm, effects", "effects"), ("states: OPEN", "states: SHUT")) == [
        ("door.yaml:41:5: property 'wish' does not hold: 'OPEN' has no edge on 'push'\n"
        "    witness: SHUT --push--> OPEN\n"
        "    hint: add one, or its state to the edge's 'from'")
    ]  # fmt: skip


def test_handles_needs_no_condition(tmp_path: Path) -> None:
    """A guard, and so a min_epochs that binds the event, may refuse it."""
    assert refuted(tmp_path, "handles: {event: lock, in: usable}",
                   ("urgent: true, ", "")) == [
        ("door.yaml:41:5: property 'wish' does not hold: 'OPEN' takes 'lock' under a condition only\n"
        "    witness: SHUT --push--> OPEN\n"
        "    hint: drop the guard, and make the event urgent where min_epochs is in the way")
    ]  # fmt: skip


def test_handles_asks_for_no_room(tmp_path: Path) -> None:
    """A capacity may refuse it too."""
    assert refuted(tmp_path, "handles: {event: lock, in: OPEN}",
                   ("states: OPEN", "states: LOCKED")) == [
        ("door.yaml:41:5: property 'wish' does not hold: 'OPEN' on 'lock' asks for room in capacity "
        "'passage'\n"
        "    witness: SHUT --push--> OPEN\n"
        "    hint: lead it to a state outside the capacity")
    ]  # fmt: skip


def test_absorbing(tmp_path: Path) -> None:
    """Recycling leaves a state as well."""
    assert refuted(tmp_path, "absorbing: LOCKED") == [
        (
            "door.yaml:41:5: property 'wish' does not hold: 'LOCKED' is left to 'SHUT' on 'recycle'\n"
            "    witness: SHUT --lock--> LOCKED --recycle--> SHUT\n"
            "    hint: drop the edge in line 39"
        )
    ]


def test_reachable(tmp_path: Path) -> None:
    """A state that cannot be reached refutes it, beside the structural finding."""
    text = spoil(DOOR, PROPERTY, "  - {name: wish, reachable: usable}\n")
    text = spoil(text, "guard: calm", "guard: wind > 51")
    assert str(findings(tmp_path, text)[-1]) == (
        "door.yaml:41:5: property 'wish' does not hold: no way leads from 'SHUT' to 'OPEN'\n"
        "    witness: SHUT\n"
        "    hint: add an edge, or drop the property"
    )


BOUNDED = "bounded: {from: OPEN}"
ENDING = ("{from: OPEN, on: close, to: SHUT,", "{from: OPEN, on: close, to: LOCKED,")


def test_bounded_holds(tmp_path: Path) -> None:
    """A state with a time-out that leads to an end."""
    assert refuted(tmp_path, BOUNDED, ENDING) == []


def test_bounded_needs_max_epochs_on_the_way(tmp_path: Path) -> None:
    """An unbounded wait and the cycle through it are told."""
    assert refuted(tmp_path, BOUNDED) == [
        (
            "door.yaml:41:5: property 'wish' does not hold: 'SHUT' is an unbounded wait\n"
            "    witness: OPEN --close--> SHUT\n"
            "    hint: give it max_epochs and a time-out edge"
        ),
        (
            "door.yaml:41:5: property 'wish' does not hold: 'SHUT' can come again and again\n"
            "    witness: SHUT --push--> OPEN --close--> SHUT\n"
            "    hint: drop an edge of the cycle"
        ),
    ]


def test_bounded_counts_a_loop_to_itself(tmp_path: Path) -> None:
    """An edge from a state to itself starts its clock again."""
    loop = (
        "transitions:\n",
        "transitions:\n  - {from: OPEN, on: push, to: OPEN, guard: visitors > 0}\n",
    )
    assert refuted(tmp_path, BOUNDED, ENDING, loop) == [
        (
            "door.yaml:42:5: property 'wish' does not hold: 'OPEN' can come again and again\n"
            "    witness: OPEN --push--> OPEN\n"
            "    hint: drop an edge of the cycle"
        )
    ]


def test_bounded_does_not_wait_for_room(tmp_path: Path) -> None:
    """An edge that asks for room, tried before the time-out, may be refused for ever."""
    room = ("states: OPEN", "states: LOCKED")
    messages = refuted(tmp_path, BOUNDED, ENDING, room)
    assert messages == [
        (
            "door.yaml:41:5: property 'wish' does not hold: 'OPEN' may wait for room in capacity "
            "'passage' for ever\n"
            "    witness: OPEN\n"
            "    hint: 'close' is tried before a time-out: give the time-out a lower priority number"
        )
    ]


def test_bounded_needs_a_timeout(tmp_path: Path) -> None:
    """It is told beside the structural finding."""
    text = spoil(DOOR, PROPERTY, f"  - {{name: wish, {BOUNDED}}}\n")
    text = spoil(spoil(text, *ENDING), "guard: timed_out", "guard: alarm")
    assert "property 'wish' does not hold: 'OPEN' has no time-out" in str(
        findings(tmp_path, text)[-1]
    )
