"""The state tensor: atomic updates, history, copies."""

from __future__ import annotations

import copy
from threading import Event as Signal
from threading import Thread
from typing import Any

import pytest
import torch

from kasmina.lifecycle import (
    ConcurrentWrite,
    InvalidUpdate,
    Lifecycle,
    StateMismatch,
    StateTensor,
    UnknownName,
)

_NAN = float("nan")
_CODES = "it holds codes of states: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"
_OR_ONE = "or one number for all"


@pytest.fixture
def state() -> StateTensor:
    """Six fresh seeds."""
    return StateTensor(6)


def _columns(state: StateTensor) -> dict[str, torch.Tensor]:
    return {name: column.clone() for name, column in state.columns.items()}


def test_fresh_seeds_hold_the_defaults(state: StateTensor) -> None:
    """Every row is in the initial state and every column holds what the spec declares."""
    assert state.codes.tolist() == [state.lifecycle.initial] * 6
    for column in state.lifecycle.columns:
        if column.role != "state":
            assert (state[column.name] == column.default).all()
    assert state["history"].shape == (6, 10)


def test_a_seed_takes_at_most_150_bytes(state: StateTensor) -> None:
    """The figure is what the columns really occupy."""
    held = sum(column.untyped_storage().nbytes() for column in state.columns.values())
    assert state.bytes_per_seed == held / 6 <= 150


def test_v1_has_four_columns() -> None:
    """The earlier system's machine stores four numbers a seed."""
    old = StateTensor(3, lifecycle=Lifecycle.v1())
    assert set(old.lifecycle.roles) == {"state", "epochs"}
    assert len(old.columns) == 4
    assert old.history(0) == ()


def test_an_update_writes_rows_and_nothing_else(state: StateTensor) -> None:
    """Lists, numbers for all rows, and entries with a length."""
    state.update([4, 1], {"alpha": [0.25, 0.5], "blueprint_id": 7, "metrics": torch.ones(2, 4)})
    assert state["alpha"].tolist() == [0, 0.5, 0, 0, 0.25, 0]
    assert state["blueprint_id"].tolist() == [-1, 7, -1, -1, 7, -1]
    assert state["metrics"].sum(1).tolist() == [0, 4, 0, 0, 4, 0]


def test_rows_may_be_a_slice_one_row_or_none(state: StateTensor) -> None:
    """All the ways to name rows."""
    state.update(slice(2, 4), {"ramp_steps": [1, 2]})
    state.update(5, {"ramp_steps": 9})
    state.update([], {"ramp_steps": []})
    assert state["ramp_steps"].tolist() == [0, 0, 1, 2, 0, 9]


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        ([0, 6], {"alpha": 0.5}, "there is no row 6; rows go from 0 to 5"),
        ([-1], {"alpha": 0.5}, "there is no row -1; rows go from 0 to 5"),
        ([1, 2, 1], {"alpha": 0.5}, "row 1 is named more than once"),
        ([[1]], {"alpha": 0.5}, "rows must be a list of integers, not int64 of shape [1, 1]"),
        ([0.5], {"alpha": 0.5}, "rows must be a list of integers, not float32 of shape [1]"),
        ([True], {"alpha": 0.5}, "rows must be a list of integers, not bool of shape [1]"),
        (
            [3, 4],
            {"alpha": [0.5, _NAN]},
            "column 'alpha', row 4: nan is not legal; float32 from 0.0 to 1.0, no NaN",
        ),
        (
            [3, 4],
            {"alpha": [1.5, 0.5]},
            "column 'alpha', row 3: 1.5 is not legal; float32 from 0.0 to 1.0, no NaN",
        ),
        (
            [2],
            {"blueprint_id": 40_000},
            "column 'blueprint_id', row 2: 40000 is not legal; int16 from -32768 to 32767",
        ),
        (
            [2],
            {"generation": -1},
            "column 'generation', row 2: -1 is not legal; int32 from 0 to 2147483647",
        ),
        (
            [2],
            {"lifecycle_state": 11},
            f"column 'lifecycle_state', row 2: 11 is not legal; {_CODES}",
        ),
        (
            [2],
            {"parent_state": -2},
            f"column 'parent_state', row 2: -2 is not legal; {_CODES.replace('0, 1,', '-1, 0, 1,')}",
        ),
        (
            [2],
            {"blueprint_id": torch.tensor([1.0])},
            "column 'blueprint_id' is int16, its new values are float32; convert them",
        ),
        (
            [2],
            {"alpha": torch.tensor([True])},
            "column 'alpha' is float32, its new values are bool; convert them",
        ),
        (
            [2],
            {"generation": [1 << 70]},
            "column 'generation' takes int32 numbers, not [1180591620717411303424]",
        ),
        ([2], {"alpha": "high"}, "column 'alpha' takes float32 numbers, not 'high'"),
        (
            [2, 3],
            {"metrics": torch.zeros(4)},
            f"column 'metrics' takes values of shape [2, 4] for 2 rows, {_OR_ONE}; it was given [4]",
        ),
    ],
)
def test_a_bad_update_names_the_fault_and_writes_nothing(
    state: StateTensor, rows: Any, values: dict[str, Any], message: str
) -> None:
    """A good column beside the bad one stays as it was, too."""
    before = _columns(state)
    with pytest.raises(InvalidUpdate) as caught:
        state.update(rows, {"ramp_steps": 1, **values})
    assert str(caught.value) == f"{message}; nothing was written"
    assert all(torch.equal(before[name], state[name]) for name in before)


def test_an_unknown_column_is_refused_with_a_hint(state: StateTensor) -> None:
    """The near name is offered, and nothing is written."""
    with pytest.raises(UnknownName, match=r"has no column 'alhpa'; it has: .*did you mean 'alpha'"):
        state.update([0], {"ramp_steps": 1, "alhpa": 0.5})
    assert state["ramp_steps"].sum() == 0


def test_float_columns_that_measure_may_hold_anything(state: StateTensor) -> None:
    """Only a column whose context field refuses infinity is held to finite numbers."""
    state.update([0], {"evaluation_score": float("-inf"), "metrics": torch.full((1, 4), _NAN)})
    assert state["metrics"][0].isnan().all()


def test_counters_saturate(state: StateTensor) -> None:
    """Counting beyond a column's range stays at its end."""
    state.update([0, 1], {"error_count": [32_766, 3]})
    state.increment([0, 1], "error_count", 5)
    assert state["error_count"].tolist() == [32_767, 8, 0, 0, 0, 0]


def test_only_integers_count_and_only_up(state: StateTensor) -> None:
    """Anything else is refused."""
    for column, by in [("alpha", 1), ("error_count", -1)]:
        with pytest.raises(InvalidUpdate, match=f"column '{column}' cannot count up by {by}"):
            state.increment([0], column, by)


def test_history_keeps_the_last_ten_in_order(state: StateTensor) -> None:
    """The ring turns; the list does not show it."""
    names = state.lifecycle.State
    path = [names(code % 11) for code in range(13)]
    for target in path:
        state.move([2], target)
    left = [state.lifecycle.initial, *path[:-1]]
    assert state.history(2) == tuple(left[-10:])
    assert int(state["history_count"][2]) == 13
    assert state.history(0) == ()


def test_history_survives_the_end_of_its_counter(state: StateTensor) -> None:
    """The count goes back by one turn of the ring, not to zero, and order is kept."""
    state.update([0], {"history_count": 32_758, "history": torch.zeros(1, 10, dtype=torch.int8)})
    for code in (1, 2, 3, 4):
        state.move([0], code)
    assert int(state["history_count"][0]) == 32_752
    assert [int(code) for code in state.history(0)] == [0] * 7 + [1, 2, 3]


def test_a_forced_move_keeps_what_a_step_keeps(state: StateTensor) -> None:
    """Epochs begin anew, the state left is the parent; an unknown state changes nothing."""
    state.update([1], {"lifecycle_state": 3, "epochs_in_state": 5})
    state.move([1], 10)
    assert (state.state(1).name, int(state.epochs[1])) == ("ROLLED_BACK", 0)
    assert int(state["parent_state"][1]) == 3
    with pytest.raises(InvalidUpdate, match="11 is not legal"):
        state.move([1], 11)
    assert state.state(1).name == "ROLLED_BACK"


def test_a_view_counts_rows_from_its_start(state: StateTensor) -> None:
    """A site sees its own rows, and follows every change."""
    site = state.rows(2, 5)
    site.update([0, 2], {"alpha": [0.5, 1.0]})
    assert len(site) == 3
    assert site["alpha"].tolist() == [0.5, 0.0, 1.0]
    assert state["alpha"].tolist() == [0, 0, 0.5, 0, 1.0, 0]
    with pytest.raises(InvalidUpdate, match="there is no row 3; rows go from 0 to 2"):
        site.update([3], {"alpha": 0.0})


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 7)])
def test_a_view_lies_within_the_rows(state: StateTensor, start: int, stop: int) -> None:
    """Other ranges are refused."""
    with pytest.raises(InvalidUpdate, match=f"rows {start} to {stop} are not within 0 to 6"):
        state.rows(start, stop)


def test_a_copy_does_not_follow(state: StateTensor) -> None:
    """Snapshots and deep copies stay as they were, and share the lifecycle."""
    kept, copied = state.snapshot(), copy.deepcopy(state)
    state.move([0], 3)
    assert kept.state(0) is copied.state(0) is state.lifecycle.initial
    assert len(kept) == len(copied) == 6
    assert copied.lifecycle is state.lifecycle


def test_columns_stay_where_they_are(state: StateTensor) -> None:
    """A kernel that holds a pointer sees every update."""
    before = {name: column.data_ptr() for name, column in state.columns.items()}
    state.update([0], {"alpha": 0.5})
    state.move([0], 3)
    state.load_state_dict(state.state_dict())
    assert before == {name: column.data_ptr() for name, column in state.columns.items()}


def test_all_columns_move_to_a_device(state: StateTensor) -> None:
    """`to` works in place and returns the tensor; the meta device stands for any other."""
    assert state.to("meta") is state
    assert {column.device.type for column in state.columns.values()} == {"meta"}
    assert state.device.type == "meta"


def test_a_state_dict_brings_everything_back(state: StateTensor) -> None:
    """Also into a fresh tensor; the saved tensors are copies."""
    state.move([1, 4], 3)
    state.update([4], {"alpha": 0.5})
    saved, other = state.state_dict(), StateTensor(6)
    state.move([0], 2)
    other.load_state_dict(saved)
    assert all(torch.equal(saved["columns"][name], other[name]) for name in other.columns)
    assert other.history(4) == (state.lifecycle.initial,)


def test_a_state_dict_that_does_not_fit_lists_every_difference(state: StateTensor) -> None:
    """Nothing is loaded."""
    saved = StateTensor(6).state_dict()
    columns = saved["columns"]
    del columns["alpha"]
    columns["beta"] = torch.zeros(6)
    columns["ramp_steps"] = torch.zeros(5, dtype=torch.int32)
    columns["generation"] = torch.zeros(6, dtype=torch.int64)
    columns["lifecycle_state"] = torch.full((6,), 99, dtype=torch.int8)
    columns["checkpoint_id"] = torch.full((6,), 5, dtype=torch.int32)
    with pytest.raises(StateMismatch) as caught:
        state.load_state_dict({**saved, "digest": "other"})
    assert [difference.split(";")[0] for difference in caught.value.differences] == [
        f"digest: 'other' was saved, this lifecycle has {state.lifecycle.digest!r}",
        "column 'beta' is unknown here",
        "column 'lifecycle_state', row 0: 99 is not legal",
        "column 'generation': torch.int64 [6] was saved, torch.int32 [6] is here",
        "column 'alpha' is missing",
        "column 'ramp_steps': torch.int32 [5] was saved, torch.int32 [6] is here",
    ]
    assert str(caught.value).startswith(
        "the state dict does not fit this state tensor, nothing was loaded:\n- digest: "
    )
    assert int(state["checkpoint_id"][0]) == -1


def test_another_lifecycle_cannot_be_loaded(state: StateTensor) -> None:
    """Spec and digest are both named."""
    with pytest.raises(StateMismatch, match="spec: 'lifecycle_v1' was saved"):
        state.load_state_dict(StateTensor(6, lifecycle=Lifecycle.v1()).state_dict())


def test_a_second_writer_gets_a_clear_error(state: StateTensor) -> None:
    """While one thread writes, another one is sent to the queue; reading goes on."""
    inside, done = Signal(), Signal()

    def hold() -> None:
        with state.writing():
            inside.set()
            done.wait(10)

    writer = Thread(target=hold, name="stepper")
    writer.start()
    inside.wait(10)
    try:
        with pytest.raises(ConcurrentWrite) as caught:
            state.update([0], {"alpha": 0.5})
        assert state.snapshot()["alpha"].sum() == 0
    finally:
        done.set()
        writer.join()
    assert str(caught.value) == (
        "thread 'MainThread' tried to write the state tensor while thread 'stepper' writes it; "
        "one thread steps, all others put commands into its CommandQueue"
    )
    state.update([0], {"alpha": 0.5})


def test_it_says_what_it_is(state: StateTensor) -> None:
    """The text for a debugger."""
    assert repr(state) == "StateTensor(6 seeds of 'lifecycle' on cpu)"
