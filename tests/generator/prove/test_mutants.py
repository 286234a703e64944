"""The checker itself is tried: every planted fault is found, and nothing is said of what is right."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.finding import Finding
from kasmina_generator.verify import verify
from tests.generator.prove.mutation import (
    OPERATORS,
    Judgement,
    Mutant,
    gapless,
    judge,
    mutants,
    points_at,
)
from tests.generator.specs import MACHINES
from tests.helpers import ROOT
from tools.mutants import tally

pytestmark = pytest.mark.no_cover
EVERY = [
    kasmina_spec.LIFECYCLE,
    kasmina_spec.LIFECYCLE_V1,
    *(MACHINES / f"{name}.yaml" for name in ("traffic_light", "orders", "mission")),
]
SMALLEST = "traffic_light"
FILES = [
    pytest.param(path, marks=[] if path.stem == SMALLEST else [pytest.mark.long]) for path in EVERY
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_mutant_is_caught_or_proved_equal(file: Path) -> None:
    """Each operator's check finds each of its mutants, with a line; survivors take equal steps."""
    spec = read_spec(file)
    judged = [judge(spec, mutant) for mutant in mutants(spec)]
    assert len(judged) > 60
    assert tally(judged) == documented()[file.stem]
    check(judged)


@pytest.mark.no_cover
def test_a_third_of_each_operators_mutants_of_the_lifecycle_is_caught() -> None:
    """As above, which the long run does with all."""
    spec, by_operator = read_spec(kasmina_spec.LIFECYCLE), defaultdict[str, list[Mutant]](list)
    for mutant in mutants(spec):
        by_operator[mutant.operator].append(mutant)
    assert set(by_operator) == set(OPERATORS)
    check([judge(spec, mutant) for planted in by_operator.values() for mutant in planted[::3]])


def check(judged: list[Judgement]) -> None:
    """None is missed, and what was found leads to the fault."""
    missed = [f"{each.mutant.operator}: {each.mutant.what}" for each in judged if each.missed]
    assert not missed, "\n".join(missed)
    for each in judged:
        if each.caught:
            assert points_at(each.caught, each.mutant), each.caught
            assert is_concrete(each.caught), each.caught


NUMBERS = {"counter", "missing values", "limit"}  # faults of a number: no path shows them


def is_concrete(finding: Finding) -> bool:
    """Say whether a path of states with their epochs shows a fault, where one can."""
    if finding.check in NUMBERS:
        return not finding.witness
    return bool(finding.witness) and re.fullmatch(r"\w+@\d+", finding.witness[0]) is not None


def documented() -> dict[str, tuple[int, ...]]:
    """Return the table of mutants in the documentation: machine, and its numbers."""
    text = (ROOT / "docs" / "verification.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    return {name: tuple(map(int, numbers)) for name, *numbers in rows}


def test_the_documented_table_is_of_these_machines() -> None:
    """All five; what was planted is what is there; and the numbers of each add up."""
    table = documented()
    assert list(table) == [file.stem for file in EVERY]
    for file in EVERY:
        planted, *became = table[file.stem]
        assert planted == sum(1 for _ in mutants(read_spec(file)))
        assert planted == sum(became)


@pytest.mark.parametrize("file", EVERY, ids=lambda file: file.stem)
def test_no_false_alarm(file: Path) -> None:
    """Nothing is said of a machine that is right, and nothing is left unproved."""
    verdict = verify(read_spec(file))
    assert not verdict.findings
    assert not verdict.proof.unproved


@pytest.mark.parametrize("file", EVERY[:4], ids=lambda file: file.stem)
def test_no_false_alarm_at_the_last_ulp(file: Path) -> None:
    """Guards that meet without overlapping are deterministic, whatever the limits."""
    spec = read_spec(file)
    for what, _, changed in gapless(spec):
        checks = {finding.check for finding in verify(changed).findings}
        assert "deterministic" not in checks, what
