"""A seed as a view on a row."""

from __future__ import annotations

import pytest

from kasmina.lifecycle import Address, CommandQueue, LogicalSeed, StateTensor, UnknownName


@pytest.fixture
def seed() -> LogicalSeed:
    """The second seed of the site `block.0`, which begins at row 3."""
    state = StateTensor(8)
    return LogicalSeed(state, row=4, run="r", site="block.0", slot=1, queue=CommandQueue(state))


def test_it_reads_its_row(seed: LogicalSeed) -> None:
    """Every property follows the tensor."""
    seed.tensor.move([4], seed.tensor.lifecycle.State["GRAFTING"])
    seed.tensor.update([4], {"alpha": 0.25, "epochs_in_state": 3, "generation": 2})
    assert seed.state.name == "GRAFTING"
    assert seed.plane.name == "blend"
    assert (seed.alpha, seed.epochs, seed.generation) == (0.25, 3, 2)
    assert [state.name for state in seed.history] == ["DORMANT"]
    assert seed.address == Address("r", "block.0", 1, 2)


def test_it_says_who_and_where_it_is(seed: LogicalSeed) -> None:
    """The text for logs."""
    assert repr(seed) == "LogicalSeed(r/block.0[1]#0: DORMANT, 0 epochs)"


def test_a_request_waits_in_the_queue_for_this_life_only(seed: LogicalSeed) -> None:
    """The seed itself changes at the next step; a recycled slot does not get old requests."""
    seed.request("request_germination")
    assert seed.state.name == "DORMANT"
    drained = seed.queue.drain()
    assert [(c.row, c.event.name, c.generation) for c in drained.commands] == [
        (4, "request_germination", 0)
    ]
    seed.request("cancel")
    seed.tensor.update([4], {"generation": 1})
    assert len(seed.queue.drain().stale) == 1


def test_an_unknown_event_is_refused_at_once(seed: LogicalSeed) -> None:
    """In the thread that asks."""
    with pytest.raises(UnknownName, match="no event 'grow'"):
        seed.request("grow")
