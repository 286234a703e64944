"""The Python guards and the vector step mean the same, to the bit, at every boundary."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.generated.cases import Cases, boundary_cases, masks
from tests.generated.packages import SPECS, Package, built
from tests.generated.packages import package as named
from tests.generated.shapes import SHAPES

LIMITS: dict[str, list[dict[str, float]]] = {
    "lifecycle": [
        {},
        {"min_stability": 0.7, "min_evaluation_score": 0.7, "min_improvement": 0.9},
        {"max_reconstruction_loss": 0.02, "min_validation_gain": 0.9, "min_stability": 0.02},
        {"max_reconstruction_loss": 0.9, "min_validation_gain": 0.7, "min_evaluation_score": 0.02},
    ],
    "orders": [{}, {"deposit": 0.7, "heaviest": 1.0, "open_for_business": False}],
    "traffic_light": [{}, {"long_queue": 1}],
}


@pytest.mark.parametrize("name", [*SPECS, *SHAPES])
def test_the_guards_and_the_vector_step_take_the_same_edges(name: str, tmp_path: Path) -> None:
    """For each state: clocks x fields at -1 ulp, at, +1 ulp, NaN, infinity x commands x ticks."""
    package = shape(name, tmp_path) if name in SHAPES else named(name, tmp_path)
    for limits in LIMITS.get(name, [{}]):
        for cases in boundary_cases(package, limits, 10_000 if name in SPECS else 1_000):
            compare(package, cases, limits)


def shape(name: str, folder: Path) -> Package:
    """Build one of the machines that only tests need."""
    path = folder / f"{name}.yaml"
    path.write_text(SHAPES[name])
    return built(path, folder / name)


def compare(package: Package, cases: Cases, limits: dict[str, float]) -> None:
    """Hold that `decide` does for every case what the Python guards say."""
    context = package.context(len(cases.state), **cases.columns)
    passing = by_python(package, cases, context, limits)
    for mask, tick in itertools.product(masks(package), (False, True)):
        events = torch.full_like(cases.epochs, mask, dtype=torch.int32)
        decision = package.vector.decide(
            cases.state, cases.epochs, events, context, package.limits(**limits), tick
        )
        edges = first(package, passing, mask, tick, len(cases.state))
        wrong = (decision.edge != edges).nonzero()
        assert not len(wrong), described(cases, context, edges, decision.edge, int(wrong[0]))
        check_counters(package, cases, edges, decision, tick)


def by_python(
    package: Package, cases: Cases, context: Any, limits: dict[str, float]
) -> dict[int, Tensor]:
    """Return for each edge of the cases' state in which rows its Python guard holds."""
    in_force = package.lifecycle.Limits(**limits)
    values = list(zip(*(column.tolist() for column in context), strict=True))
    values = values or [()] * len(cases.state)
    known = {repr(row): package.lifecycle.Context(*row) for row in values}
    seen = [known[repr(row)] for row in values]
    rows = list(zip(seen, cases.epochs.tolist(), strict=True))
    leaving = [e.index for e in package.lifecycle.EDGES if e.source == int(cases.state[0])]
    return {
        edge: torch.tensor([package.guards.GUARDS[edge](c, in_force, n) for c, n in rows])
        for edge in leaving
    }


def first(package: Package, passing: dict[int, Tensor], mask: int, tick: bool, rows: int) -> Tensor:
    """Return the first edge of each row that is asked for and passes."""
    taken = torch.full((rows,), -1, dtype=torch.int32)
    for index, holds in passing.items():
        event = package.lifecycle.EDGES[index].event
        asked = bool(mask >> event & 1) if event in package.lifecycle.COMMANDS else tick
        taken[holds & (taken < 0) & asked] = index
    return taken


def check_counters(
    package: Package, cases: Cases, edges: Tensor, decision: Any, tick: bool
) -> None:
    """Hold that a row is where its edge leads and has counted its epochs."""
    moved = edges >= 0
    targets = torch.tensor(package.tables.EDGE_TARGET)[edges]
    assert torch.equal(decision.state, torch.where(moved, targets, cases.state))
    counted = (cases.epochs.int() + tick).clamp(max=32767)
    assert torch.equal(decision.epochs, torch.where(moved, 0, counted).to(torch.int16))
    assert not decision.refused.any()


def described(cases: Cases, context: Any, edges: Tensor, taken: Tensor, row: int) -> str:
    """Say which row goes wrong."""
    fields = {name: value[row].item() for name, value in context._asdict().items()}
    return (
        f"state {cases.state[row]}, epochs {cases.epochs[row]}, {fields}: "
        f"Python takes {edges[row]}, the vector step {taken[row]}"
    )


def test_arithmetic_rounds_alike(tmp_path: Path) -> None:
    """Division, subtraction and multiplication agree on numbers next to the threshold."""
    package = named("orders", tmp_path)
    rng = np.random.default_rng(0)
    price = np.exp(rng.uniform(-4, 11, 20_000)).astype(np.float32)
    deposit = rng.choice(np.array([0.95, 0.7, 0.1], np.float32))
    paid = (price * deposit).astype(np.float32)
    paid = np.nextafter(paid, rng.choice(np.array([-np.inf, np.inf], np.float32), len(paid)))
    weight = rng.uniform(65, 67, len(paid)).astype(np.float32)
    columns = {"price": price, "paid": paid, "weight": weight}
    n = len(paid)
    for state in (package.lifecycle.State.ORDERED, package.lifecycle.State.PACKING):
        cases = Cases(
            torch.full((n,), int(state), dtype=torch.int8),
            torch.ones(n, dtype=torch.int16),
            {name: torch.from_numpy(values) for name, values in columns.items()},
        )
        compare(package, cases, {"deposit": float(deposit)})


def test_each_shape_is_emitted_as_it_should_be(tmp_path: Path) -> None:
    """The machines above cover the table, slots shared with commands, 64 bits, and the scan."""
    sources = {}
    for name in SHAPES:
        shape(name, tmp_path)
        sources[name] = (tmp_path / name / "vector.py").read_text()
    assert "torch.where" in sources["wide"]
    assert "index_select" not in sources["wide"]
    assert "shared |=" in sources["crowded"]
    assert "torch.int64" in sources["deep"]
    assert "shared" not in sources["bare"]
