"""Declared properties: what is said where one does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from kasmina_generator import SpecErrors
from tests.generator.prove.machines import machine, proved, said

TIMELESS = (
    ("max_epochs: 2", "max_epochs: unbounded"),
    (
        "  - {from: B, on: go, to: END, guard: timed_out}",
        "  - {from: B, on: go, to: END, guard: x < 1.0}",
    ),
)


def declared(what: str) -> str:
    """Return a section with one property."""
    return f"properties:\n  - {{name: wish, {what}}}\n"


@pytest.mark.parametrize(
    "what",
    [
        "must_pass: {to: B, through: A}",
        "handles: {event: stop, in: non_terminal}",
        "absorbing: END",
        "reachable: B",
        "bounded: {from: A}",
        'ctl: "AG(B -> AF END)"',
        'ctl: "A[(A | B) U END]"',
        'ctl: "EF(A & EX B)"',
        'ctl: "AG(timed_out & A -> AX !A)"',
        'ctl: "AG(enabled(stop) | END)"',
        'ctl: "!EG !END"',
        'ctl: "AG(END | epochs <= 4)"',
    ],
)
def test_what_holds(tmp_path: Path, what: str) -> None:
    """Nothing is said of a property that holds."""
    proof = proved(tmp_path, more=declared(what))
    assert not proof.findings
    assert any("wish" in line for line in proof.proved)


@pytest.mark.parametrize(
    ("what", "path"),
    [
        ("must_pass: {to: END, through: B}", "A@0 --stop [edge=0.7, x=0]--> END@0"),
        ("handles: {event: late, in: A}", "A@0 --late [edge=0.7, x=0]--> A@0"),
        ("absorbing: B", "A@0 --tick + go [edge=0.7, x=0.7]--> B@0 --stop--> END@0"),
        ('ctl: "AG !B"', "A@0 --tick + go [edge=0.7, x=0.7]--> B@0"),
        ('ctl: "AF B"', "A@0 --stop [edge=0.7, x=0.7]--> END@0 --tick--> END@0"),
        ('ctl: "AG(B -> AX END)"', "A@0 --tick + go [edge=0.7, x=0.7]--> B@0 --tick--> B@1"),
        ('ctl: "EG A"', "A@0"),
        ('ctl: "A[A U B]"', "A@0 --stop [edge=0.7, x=0]--> END@0"),
    ],
)
def test_what_does_not_hold(tmp_path: Path, what: str, path: str) -> None:
    """The property, its line and the path that refutes it."""
    text = said(proved(tmp_path, more=declared(what)))
    assert text.startswith("door.yaml:28:5: property 'wish' does not hold: ")
    assert f"witness: {path}" in text


def test_a_life_without_bound(tmp_path: Path) -> None:
    """The path ends where the wait begins."""
    text = said(proved(tmp_path, *TIMELESS, more=declared("bounded: {from: A}")))
    assert text == (
        "door.yaml:28:5: property 'wish' does not hold: an entity in A comes to B, which is "
        "declared to wait unbounded\n"
        "    witness: A@0 --tick + go [edge=0.7, x=0.7]--> B@0 --tick [x=1]--> B@0\n"
        "    hint: end each wait by a time-out that leads to an end"
    )


def test_limits_that_close_a_way_are_noted(tmp_path: Path) -> None:
    """A goal that some limits in range keep out of reach is reachable, with a note."""
    proof = proved(
        tmp_path,
        ("default: 0.7, range: [0.1, 5.0]", "default: 0.7, range: [0.1, 50.0]"),
        more=declared("reachable: B"),
    )
    assert not proof.findings
    assert any(line.startswith("reachable: wish under some limits") for line in proof.proved)
    expected = "wish: with limits [edge=50] no way leads from A to B"
    assert expected in proof.notes


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("AG(B -> AF ENDE)", "unknown name 'ENDE'; allowed: A, B, END, terminal"),
        ("AG(B -> AF)", "expected a formula, found ')'\n    AG(B -> AF)\n              ^"),
        ("AG (B", "expected ')', found the end\n    AG (B\n         ^"),
        ("A[B W END]", "expected 'U', found 'W'\n    A[B W END]\n        ^"),
        ("enabled(stopp)", "unknown event 'stopp'; allowed: stop, go, late; did you mean 'stop'?"),
        ("epochs = 3", "character '=' is not allowed\n    epochs = 3\n           ^"),
        ("epochs >= B", "expected a number of epochs, found 'B'"),
        ("A B", "unexpected 'B' after the formula\n    A B\n      ^"),
        ("!" * 50 + "A", "is nested more than 40 deep"),
        (
            "AG epochs <= 32768",
            "epochs are counted up to 32767; 32768 never come\n    AG epochs <= 32768\n                 ^",
        ),
        ("epochs >= 99999999999", "epochs are counted up to 32767; 99999999999 never come"),
        ("epochs", "expected one of < <= > >= == !=, found the end"),
        ("A" + " | A" * 400, "has 1601 characters; at most 1000"),
    ],
)
def test_a_malformed_formula(tmp_path: Path, formula: str, message: str) -> None:
    """The reader refuses it with a caret under the place."""
    with pytest.raises(SpecErrors) as caught:
        machine(tmp_path, more=f'properties:\n  - {{name: wish, ctl: "{formula}"}}\n')
    assert message in str(caught.value)
    assert "property 'wish': ctl: " in str(caught.value)


def test_a_property_of_an_unknown_state(tmp_path: Path) -> None:
    """It is refused where it stands."""
    with pytest.raises(SpecErrors, match="unknown state or group 'C'; allowed: A, B, END"):
        machine(tmp_path, more=declared("reachable: C"))
