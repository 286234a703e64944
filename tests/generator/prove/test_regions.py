"""Regions are exact: every combination that values give, and no other."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest

from kasmina_generator.expression import Expression
from kasmina_generator.model import Spec
from kasmina_generator.prove import prove
from kasmina_generator.prove.compare import difference
from kasmina_generator.prove.domain import Domain, domains, show, step
from kasmina_generator.prove.evaluate import at_epochs, holds
from kasmina_generator.prove.regions import Finder
from kasmina_generator.prove.smt import solver
from tests.generator.prove.machines import machine, proved, said

GUARDS = [
    "x >= edge",
    "x < edge or x >= edge",
    "0.3 < x <= edge and x != 0.5",
    "x == edge",
    "y > x and x >= 0.7",
    "edge > 1.0 and x > edge",
    "x <= 0.1 or x >= 10.0",
    "x / y >= edge",
    "x - y * y < 0.25 and x > y",
    "-x <= -edge",
]


def guard_of(folder: Path, text: str) -> tuple[Spec, Expression]:
    """Return a machine and the guard of its first automatic edge, as it reads at once."""
    spec = machine(folder, ("guard: x >= edge", f"guard: {text}"))
    edge = next(edge for edge in spec.edges if edge.event == "go")
    return spec, at_epochs(edge.guard, 0)


@pytest.mark.parametrize("text", GUARDS)
def test_rows_give_what_they_say(tmp_path: Path, text: str) -> None:
    """The own interpreter agrees with every witness, enumerated or from Z3."""
    spec, guard = guard_of(tmp_path, text)
    z3 = solver()
    found = Finder(domains(spec), z3).regions((guard,))
    assert found.how != "assumed"
    for region in found.found:
        assert holds(guard, region.row) is bool(region.enabled)


@pytest.mark.parametrize("text", GUARDS)
def test_no_value_gives_another_region(tmp_path: Path, text: str) -> None:
    """Thousands of random and neighbouring values lie in the regions that were found."""
    spec, guard = guard_of(tmp_path, text)
    z3 = solver()
    found = Finder(domains(spec), z3).regions((guard,))
    enabled = {bool(region.enabled) for region in found.found}
    random_ = random.Random(1)
    for _ in range(3000):
        row = {name: _value(random_, item.low, item.high) for name, item in _floats(spec)}
        assert holds(guard, row) in enabled


def _floats(spec: Spec) -> list[tuple[str, Domain]]:
    return [(name, item) for name, item in domains(spec).items() if item.dtype == "float32"]


def _value(random_: random.Random, low: float, high: float) -> float:
    near = random_.choice([0.1, 0.3, 0.5, 0.7, 1.0, 5.0, 10.0])
    value = step(step(near, 0, "float32"), random_.randint(-2, 2), "float32")
    return (
        min(max(value, low), high)
        if random_.random() < 0.7
        else step(random_.uniform(low, high), 0, "float32")
    )


def test_enumeration_and_z3_agree(tmp_path: Path) -> None:
    """For guards that both can settle, the same combinations."""
    for one, other in itertools.combinations(GUARDS[:7], 2):
        spec, guard = guard_of(tmp_path, one)
        _, second = guard_of(tmp_path, other)
        tried = Finder(domains(spec)).regions((guard, second))
        assert tried.how == "enumerated"
        questions = [(a, 3 & ~a) for a in range(4)]
        asked = solver().regions((guard, second), questions, domains(spec), ())
        assert asked is not None
        assert {r.enabled for r in tried.found} == {r.enabled for r in asked}


def test_the_ends_of_float32() -> None:
    """Steps go over zero, to the infinities and no further; text is the shortest that returns."""
    assert step(0.0, 1, "float32") == 2.0**-149
    assert step(step(0.0, -3, "float32"), 3, "float32") == 0.0
    assert step(math.inf, 5, "float32") == math.inf
    assert step(math.inf, -1, "float32") == pytest.approx(3.4028235e38)
    assert step(7, -2, "int32") == 5
    assert show(0.699999988079071) == "0.7"
    assert show(step(0.699999988079071, 1, "float32")) == "0.70000005"
    assert show(math.nan) == "nan"
    assert show(True) == "true"


def test_only_values_of_the_dtype_are_tried() -> None:
    """A whole number is never 0.1, and a float never an int, whatever it is compared beside."""
    people = Domain("people", "int32", 0, 40, 1, infinite=False, nan=False, is_limit=False)
    load = Domain("load", "float32", 0.0, 9.0, 1.0, infinite=True, nan=True, is_limit=False)
    numbers = [0.1, 19.5, math.inf, 20, 0]
    assert people.samples(numbers, 2) == [1, 0, 20, 21, 2, 22, 19]
    assert all(isinstance(value, float) for value in load.samples(numbers, 2))
    assert not people.has(0.5)
    assert load.has(step(9.0, -1, "float32"))


def test_without_z3_it_says_what_was_not_checked(tmp_path: Path) -> None:
    """Guards that compute and that values tried do not settle are left unproved, never passed."""
    guard = ("guard: x >= edge", "guard: x / y >= edge and x / y < edge")
    without = proved(tmp_path, guard, use_z3=False)
    assert any("state A" in line and "need z3" in line for line in without.unproved)
    assert any("limits edge" in line and "needs z3" in line for line in without.unproved)
    assert "can never be taken" in said(proved(tmp_path, guard))


def test_many_independent_fields(tmp_path: Path) -> None:
    """More combinations than are listed: questions are asked instead, and answered."""
    fields = "".join(
        f"  f{i}: {{dtype: float32, unit: m, range: [0.0, 1.0], default: 0.0, nan: unknown, "
        "infinity: unknown, meaning: A field.}\n"
        for i in range(20)
    )
    edges = "".join(
        f"  - {{from: A, on: go, to: B, guard: f{i} > 0.5, priority: {30 + i}}}\n"
        for i in range(20)
    )
    spec = machine(
        tmp_path,
        ("limits:\n", fields + "limits:\n"),
        ("  - {from: A, on: late", edges + "  - {from: A, on: late"),
    )
    proof = prove(spec)
    assert not proof.findings
    assert not proof.unproved


def test_a_difference_is_shown(tmp_path: Path) -> None:
    """Two machines that differ in one float: the value, and what each does with it."""
    one = machine(tmp_path)
    other = machine(tmp_path, ("guard: x >= edge", "guard: x > edge"))
    assert difference(one, one) is None
    found = difference(one, other)
    assert found is not None
    assert (found.state, found.epochs, found.events) == ("A", 0, ("tick", "tick"))
    assert found.row["x"] == found.row["edge"]
    assert found.first[0] == "B"
    assert found.second == ()
    wider = machine(tmp_path, ("range: [0.1, 5.0]", "range: [0.1, 6.0]"))
    with pytest.raises(ValueError, match="declare different"):
        difference(one, wider)
