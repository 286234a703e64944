"""The step of all seeds: what is applied, what is refused, and what it says about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from kasmina.lifecycle import (
    CommandQueue,
    ContextTable,
    InvalidStep,
    Lifecycle,
    LimitTable,
    Refusal,
    RefusedValue,
    StateTensor,
    StepResult,
    UnknownName,
    UnknownRow,
    is_at_rest,
    rest,
    step,
)


class World:
    """Six seeds with everything that a step reads."""

    def __init__(self, seeds: int = 6) -> None:
        self.state = StateTensor(seeds)
        self.context = ContextTable(seeds)
        self.limits = LimitTable()
        self.queue = CommandQueue(self.state)

    def step(self, commands: Iterable[tuple[int, str]] = (), *, tick: bool = False) -> StepResult:
        """Step with some commands."""
        for row, event in commands:
            self.queue.put(row, event)
        return step(self.state, self.queue.drain().events, self.context, self.limits, tick)

    def place(self, row: int, state: str, **columns: float) -> None:
        """Put one seed where a test needs it."""
        code = self.state.lifecycle.State[state]
        self.state.update(row, {"lifecycle_state": int(code), **columns})

    def names(self) -> list[str]:
        """The states of all seeds."""
        return [self.state.state(row).name for row in range(len(self.state))]


@pytest.fixture
def world() -> World:
    """Six idle seeds."""
    return World()


def test_a_command_moves_its_seed_and_counts_no_epoch(world: World) -> None:
    """State, epochs, parent and history change together; the others stay as they were."""
    world.state.update([0, 1], {"epochs_in_state": 4})
    result = world.step([(1, "request_germination")])
    assert world.names() == ["DORMANT", "GERMINATED", *["DORMANT"] * 4]
    assert world.state.epochs.tolist() == [4, 0, 0, 0, 0, 0]
    assert world.state["parent_state"].tolist() == [-1, 0, -1, -1, -1, -1]
    assert [state.name for state in world.state.history(1)] == ["DORMANT"]
    assert (result.rows.tolist(), result.recycled.tolist()) == ([1], [])
    assert result.before.tolist() == [0] * 6
    assert torch.equal(result.after, world.state.codes)
    edge = world.state.lifecycle.edges[int(result.edge[1])]
    assert (edge.source.name, edge.target.name) == ("DORMANT", "GERMINATED")
    assert (result.edge < 0).sum() == 5


def test_a_tick_counts_epochs_of_those_that_stay(world: World) -> None:
    """A seed's first tick in a state has epochs 0; the count saturates."""
    world.place(0, "GERMINATED", epochs_in_state=7)
    world.state.update([1], {"epochs_in_state": 32_767})
    world.step(tick=True)
    assert world.names()[0] == "TRAINING"
    assert world.state.epochs.tolist() == [0, 32_767, 1, 1, 1, 1]


def test_a_step_without_commands_needs_no_mask(world: World) -> None:
    """None stands for no commands."""
    assert step(world.state, None, world.context, world.limits, True).rows.tolist() == []


@pytest.mark.parametrize("lifecycle", [Lifecycle.default(), Lifecycle.v1()], ids=lambda l: l.name)
def test_a_tick_at_rest_is_a_step(lifecycle: Lifecycle) -> None:
    """It does to every state that nothing leaves by itself what a whole step does to it."""
    still = np.flatnonzero(~lifecycle.moves_by_itself).tolist()
    assert 0 < len(still) < len(lifecycle.State)
    ages = [0, 1, 500, lifecycle.tables.MOST_EPOCHS - 1, lifecycle.tables.MOST_EPOCHS]
    one, other = (StateTensor(len(still) * len(ages), lifecycle=lifecycle) for _ in range(2))
    for state in (one, other):
        state.codes.copy_(torch.tensor(still).repeat(len(ages)))
        state.epochs.copy_(torch.tensor(ages).repeat_interleave(len(still)))
        assert is_at_rest(state)
    context = ContextTable(len(one), lifecycle=lifecycle)
    assert step(one, None, context, LimitTable(lifecycle), True).rows.tolist() == []
    rest(other)
    for name, column in one.columns.items():
        assert torch.equal(column, other[name]), name
    for code in np.flatnonzero(lifecycle.moves_by_itself):
        other.codes[0] = int(code)
        assert not is_at_rest(other)


def test_capacity_three_gives_three(world: World) -> None:
    """The longest waiting go first; the refused stay, count on and are told."""
    world.limits.override("max_training", 3)
    for row, waited in enumerate([1, 5, 5, 0, 9, 5]):
        world.place(row, "GERMINATED", epochs_in_state=waited)
    result = world.step(tick=True)
    assert result.rows.tolist() == [1, 2, 4]
    assert result.refused.nonzero().squeeze(1).tolist() == [0, 3, 5]
    assert world.state.epochs.tolist() == [2, 0, 0, 1, 0, 6]
    assert world.step(tick=True).refused.sum() == 3


def test_a_recycled_slot_begins_a_new_generation(world: World) -> None:
    """Its columns are the defaults again; history and generation belong to the slot and stay."""
    world.state.move([2], 3)
    world.place(2, "CULLED", epochs_in_state=3, error_count=5, blueprint_id=1, alpha=0.0)
    world.context.set([2], "alpha", 0.0)
    result = world.step(tick=True)
    assert result.recycled.tolist() == result.rows.tolist() == [2]
    kept = {"generation": 1, "history": [0, 8, *[-1] * 8], "history_count": 2}
    fresh = StateTensor(1)
    for name, column in world.state.columns.items():
        assert column[2].tolist() == kept.get(name, fresh[name][0].tolist())


def test_generations_saturate(world: World) -> None:
    """The last one stays the last one."""
    world.place(0, "CULLED", epochs_in_state=3, generation=2_147_483_647)
    assert world.step(tick=True).recycled.tolist() == [0]
    assert int(world.state["generation"][0]) == 2_147_483_647


def test_commands_that_move_nothing_say_why(world: World) -> None:
    """Illegal, superseded and used commands are told apart."""
    world.place(1, "FOSSILIZED")
    result = world.step(
        [
            (0, "emergency"),
            (0, "cancel"),
            (1, "cancel"),
            (2, "request_germination"),
            (2, "request_germination"),
        ]
    )
    events = world.state.lifecycle.Event
    assert list(result.unused_events) == [
        (0, events["cancel"], Refusal.SUPERSEDED),
        (1, events["cancel"], Refusal.ILLEGAL),
    ]
    assert len(result.unused_events) == 2


def test_an_automatic_event_cannot_be_commanded(world: World) -> None:
    """Its bit moves nothing, between ticks or at one, and is reported."""
    world.place(0, "GRAFTING", epochs_in_state=2)
    events = torch.zeros(6, dtype=torch.int32)
    complete = world.state.lifecycle.Event["complete"]
    events[0] = 1 << complete
    result = step(world.state, events, world.context, world.limits, False)
    assert list(result.unused_events) == [(0, complete, Refusal.ILLEGAL)]
    assert world.names()[0] == "GRAFTING"


def test_inputs_are_not_written(world: World) -> None:
    """Neither the mask nor the measurements."""
    world.place(0, "EVALUATING")
    world.context.set(0, "evaluation_score", float("nan"))
    events = torch.zeros(6, dtype=torch.int32)
    events[1] = 7
    context = [field.clone() for field in world.context.vector()]
    step(world.state, events, world.context, world.limits, True)
    assert events.tolist() == [0, 7, 0, 0, 0, 0]
    for before, after in zip(context, world.context.vector(), strict=True):
        assert torch.equal(before.nan_to_num(7), after.nan_to_num(7))


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (
            torch.zeros(6, dtype=torch.int64),
            "events must be int32 [6], one bit mask a seed; they are int64 [6]",
        ),
        (
            torch.zeros(5, dtype=torch.int32),
            "events must be int32 [6], one bit mask a seed; they are int32 [5]",
        ),
        (
            torch.tensor([0, 0, 1 << 20, 0, 0, 0], dtype=torch.int32),
            "row 2: events 0x100000 has bits that name no event; legal bits: 0x1fff",
        ),
        (
            torch.tensor([-1, 0, 0, 0, 0, 0], dtype=torch.int32),
            "row 0: events 0xffffffff has bits that name no event; legal bits: 0x1fff",
        ),
        (
            torch.zeros(6, dtype=torch.int32, device="meta"),
            "events: on meta, where the state is on cpu; move it by .to(state.device)",
        ),
    ],
)
def test_a_mask_that_does_not_fit_steps_nothing(
    world: World, events: torch.Tensor, message: str
) -> None:
    """The message says what is legal."""
    before = world.state.snapshot()
    with pytest.raises(InvalidStep) as caught:
        step(world.state, events, world.context, world.limits, True)
    assert str(caught.value) == message
    assert torch.equal(before.epochs, world.state.epochs)


def test_measurements_must_be_of_the_same_seeds(world: World) -> None:
    """A table of another length is refused."""
    with pytest.raises(InvalidStep) as caught:
        step(world.state, None, ContextTable(5), world.limits, False)
    assert str(caught.value) == (
        "context field 'reconstruction_loss' must have one value for each of 6 seeds; its shape "
        "is [5]"
    )
    with pytest.raises(InvalidStep) as caught:
        step(world.state, None, ContextTable(6, device="meta"), world.limits, False)
    assert str(caught.value) == (
        "context field 'reconstruction_loss': on meta, where the state is on cpu; move it by "
        ".to(state.device)"
    )


def test_a_refused_measurement_stops_the_step_before_anything_moves(world: World) -> None:
    """Also when it was written past the table's own check."""
    world.context["stability"][4] = float("inf")
    with pytest.raises(RefusedValue, match="context field 'stability', row 4: infinity is refused"):
        world.step([(0, "request_germination")])
    assert set(world.names()) == {"DORMANT"}


def test_a_queue_refuses_what_does_not_exist(world: World) -> None:
    """In the thread that asks, not later in the one that steps."""
    with pytest.raises(UnknownRow, match="there is no row 6; rows go from 0 to 5"):
        world.queue.put(6, "cancel")
    with pytest.raises(UnknownName, match=r"no command 'promote'; it has: emergency, cancel, req"):
        world.queue.put(0, "promote")
    with pytest.raises(UnknownName, match=r"no event 'cancle'.*did you mean 'cancel'"):
        world.queue.put(0, "cancle")
    assert world.queue.drain().commands == ()


def test_a_command_for_a_life_that_is_over_is_not_applied(world: World) -> None:
    """It comes back as stale; one for the current life, or for any, goes into the mask."""
    world.state.update([0, 1], {"generation": 2})
    old = world.queue.put(0, "cancel", generation=1)
    new = world.queue.put(1, "cancel", generation=2)
    whoever = world.queue.put(2, "emergency")
    drained = world.queue.drain()
    assert (drained.commands, drained.stale) == ((new, whoever), (old,))
    assert drained.events.tolist() == [0, 2, 1, 0, 0, 0]


def test_a_spec_without_generations_has_no_stale_commands() -> None:
    """Every command is for the only life that there is."""
    lifecycle = Lifecycle.v1()
    queue = CommandQueue(StateTensor(1, lifecycle=lifecycle))
    command = queue.put(0, lifecycle.commands[0], generation=3)
    assert queue.drain().commands == (command,)


def test_unused_events_of_a_large_step_are_tensors(world: World) -> None:
    """Rows ascend, and events within a row."""
    result = world.step([(row, event) for row in (4, 2) for event in ("cancel", "emergency")])
    unused: Any = result.unused_events
    assert unused.rows.tolist() == [2, 4]
    assert unused.events.tolist() == [1, 1]
