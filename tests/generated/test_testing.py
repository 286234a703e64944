"""What a package brings to test whatever steps it: boundaries, walks, strategies, interpreters."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from kasmina_generated.lifecycle import CONTEXT_FIELDS, LIMIT_FIELDS, Context, Limits, State
from kasmina_generated.testing import regions, strategies, walk
from kasmina_generated.testing.stateful import Interpreters, tensor_steps
from kasmina_generator import read_spec
from tests.generated.packages import SPECS, built, imported
from tests.generated.packages import package as named
from tests.generated.test_three_ways import FOREIGN, machine
from tests.generated.ways import part

FEW = settings(
    max_examples=8, stateful_step_count=10, deadline=None, derandomize=True,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.parametrize("name", sorted({*SPECS, *FOREIGN}))
def test_a_guided_walk_reaches_everything(name: str, tmp_path: Path) -> None:
    """All states, edges and boundary regions in less than 5 s of one core."""
    walking = part(machine(name, tmp_path), "testing.walk")
    began = time.process_time()
    coverage = walking.walk()
    assert coverage.missing() == []
    assert time.process_time() - began <= 5.0


def test_an_unfinished_walk_says_what_it_misses() -> None:
    """States, edges and regions by name."""
    missing = walk.walk(steps=1).missing()
    assert "state FOSSILIZED" in missing
    assert "edge 25" in missing
    assert "FINE_TUNING: `improvement` is above `min_improvement`: just above" in missing


def test_walks_repeat() -> None:
    """The same seed, the same rows."""
    first, second = (walk.Walk(3, walkers=64, probes=16) for _ in range(2))
    assert first.run(5).missing() == second.run(5).missing()


@pytest.mark.parametrize("name", ["lifecycle", "lifecycle_v1", "orders", "traffic_light"])
def test_interpreters_stay_together(name: str, tmp_path: Path) -> None:
    """Hypothesis finds no way to part `transitions`, torch, Triton and the trivial model."""
    stateful = part(named(name, tmp_path), "testing.stateful")
    assert set(stateful.tensor_steps()) == {"torch", "triton"}
    run_state_machine_as_test(stateful.Interpreters, settings=FEW)


CORRUPT = {
    "a guard": ("vector.py", "seen.alpha <= 0.0", "seen.alpha < 0.0"),
    "an edge": ("testing/sequential.py", "[row.state]:", "[row.state][1:]:"),
    "the clock": ("kernels/step.py", "tl.where(epochs < 32767, tick, 0)", "0"),
}


@pytest.mark.parametrize("what", CORRUPT)
def test_interpreters_that_part_are_noticed(what: str, tmp_path: Path) -> None:
    """The machine of the template fails where one interpreter does."""
    file, old, new = CORRUPT[what]
    path = tmp_path / "package" / file
    built(SPECS["lifecycle_v1"], tmp_path / "package")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    package = imported(read_spec(SPECS["lifecycle_v1"]), tmp_path / "package")
    stateful = part(package, "testing.stateful")
    with pytest.raises(AssertionError, match=r"says \{.*\}, the machine says \{"):
        run_state_machine_as_test(stateful.Interpreters, settings=settings(FEW, max_examples=50))


def test_all_rows_may_be_in_terminal_states() -> None:
    """There is always a rule to run: what is undeclared is refused and changes nothing."""
    machine = Interpreters()
    for row in range(machine.ROWS):
        machine.rows[row].state = State.FOSSILIZED
        machine.state[row] = State.FOSSILIZED
    machine.undeclared_event_is_refused()
    assert set(machine.state.tolist()) == {State.FOSSILIZED}
    assert set(tensor_steps()) == {"torch", "triton"}


def test_every_side_of_a_threshold_has_a_value() -> None:
    """One step beside it, away from it, and what is special as far as it is not refused."""
    test = next(t for t in regions.COMPARISONS if t.subject == "reconstruction_loss")
    sides = regions.boundary(test, Limits(max_reconstruction_loss=0.9))
    at = np.float32(0.9)
    assert sides["at"] == float(at)
    assert sides["just below"] == float(np.nextafter(at, np.float32(0)))
    assert sides["just above"] == float(np.nextafter(at, np.float32(2)))
    assert math.isnan(sides["NaN"])
    assert {"far below", "far above", "infinite", "infinitely low"} < set(sides)
    alpha = next(t for t in regions.COMPARISONS if t.subject == "alpha")
    assert "infinite" not in regions.boundary(alpha, Limits())


@given(data=st.data())
@settings(FEW, max_examples=50)
def test_what_is_drawn_is_legal(data: st.DataObject) -> None:
    """Limits are in range, and no measurement is refused."""
    limits = data.draw(strategies.limits())
    case = data.draw(strategies.cases(limits))
    assert all(
        rule.range[0] <= getattr(limits, name) <= rule.range[1]
        for name, rule in LIMIT_FIELDS.items()
    )
    assert set(case.measured) == set(CONTEXT_FIELDS)
    assert isinstance(Context(**case.measured), Context)
    assert 0 <= case.epochs <= regions.MOST_EPOCHS


@pytest.mark.parametrize("side", ["just below", "at", "just above", "NaN"])
def test_strategies_draw_from_each_side(side: str) -> None:
    """Without guidance such values are never met."""
    limits = Limits()
    test = next(t for t in regions.COMPARISONS if t.subject == "validation_gain")

    often = settings(max_examples=2000, derandomize=True, database=None)

    def there(measured: dict[str, Any]) -> bool:
        found = regions.sides(test, np.array([measured[test.subject]]), limits)
        return bool(found[0] == side)

    assert find(strategies.measurements(test.state, limits), there, settings=often)


def test_a_formula_is_tried_where_one_step_decides(tmp_path: Path) -> None:
    """`beside` finds neighbours of which one makes a formula true."""
    orders = named("orders", tmp_path)
    found = part(orders, "testing.regions")
    formula = next(f for f in found.FORMULAS if "over" in f.text)
    limits = orders.lifecycle.Limits(deposit=0.7)
    few, many = (orders.lifecycle.Context(price=9.0, paid=paid) for paid in (0.0, 9.0))
    first, second = found.beside(formula, few, many, limits, 0)
    assert not formula.holds(first, limits, 0)
    assert formula.holds(second, limits, 0)
    assert np.nextafter(np.float32(first.paid), np.float32(9)) == np.float32(second.paid)
    assert found.formula_sides(formula, first, limits, 0) == ["fails", "barely fails"]
    assert found.beside(formula, few, few, limits, 0) is None
