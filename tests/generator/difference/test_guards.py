"""How two guards relate is proved: by shape, by regions, by Z3; and said where it is not."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasmina_generator.difference.guards import GuardProver, Relating
from kasmina_generator.expression import (
    All,
    Any,
    Comparison,
    ComparisonOperator,
    Constant,
    Expression,
    Field,
    LimitRef,
)
from kasmina_generator.model import Edge, Spec
from kasmina_generator.prove.evaluate import holds
from tests.generator.difference.lifts import LIFT, lift
from tests.generator.specs import spoil
from tests.helpers import run_python

GUARD = "guard: people >= 1}"


def with_guard(folder: Path, guard: str, *changes: tuple[str, str]) -> Spec:
    """The lift with another guard on the edge from WAIT to MOVE."""
    text = spoil(LIFT, GUARD, f"guard: {guard}}}")
    for old, new in changes:
        text = spoil(text, old, new)
    return lift(folder, text)


def edge(spec: Spec) -> Edge:
    """That edge."""
    (found,) = (e for e in spec.edges if (e.source, e.target) == ("WAIT", "MOVE"))
    return found


def related(folder: Path, old: str, new: str, *changes: tuple[str, str]) -> Relating:
    """Relate two guards; the changes are made to the new spec only."""
    one, other = with_guard(folder / "old", old), with_guard(folder / "new", new, *changes)
    return GuardProver(one, other).relate(edge(one).guard, edge(other).guard)


@pytest.mark.parametrize(
    ("old", "new", "relation", "proof"),
    [
        ("load < 5.0 and speed > 1.0", "speed > 1.0 and load < 5.0", "equal", "shape"),
        ("people >= 1", "people > 0", "equal", "region"),
        ("people >= 1", "people >= 2", "stronger", "region"),
        ("people >= 1", "people >= 0", "weaker", "region"),
        ("people >= 1", "people <= 1", "different", "region"),
        ("load < 0.7", "load <= 0.7", "weaker", "region"),
        ("load <= most_load", "load <= most_load or fire", "weaker", "region"),
        ("load <= 2000.0", "load >= 0.0", "equal", "region"),
        ("speed <= 4.0", "speed >= -4.0", "equal", "region"),
        ("speed <= 4.0", "people >= 0", "weaker", "region"),  # speed may be NaN, people not
        ("epochs >= 3", "epochs >= 4", "stronger", "region"),
        ("epochs >= 3 or fire", "epochs >= 3 and fire", "stronger", "region"),
        ("load + load > 3.0", "load > 1.5", "equal", "z3"),
        ("load * 0.1 > 3.0", "load > 30.0", "equal", "z3"),
        ("load + 1000.0 > 1000.0", "load > 0.0", "weaker", "z3"),
        ("speed - load > 0.0", "speed > load", "equal", "z3"),
        ("speed * speed > 4.0", "speed > 2.0", "stronger", "z3"),
        ("people * 3 >= 7", "people >= 3", "equal", "z3"),
    ],
)
def test_the_relation_is_proved(
    tmp_path: Path, old: str, new: str, relation: str, proof: str
) -> None:
    """Stronger passes less, weaker passes more; each direction that differs has a witness."""
    found = related(tmp_path, old, new)
    assert found.relation == relation
    assert proof in found.proof or found.proof == "by trying a value from every region"
    assert (found.lost is not None) is (relation in ("stronger", "different"))
    assert (found.gained is not None) is (relation in ("weaker", "different"))


def test_arithmetic_is_that_of_float32(tmp_path: Path) -> None:
    """`load + 1000 > 1000` and `load > 0` differ where float32 loses the load."""
    found = related(tmp_path, "load + 1000.0 > 1000.0", "load > 0.0")
    assert found.gained is not None
    assert 0 < found.gained["load"] < 1e-4
    assert found.lost is None


def test_the_witness_of_a_difference_passes_one_guard_only(tmp_path: Path) -> None:
    """As the prover's own interpreter says."""
    old, new = "load < 0.7 or fire", "load <= 0.7 and people > 3"
    one, other = with_guard(tmp_path / "old", old), with_guard(tmp_path / "new", new)
    guards = edge(one).guard, edge(other).guard
    found = GuardProver(one, other).relate(*guards)
    assert found.relation == "different"
    assert found.lost is not None
    assert found.gained is not None
    assert [holds(guard, found.lost) for guard in guards] == [True, False]
    assert [holds(guard, found.gained) for guard in guards] == [False, True]


def test_values_that_either_spec_admits_count(tmp_path: Path) -> None:
    """A range that grew makes room for a difference."""
    wider = ("range: [0, 2000], default", "range: [0, 3000], default")
    assert related(tmp_path, "load <= 2000.0", "load <= 2500.0").relation == "equal"
    assert related(tmp_path, "load <= 2000.0", "load <= 2500.0", wider).relation == "weaker"


def test_a_field_of_another_dtype_is_not_compared(tmp_path: Path) -> None:
    """The same name is another number there."""
    other = ("load: {dtype: float32, unit: kg, range: [0, 2000], default: 0, nan: 2000, infinity: allowed,", "load: {dtype: int32, unit: kg, range: [0, 2000], default: 0,")  # fmt: skip
    macro = ("light_enough: load <= most_load", "light_enough: load <= 900")
    found = related(tmp_path, "load < 5.0", "load < 5", other, macro)
    assert (found.relation, found.proof) == ("unproved", "the dtype of 'load' changed")


MISSING = """
import sys
sys.modules["z3"] = None  # as where it is not installed
from pathlib import Path
from tests.generator.difference.test_guards import related
from tests.generator.difference.lifts import lift
def told(name, old, new):
    found = related(Path({folder!r}) / name, old, new)
    print(found.relation, "|", found.proof, "|", found.lost is not None, found.gained is not None)
Path({folder!r}).mkdir(exist_ok=True)
for name in "abcd":
    (Path({folder!r}) / name).mkdir()
told("a", "load * load < speed", "load * load < speed + 1.0")
told("b", "load * 2.0 > 8.0", "load * 2.0 < 8.0")
told("c", "load * load < speed", "load * load <= speed or fire")
few = "(people > 0 and people < 10) or people >= 20 or load + speed > 19.5"
told("d", few, "(people >= 1 and people <= 9) or people > 19 or speed + load > 19.5")
"""


def test_without_z3_it_says_so(tmp_path: Path) -> None:
    """Unproved, with what to install; a witness of both directions is a proof all the same."""
    done = run_python(MISSING.format(folder=str(tmp_path / "lifts")))
    assert done.returncode == 0, done.stderr
    needed = "z3 is not installed: pip install 'kasmina[verify]'"
    lines = done.stdout.splitlines()
    assert lines[0] == f"unproved | {needed} | False True"
    assert lines[1].startswith("different | ")
    assert lines[2].startswith("unproved | ")
    assert lines[3] == f"unproved | {needed} | False False"  # people are whole: 0.1 is no witness


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    """The lift."""
    return lift(tmp_path_factory.mktemp("lift") / "lift")


OPERATORS: tuple[ComparisonOperator, ...] = ("<", "<=", ">", ">=", "==")
NUMBERS = (Field("people", "int32"), LimitRef("most_lifts", "int32"))
ROWS = [{"people": a, "most_lifts": b} for a, b in itertools.product(range(41), range(1, 21))]

comparisons = st.builds(
    Comparison,
    st.sampled_from(OPERATORS),
    st.sampled_from(NUMBERS),
    st.one_of(st.sampled_from(NUMBERS), st.integers(0, 4).map(lambda n: Constant(n, "int32"))),
)
guards = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: All(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Any(tuple(parts))),
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=200)  # two cores, shared
@given(old=guards, new=guards)
def test_it_agrees_with_trying_everything(spec: Spec, old: Expression, new: Expression) -> None:
    """Random guards over two small numbers, against every row."""
    lost = any(holds(old, row) and not holds(new, row) for row in ROWS)
    gained = any(holds(new, row) and not holds(old, row) for row in ROWS)
    expected = {(0, 0): "equal", (1, 0): "stronger", (0, 1): "weaker", (1, 1): "different"}
    assert GuardProver(spec, spec).relate(old, new).relation == expected[lost, gained]
    both = any(holds(old, row) and holds(new, row) for row in ROWS)
    row, known = GuardProver(spec, spec).together(old, new)
    assert (row is not None, known) == (both, True)
