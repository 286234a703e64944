"""`transitions`, torch and Triton take the same edges, at every boundary and with every room."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.generated.cases import boundaries
from tests.generated.packages import MACHINES, SPECS, Package, built
from tests.generated.packages import package as named
from tests.generated.shapes import SHAPES
from tests.generated.test_agreement import LIMITS, shape
from tests.generated.ways import (
    Batch,
    boundary_batch,
    mismatches,
    with_capacities,
    without_capacities,
)

FOREIGN = {path.stem: path for path in MACHINES.glob("*.yaml") if "_state" not in path.stem}


def machine(name: str, folder: Path) -> Package:
    """Return a machine that Kasmina ships, a foreign one, or one that only tests need."""
    if name in SPECS:
        return named(name, folder)
    if name in SHAPES:
        return shape(name, folder)
    return built(FOREIGN[name], folder / name)


@pytest.mark.parametrize("name", sorted({*SPECS, *FOREIGN, *SHAPES}))
@pytest.mark.no_cover
def test_every_boundary(name: str, tmp_path: Path) -> None:
    """State x clock x fields at -1 ulp, at, +1 ulp, NaN, infinity x commands x tick: no mismatch.

    None is left out of a machine that is shipped, at its own limits; at others 300 a state are drawn.
    """
    package = machine(name, tmp_path)
    for limits in LIMITS.get(name, [{}]):
        batch = boundary_batch(package, limits, 300 if limits or name in SHAPES else 10**9)
        for tick in (False, True):
            answers = without_capacities(package, batch, limits, tick)
            wrong = mismatches(package, batch, answers)
            assert not wrong, f"{len(wrong)} mismatches, the first: {wrong[0]}"


@pytest.mark.parametrize("name", ["lifecycle", "mission", "orders"])
@pytest.mark.no_cover
def test_every_room(name: str, tmp_path: Path) -> None:
    """Rows that ask at every rank, and limits that leave from no room to room for all."""
    package = machine(name, tmp_path)
    refused = torch.zeros((), dtype=torch.int64)
    for shuffle in (False, True):
        batch = asking(package, shuffle)
        for limits in rooms(package, batch):
            answers = with_capacities(package, batch, limits, tick=True)
            wrong = mismatches(package, batch, answers)
            assert not wrong, f"shuffled: {shuffle}, {limits}: {wrong[0]}"
            refused += answers["triton"]["refused"].sum()
    assert refused > 100


def asking(package: Package, shuffle: bool) -> Batch:
    """Return six rows that ask for room by each edge at each clock, and rows of all states."""
    batch = boundary_batch(package, {})
    generator = torch.Generator().manual_seed(0)
    edges = package.vector.decide(*batch, package.limits(), True).edge
    orders = {capacity.order for capacity in package.spec.capacities}
    picked = [torch.randint(len(edges), (24,), generator=generator)]
    for edge in package.tables.CAPACITY_ASKS[-1].nonzero()[0] - 1:
        rows = (edges == int(edge)).nonzero()[:, 0]
        _, group = torch.unique(batch.epochs[rows], return_inverse=True)
        for number in range(min(int(group.max()) + 1, 24)):
            same = rows[group == number]
            picked.append(same[torch.randint(len(same), (6,), generator=generator)])
    rows = torch.cat(picked)
    order = torch.randperm(len(rows), generator=generator) if shuffle else torch.arange(len(rows))
    chosen = batch.at(rows[order])
    for name in sorted(orders & {*package.field_names}):
        values = torch.tensor(boundaries(package, name, [], {}), dtype=package.dtype(name))
        drawn = torch.randint(len(values), (len(rows),), generator=generator)
        getattr(chosen.context, name)[:] = values[drawn]
    return chosen


def rooms(package: Package, batch: Batch) -> list[dict[str, float]]:
    """Return limits that leave each capacity no room, some, and room for all; and two tight ones."""
    by_capacity = []
    for capacity in package.spec.capacities:
        codes = [s.code for s in package.spec.states if s.name in capacity.states]
        inside = int(torch.isin(batch.state, torch.tensor(codes)).sum())
        low, high = package.lifecycle.LIMIT_FIELDS[capacity.limit].range
        ways = (-1, 0, 1, 2, 7, 20, 21, 50, 1000)
        by_capacity.append([{capacity.limit: min(max(inside + r, low), high)} for r in ways])
    tight = [
        dict(kv for one in way for kv in one.items()) for way in zip(*by_capacity, strict=True)
    ]
    return [limits for ways in by_capacity for limits in ways] + tight[1:4]
