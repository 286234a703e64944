"""SPIN's answers as lines: verdict, place, effort, and where the prover says otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kasmina_generator.finding import Finding
from kasmina_generator.model import Property, Spec
from kasmina_generator.prove import Proof, prove
from kasmina_generator.spin.oracle import Answer, Report, ask
from kasmina_generator.spin.program import Search
from kasmina_generator.spin.report import agrees, answered, ended
from tests.generator.prove.machines import machine

WISH = 'properties:\n  - {name: wish, ctl: "AG(B -> AF END)"}\n'
OTHERWISE = "          the prover says otherwise: to it a capacity may refuse room at any time and "


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """The small machine with a property."""
    return machine(tmp_path, more=WISH)


@pytest.fixture
def proof(spec: Spec) -> Proof:
    """Its proof: the property holds."""
    return prove(spec)


def answer(asked: Property, *, holds: bool = True, depths: tuple[int, ...] = (100,)) -> Answer:
    """Return an answer after a search of 1,234 states."""
    return Answer(asked, holds, Search(int(not holds), 1234, 9, depths), (), 1.25)


def test_a_property_that_holds(spec: Spec, proof: Proof) -> None:
    """One line."""
    (asked,) = spec.properties
    assert agrees(answer(asked), proof) is True
    assert list(answered(answer(asked), proof)) == [
        "  holds   wish  door.yaml:28:5  (1,234 states, 1.2 s)"
    ]


def test_a_search_that_was_deepened(spec: Spec, proof: Proof) -> None:
    """Runs that were cut off count for nothing; the depth that was enough is told."""
    told = list(answered(answer(spec.properties[0], depths=(100, 1000, 10_000)), proof))
    assert told[1:] == [
        "          the search was too shallow at 100 steps; deepened: 1,000, 10,000"
    ]


def test_verdicts_that_differ(spec: Spec, proof: Proof) -> None:
    """Either way; what is broken without a run says so."""
    (asked,) = spec.properties
    broken = answer(asked, holds=False)
    assert agrees(broken, proof) is False
    told = list(answered(broken, proof))
    assert told[0].startswith("  broken  wish  door.yaml:28:5")
    assert told[1] == "          no run comes there"
    assert told[2].startswith(OTHERWISE)
    refuted = replace(proof, findings=(Finding(asked.place, "fails", check="ctl"),))
    assert agrees(broken, refuted) is True
    assert agrees(answer(asked), refuted) is False


def test_what_the_prover_left_open_is_no_difference(spec: Spec, proof: Proof) -> None:
    """SPIN may know more."""
    (asked,) = spec.properties
    open_ = replace(proof, unproved=(f"{asked.place}: formula 'wish': too many nodes",))
    for holds in (True, False):
        assert agrees(answer(asked, holds=holds), open_) is None
        told = list(answered(answer(asked, holds=holds), open_))
        assert not any(line.startswith(OTHERWISE) for line in told)


def test_the_end_counts_and_says_what_it_rests_on(spec: Spec) -> None:
    """Hold, broken, not asked with why, and states whose guards were not settled."""
    (asked,) = spec.properties
    report = Report(2, (answer(asked), answer(asked, holds=False)), ((asked, "it is odd"),), ("A",))
    assert list(ended(report)) == [
        "  not asked wish  door.yaml:28:5: it is odd",
        "  A: its guards were not all settled: more was assumed possible than is, or less",
        "  SPIN: 1 hold, 1 broken, 1 not asked",
    ]


def test_nothing_to_ask(tmp_path: Path) -> None:
    """No search, no verdict."""
    report = ask(machine(tmp_path))
    assert list(ended(report)) == [
        "  SPIN: nothing was searched, for the spec declares no property that SPIN can be asked"
    ]
