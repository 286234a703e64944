"""What must hold of each state by itself: the fault, its line, the path to it and the hint."""

from __future__ import annotations

from pathlib import Path

from kasmina_generator.verify import verify
from tests.generator.prove.machines import machine, proved, said

EXIT_B = "  - {from: B, on: go, to: END, guard: timed_out}\n"
CAPACITY = "capacities:\n  few: {states: B, limit: room, order: slot, meaning: Few.}\n"


def test_the_small_machine_is_right(tmp_path: Path) -> None:
    """Nothing is said, and each state's bound is known."""
    proof = proved(tmp_path)
    assert not proof.findings
    assert not proof.unproved
    assert [(bound.state, bound.epochs) for bound in proof.bounds] == [("A", 6), ("B", 3)]


def test_an_overlap_of_one_value(tmp_path: Path) -> None:
    """Two guards that share nothing but the threshold itself are told with that value."""
    extra = "  - {from: A, on: go, to: END, guard: x <= edge}\n"
    assert said(proved(tmp_path, (EXIT_B, EXIT_B + extra))) == (
        "door.yaml:27:5: 'go' from A to END and 'go' from A to B (line 24) can both pass with "
        "priority 20; which is taken?\n"
        "    witness: A@0 --tick [edge=0.7, x=0.7]--> B@0 or END@0\n"
        "    hint: make the guards exclude each other, limits at their worst, or give one a "
        "'priority'"
    )


def test_guards_that_meet_do_not_overlap(tmp_path: Path) -> None:
    """`<` beside `>=` is right for every limit, NaN included."""
    extra = "  - {from: A, on: go, to: END, guard: x < edge}\n"
    assert not proved(tmp_path, (EXIT_B, EXIT_B + extra)).findings


def test_a_time_out_that_a_nan_keeps_from_firing(tmp_path: Path) -> None:
    """`x < 5 or x >= 5` is not always true: the path shows NaN."""
    old = "guard: timed_out}\n  - {from: B"
    new = "guard: timed_out and (x < 5.0 or x >= 5.0)}\n  - {from: B"
    assert said(proved(tmp_path, (old, new))) == (
        "door.yaml:7:3: state 'A': max_epochs 3 is over and nothing lets it go\n"
        "    witness: A@0 --tick [edge=0.7, x=0] x3--> A@3 --tick [edge=0.7, x=nan]--> A@4\n"
        "    hint: guard an automatic edge by 'timed_out', alone or as an alternative"
    )


def test_waiting_for_room_for_ever(tmp_path: Path) -> None:
    """The edge that asks for room is tried before the time-out."""
    later = (
        "END, guard: timed_out}\n  - {from: B",
        "END, guard: timed_out, priority: 30}\n  - {from: B",
    )
    assert not proved(tmp_path, more=CAPACITY).findings
    assert said(proved(tmp_path, later, more=CAPACITY)) == (
        "door.yaml:24:5: 'go' from A to B may wait for room for ever: it is tried before the edge "
        "that ends the wait, and a refused entity tries no other\n"
        "    witness: A@0 --tick [edge=0.7, x=0] x3--> A@3 "
        "--tick + no room for go to B [edge=0.7, x=0.7]--> A@4\n"
        "    hint: give the time-out of A a 'priority' below 20"
    )


def test_an_urgent_event_that_is_kept_back(tmp_path: Path) -> None:
    """Every edge that may come before it is told."""
    proof = proved(tmp_path, ("urgent: true, priority: 0", "urgent: true, priority: 15"))
    assert [finding.check for finding in proof.findings] == ["urgency"]
    assert said(proof) == (
        "door.yaml:23:5: urgent 'stop' from A to END is kept back by 'late' from A to END "
        "(line 25), which has priority 10 before 15\n"
        "    witness: A@0 --tick [edge=0.7, x=0] x3--> A@3 --stop + tick [edge=0.7, x=0]--> END@0\n"
        "    hint: give 'stop' a priority below 10"
    )


def test_a_guard_that_never_holds(tmp_path: Path) -> None:
    """The edge and the state that only it leads to."""
    proof = proved(tmp_path, ("guard: x >= edge", "guard: x > 4.0 and x < 3.0"))
    assert [finding.check for finding in proof.findings] == ["unreachable", "impossible"]
    assert "its guard holds for no values in range" in said(proof)


def test_a_guard_that_holds_too_late(tmp_path: Path) -> None:
    """The state is always left before the edge may pass."""
    proof = proved(tmp_path, ("guard: x >= edge", "guard: x >= edge and epochs > 3"))
    assert "'go' from A to B can never be taken" in said(proof)


def test_a_shadowed_edge(tmp_path: Path) -> None:
    """The guard holds, and an earlier edge always passes there: here by two edges together."""
    extra = (
        "  - {from: A, on: go, to: END, guard: x < edge, priority: 5}\n"
        "  - {from: A, on: go, to: END, guard: x >= edge, priority: 6, effects: []}\n"
    )
    proof = proved(tmp_path, (EXIT_B, EXIT_B + extra))
    assert ("shadowed", 24) in [(f.check, f.place.line) for f in proof.findings]


def test_flapping(tmp_path: Path) -> None:
    """Values that send an entity there send it back at once."""
    back = EXIT_B.replace("on: go", "on: late") + "  - {from: B, on: go, to: A, guard: x <= edge}\n"
    assert said(proved(tmp_path, (EXIT_B, back))) == (
        "door.yaml:24:5: unchanging values send an entity round for ever, by the edges of lines "
        "24, 27\n"
        "    witness: A@0 --tick + go [edge=0.7, x=0.7]--> B@0 --tick + go--> A@0\n"
        "    hint: leave a gap between the thresholds, limits at their worst"
    )


def test_hysteresis_does_not_flap(tmp_path: Path) -> None:
    """With a gap between the thresholds no value leads round."""
    back = EXIT_B.replace("on: go", "on: late") + "  - {from: B, on: go, to: A, guard: x < edge}\n"
    assert not proved(tmp_path, (EXIT_B, back)).findings


def test_commands_of_one_priority_are_noted(tmp_path: Path) -> None:
    """Two commands at once are the caller's choice: a note, no fault."""
    events = "  go: {kind"
    more = "  one: {kind: command, meaning: One.}\n  two: {kind: command, meaning: Two.}\n"
    edges = "  - {from: A, on: one, to: B}\n  - {from: A, on: two, to: END}\n"
    proof = proved(tmp_path, (events, more + events), (EXIT_B, EXIT_B + edges))
    assert not proof.findings
    assert "state A: one goes before two by its place in the file" in proof.notes


def test_an_edge_that_comes_too_late(tmp_path: Path) -> None:
    """Its guard holds, in epochs that nobody reaches: the edges that leave before are named."""
    after = "  - {from: B, on: go, to: END, guard: timed_out}\n"
    ways = (
        "  - {from: B, on: go, to: END, guard: y >= edge}\n"
        "  - {from: B, on: late, to: END, guard: y < 5.5}\n"
    )
    text = said(proved(tmp_path, (after, ways + after)))
    assert "28:5: 'go' from B to END can never be taken: B is always left before its guard" in text
    assert "'late' from B to END (line 27)" in text
    assert "'go' from B to END (line 26)" in text
    assert "holds for no values" not in text


def test_structural_findings_are_shown_by_steps(tmp_path: Path) -> None:
    """Epochs and values on each path, waiting included, though a graph of names found the fault."""
    loop = ("  - {from: B, on: go, to: END, guard: timed_out}\n", "")
    findings = verify(machine(tmp_path, loop, more="properties:\n  - {name: p, absorbing: B}\n"))
    paths = {finding.check: finding.witness for finding in findings.findings}
    assert paths["no_timeout"][:2] == ("A@0", "tick + go [edge=0.7, x=0.7]")
    assert paths["no_timeout"][-2:] == ("tick x3", "B@3")
    assert paths["absorbing"][-3:] == ("B@0", "stop", "END@0")
