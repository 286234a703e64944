"""Capacities: who enters first, and that never more enter than there is room."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.generated.packages import Package, built, package


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The default lifecycle: two capacities, both by epochs."""
    return package("lifecycle", tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Orders: one capacity by a float field, one by row."""
    return package("orders", tmp_path_factory.mktemp("orders"))


def at(state: int, n: int) -> torch.Tensor:
    """N rows in a state."""
    return torch.full((n,), int(state), dtype=torch.int8)


def test_the_longest_waiting_enter_first_and_then_the_lowest_row(seeds: Package) -> None:
    """Room for three of six: by epochs, equal ones by row; the others stay and count on."""
    State = seeds.lifecycle.State
    epochs = torch.tensor([1, 5, 2, 5, 2, 2], dtype=torch.int16)
    decision = seeds.vector.step(
        at(State.GERMINATED, 6),
        epochs,
        torch.zeros(6, dtype=torch.int32),
        seeds.context(6),
        seeds.limits(max_training=3),
        True,
    )
    entered = (decision.state == State.TRAINING).nonzero().squeeze(1).tolist()
    assert entered == [1, 2, 3]
    assert decision.refused.tolist() == [True, False, False, False, True, True]
    assert decision.edge[decision.refused].tolist() == [-1, -1, -1]
    assert decision.epochs.tolist() == [2, 0, 0, 0, 3, 3]
    assert decision.state[0] == State.GERMINATED


def test_occupancy_counts_before_the_step(seeds: Package) -> None:
    """A row that leaves in this step still takes its place."""
    State, Event = seeds.lifecycle.State, seeds.lifecycle.Event
    state = torch.cat([at(State.TRAINING, 2), at(State.GERMINATED, 2)])
    events = torch.tensor([1 << Event.cancel, 0, 0, 0], dtype=torch.int32)
    zero = torch.zeros(4, dtype=torch.int16)
    for room, entering in [(1, 0), (2, 0), (3, 1), (4, 2)]:
        decision = seeds.vector.step(
            state, zero, events, seeds.context(4), seeds.limits(max_training=room), True
        )
        assert int((decision.edge[2:] >= 0).sum()) == entering
        assert decision.state[0] == State.CANCELLED


def test_a_step_between_ticks_does_not_count_the_refused(orders: Package) -> None:
    """Without a tick nothing asks by itself and no epoch passes."""
    State = orders.lifecycle.State
    epochs = torch.tensor([4, 4], dtype=torch.int16)
    decision = orders.vector.step(
        at(State.PAID, 2),
        epochs,
        torch.zeros(2, dtype=torch.int32),
        orders.context(2),
        orders.limits(packers=0),
        False,
    )
    assert decision.epochs.tolist() == [4, 4]
    assert not decision.refused.any()


def test_the_largest_field_enters_first(orders: Package) -> None:
    """By the normalised price; equal ones by row; what is no room for is held back."""
    State = orders.lifecycle.State
    price = [5.0, 1e9, 7.0, 100000.0, 5.0, 0.5]
    decision = orders.vector.step(
        at(State.PAID, 6),
        torch.zeros(6, dtype=torch.int16),
        torch.zeros(6, dtype=torch.int32),
        orders.context(6, price=price),
        orders.limits(packers=4),
        True,
    )
    # 1e9 is clamped to 100000, so rows 1 and 3 are equal; of rows 0 and 4 the lower one enters
    assert decision.refused.tolist() == [False, False, False, False, True, True]


def test_the_order_of_numbers_is_that_of_floats(orders: Package) -> None:
    """NaN is last, then -inf, and -0.0 equals 0.0."""
    values = torch.tensor([math.nan, -math.inf, -2.5, -1e-45, -0.0, 0.0, 1e-45, 3.0, math.inf])
    keys = orders.vector._ordered(values).tolist()
    assert keys[4] == keys[5]
    del keys[4]
    assert keys == sorted(set(keys))


def test_rows_are_the_last_resort(orders: Package) -> None:
    """Order `slot`: the lowest rows enter."""
    State = orders.lifecycle.State
    decision = orders.vector.step(
        at(State.PACKING, 5),
        torch.ones(5, dtype=torch.int16),
        torch.zeros(5, dtype=torch.int32),
        orders.context(5),
        orders.limits(vans=2),
        True,
    )
    assert decision.refused.tolist() == [False, False, True, True, True]


def test_a_limit_below_the_occupancy_lets_nobody_in(orders: Package) -> None:
    """Room is never negative."""
    State = orders.lifecycle.State
    state = torch.cat([at(State.PACKING, 3), at(State.PAID, 2)])
    zero = torch.zeros(5, dtype=torch.int16)
    decision = orders.vector.step(
        state, zero, zero.int(), orders.context(5), orders.limits(packers=1), True
    )
    assert decision.refused.tolist() == [False, False, False, True, True]


CHAIN = """\
schema: kasmina/lifecycle@1
name: chain
version: 1
meaning: A state in two capacities.
initial: OUT
states:
  OUT: {code: 0, max_epochs: unbounded, meaning: Outside.}
  IN: {code: 1, max_epochs: unbounded, meaning: In both.}
  HALF: {code: 2, max_epochs: unbounded, meaning: In one.}
events:
  enter: {kind: command, meaning: Go in.}
  half: {kind: command, meaning: Go half in.}
  leave: {kind: command, meaning: Go out.}
limits:
  narrow: {dtype: int32, default: 2, range: [0, 9], meaning: Room.}
  wide: {dtype: int32, default: 3, range: [0, 9], meaning: Room.}
transitions:
  - {from: [OUT, HALF], on: enter, to: IN}
  - {from: OUT, on: half, to: HALF}
  - {from: [IN, HALF], on: leave, to: OUT}
capacities:
  first: {states: IN, limit: narrow, order: slot, meaning: Few.}
  second: {states: [IN, HALF], limit: wide, order: slot, meaning: More.}
"""


def test_the_refused_of_one_capacity_do_not_ask_the_next(tmp_path: Path) -> None:
    """Capacities are arbitrated in their order; moving inside one asks it for nothing."""
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN)
    chain = built(path, tmp_path / "chain")
    enter, half = 1 << chain.lifecycle.Event.enter, 1 << chain.lifecycle.Event.half
    zero = torch.zeros(6, dtype=torch.int16)

    def refused(state: list[int], events: list[int]) -> list[int]:
        decision = chain.vector.step(
            torch.tensor(state, dtype=torch.int8),
            zero,
            torch.tensor(events, dtype=torch.int32),
            chain.context(6),
            chain.limits(),
            False,
        )
        return [int(row) for row in decision.refused.nonzero().squeeze(1)]

    # Rows 2 and 3 find `first` full, so only one of `second`'s three places is left for 4 and 5.
    assert refused([0] * 6, [enter] * 4 + [half] * 2) == [2, 3, 5]
    # A row that is half in already holds its place in `second`.
    assert refused([2, 2, 2, 0, 0, 0], [enter, enter, 0, half, half, 0]) == [3, 4]


def test_many_rows_never_overfill(seeds: Package) -> None:
    """With thousands that ask, exactly the free places are taken, by those who should."""
    generator = torch.Generator().manual_seed(1)
    n = 5000
    State = seeds.lifecycle.State
    codes = torch.tensor([State.GERMINATED, State.TRAINING], dtype=torch.int8)
    state = codes[torch.randint(2, (n,), generator=generator)]
    epochs = torch.randint(19, (n,), generator=generator, dtype=torch.int16)
    held = int((state == State.TRAINING).sum())
    zero = torch.zeros(n, dtype=torch.int32)
    limits = seeds.limits(max_training=held + 473)
    decision = seeds.vector.step(state, epochs, zero, seeds.context(n), limits, True)
    rows = ((state == State.GERMINATED) & (decision.state == State.TRAINING)).nonzero().squeeze(1)
    waiting = [row for row in range(n) if state[row] == State.GERMINATED]
    waiting.sort(key=lambda row: (-int(epochs[row]), row))
    assert rows.tolist() == sorted(waiting[:473])
    assert int(decision.refused.sum()) == len(waiting) - 473
