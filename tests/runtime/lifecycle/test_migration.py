"""Rows of an older spec become rows of this one, or are refused with what to declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kasmina.lifecycle import Lifecycle, MigrationError, StateMismatch, StateTensor, migrate
from kasmina.lifecycle.ring import recall, relay
from kasmina_generator import read_spec
from kasmina_generator.migration import stored_columns
from tests.generator.specs import DOOR, spoil
from tests.runtime.lifecycle.packages import built

OLD_COLUMNS = """\
schema: kasmina/state@1
name: door_state
meaning: What was kept of a door.
columns:
  where: {dtype: int8, role: state, meaning: Its state.}
  ticks: {dtype: int16, role: epochs, meaning: For how long.}
  before: {dtype: int8, role: parent, meaning: The state before.}
  path: {dtype: int8, length: 3, role: history, meaning: States left.}
  moves: {dtype: int32, role: history_count, meaning: How many.}
  paint: {dtype: float64, length: 3, fields: [red, green, blue], default: 0.0, meaning: Colour.}
  visits: {dtype: int32, default: 0, meaning: People who passed.}
  keys: {dtype: int32, default: 0, meaning: Keys that fit.}
  squeak: {dtype: bool, default: false, meaning: It needs oil.}
"""
NEW_COLUMNS = """\
schema: kasmina/state@1
name: gate_state
meaning: What is kept of a gate.
columns:
  state: {dtype: int8, role: state, meaning: Its state.}
  age: {dtype: int16, role: epochs, meaning: For how long.}
  parent: {dtype: int8, role: parent, meaning: The state before.}
  path: {dtype: int8, length: 5, role: history, meaning: States left.}
  moves: {dtype: int16, role: history_count, meaning: How many.}
  paint: {dtype: float32, length: 2, fields: [blue, white], default: 0.5, meaning: Colour.}
  passed: {dtype: int8, default: 0, meaning: People who passed.}
  keys: {dtype: float32, default: 0, meaning: Keys that fit.}
  height: {dtype: float32, default: 2.0, meaning: In metres.}
"""
OLD = spoil(DOOR, "initial: SHUT", "state: door_state.yaml\ninitial: SHUT")
GATE = spoil(spoil(DOOR, "name: door", "name: gate"), "initial: SHUT", "state: gate_state.yaml\ninitial: SHUT")  # fmt: skip
GATE = GATE.replace("code: 1,", "code: 7,").replace("OPEN", "WIDE")
MIGRATIONS = """\
migrations:
  - from: {{file: door.yaml, digest: {digest}}}
    states: {{SHUT: SHUT, OPEN: WIDE, LOCKED: SHUT}}
    columns: {{visits: passed}}
    meaning: A lock is a thing of its own now.
"""


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lifecycle, Lifecycle]:
    """The door, and the gate that takes its rows over."""
    folder = tmp_path_factory.mktemp("machines")
    files = {"door.yaml": OLD, "door_state.yaml": OLD_COLUMNS, "gate_state.yaml": NEW_COLUMNS}
    for name, text in files.items():
        (folder / name).write_text(text)
    digest = read_spec(folder / "door.yaml").digest
    (folder / "gate.yaml").write_text(GATE + MIGRATIONS.format(digest=digest))
    return built(folder / "door.yaml", folder / "old"), built(folder / "gate.yaml", folder / "new")


@pytest.fixture
def stored(machines: tuple[Lifecycle, Lifecycle]) -> dict[str, Any]:
    """Five doors that have been used."""
    door = StateTensor(5, lifecycle=machines[0])
    for state in (1, 0, 1, 0, 2):
        door.move([3], state)
    door.move([1, 4], 1)
    values: dict[str, Any] = {
        "ticks": 4,
        "visits": 100,
        "keys": 3,
        "squeak": True,
        "paint": [[0.1, 0.2, 0.3]],
    }
    door.update([1], values)
    return door.state_dict()


def loaded(state_dict: dict[str, Any], gate: Lifecycle) -> StateTensor:
    """What a gate's tensor holds after it has taken the rows over."""
    state = StateTensor(5, lifecycle=gate)
    state.load_state_dict(migrate(state_dict, to=gate))
    return state


def test_the_five_states_become_eleven() -> None:
    """The migration that Kasmina ships: each of the old states, and the four columns."""
    old = StateTensor(5, lifecycle=Lifecycle.v1())
    columns: dict[str, Any] = {"blueprint": 2, "epochs": [0, 1, 2, 3, 4], "strategy": 1}
    old.update(range(5), {"state": [0, 1, 2, 3, 4], **columns})
    state = StateTensor(5)
    state.load_state_dict(migrate(old.state_dict()))
    assert [state.state(row).name for row in range(5)] == [
        "DORMANT", "TRAINING", "GRAFTING", "FOSSILIZED", "CULLED",
    ]  # fmt: skip
    assert state.epochs.tolist() == [0, 1, 2, 3, 4]
    assert state["blueprint_id"].tolist() == [2] * 5
    assert state["grafting_strategy"].tolist() == [1] * 5
    fresh = StateTensor(5)
    taken = {"lifecycle_state", "epochs_in_state", "blueprint_id", "grafting_strategy"}
    assert all(torch.equal(state[name], fresh[name]) for name in state.columns.keys() - taken)


def test_codes_parents_and_histories_are_mapped(
    machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any]
) -> None:
    """Everywhere a code stands it becomes the new one; -1 for none stays."""
    gate = loaded(stored, machines[1])
    assert [gate.state(row).name for row in range(5)] == ["SHUT", "WIDE", "SHUT", "SHUT", "WIDE"]
    assert gate["parent"].tolist() == [-1, 0, -1, 0, 0]
    assert [state.name for state in gate.history(3)] == ["SHUT", "WIDE", "SHUT"]
    assert [state.name for state in gate.history(1)] == ["SHUT"]
    assert gate.history(0) == ()


def test_a_longer_history_goes_on_where_it_was(
    machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any]
) -> None:
    """The ring of three is a ring of five now, and fills up."""
    gate = loaded(stored, machines[1])
    for state in (7, 0, 7):
        gate.move([3], state)
    assert [state.name for state in gate.history(3)] == ["WIDE", "SHUT", "SHUT", "WIDE", "SHUT"]


def test_columns_are_copied_dropped_or_begin_anew(
    machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any]
) -> None:
    """By declaration, by role, by name; entries by the names of their own."""
    gate = loaded(stored, machines[1])
    assert gate.epochs.tolist() == [0, 4, 0, 0, 0]
    assert gate["passed"].tolist() == [0, 100, 0, 0, 0]
    assert gate["keys"].tolist() == [0, 3, 0, 0, 0]
    assert gate["height"].tolist() == [2.0] * 5
    torch.testing.assert_close(gate["paint"][1], torch.tensor([0.3, 0.5]))
    assert "squeak" not in gate.columns


def test_nothing_is_written_into_what_was_stored(
    machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any]
) -> None:
    """The result shares no memory with the old tensors."""
    before = {name: column.clone() for name, column in stored["columns"].items()}
    moved = migrate(stored, to=machines[1])
    for column in moved["columns"].values():
        column.zero_()
    assert all(torch.equal(before[name], stored["columns"][name]) for name in before)


def test_the_same_digest_needs_no_migration() -> None:
    """A copy comes back."""
    stored = StateTensor(2).state_dict()
    same = migrate(stored)
    same["columns"]["alpha"].fill_(0.5)
    assert same["digest"] == stored["digest"]
    assert stored["columns"]["alpha"].sum() == 0


def test_no_rows_are_no_exception(machines: tuple[Lifecycle, Lifecycle]) -> None:
    """An empty tensor becomes an empty tensor."""
    moved = migrate(StateTensor(0, lifecycle=machines[0]).state_dict(), to=machines[1])
    assert {len(column) for column in moved["columns"].values()} == {0}


def test_an_unknown_digest_is_refused_with_what_to_declare(
    machines: tuple[Lifecycle, Lifecycle],
) -> None:
    """Both digests, the migrations that there are, and the text to add."""
    door, gate = machines
    stored = StateTensor(1, lifecycle=gate).state_dict()
    with pytest.raises(MigrationError) as caught:
        migrate(stored, to=door)
    assert str(caught.value) == (
        "a state dict of spec 'gate' cannot become one of 'door': it was stored under digest "
        f"{gate.digest}, this lifecycle has {door.digest}, and migrations are declared from: none. "
        "Keep the old spec as a file beside the new one, add to its migrations "
        f"{{from: {{file: OLD.yaml, digest: {gate.digest}}}, states: {{OLD: NEW, ...}}, "
        "meaning: ...}, and build again"
    )
    with pytest.raises(MigrationError, match=rf"declared from: {door.digest} \(door version 1\)\."):
        migrate({**stored, "digest": "0" * 64}, to=gate)
    with pytest.raises(MigrationError, match=r"of spec None .* stored under digest None,"):
        migrate({}, to=gate)


def test_loading_says_what_to_do(machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any]) -> None:  # fmt: skip
    """A state tensor refuses rows of another digest and names the migration, or its lack."""
    door, gate = machines
    with pytest.raises(StateMismatch) as caught:
        StateTensor(5, lifecycle=gate).load_state_dict(stored)
    assert caught.value.differences[1] == (
        f"digest: {door.digest!r} was saved, this lifecycle has {gate.digest!r}; a migration from "
        "'door' version 1 is declared: load what kasmina.lifecycle.migrate(state_dict, "
        "to=lifecycle) gives"
    )
    with pytest.raises(StateMismatch, match=r"migrations are declared from: none\. Keep the old"):
        StateTensor(5, lifecycle=door).load_state_dict(migrate(stored, to=gate))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("where", 3, "column 'where', row 2: 3 is the code of no state of 'door' version 1"),
        ("where", -1, "column 'where', row 2: -1 is the code of no state of 'door' version 1"),
        ("where", -7, "column 'where', row 2: -7 is the code of no state of 'door' version 1"),
        ("before", 9, "column 'before', row 2: 9 is the code of no state of 'door' version 1"),
        ("path", 4, "column 'path', row 2: 4 is the code of no state of 'door' version 1"),
        ("visits", 128, "column 'visits', row 2: 128 does not fit into column 'passed', which is int8"),
        ("paint", 1e300, "column 'paint', row 2: 1e+300 does not fit into column 'paint', which is float32"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_refused(
    machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any], column: str, value: float, message: str
) -> None:  # fmt: skip
    """Column, row and value are named; nothing is converted."""
    stored["columns"][column][2] = value
    with pytest.raises(MigrationError) as caught:
        migrate(stored, to=machines[1])
    assert str(caught.value) == f"{message}; nothing was converted"


def test_values_that_a_float_stores_otherwise_are_refused(
    machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any]
) -> None:
    """An integer column may become a float one as long as each value is the same number."""
    stored["columns"]["keys"][0] = (1 << 24) + 1
    with pytest.raises(MigrationError, match="'keys', row 0: 16777217 does not fit into"):
        migrate(stored, to=machines[1])
    stored["columns"]["keys"][0] = 1 << 24
    assert migrate(stored, to=machines[1])["columns"]["keys"][0] == 1 << 24


def test_infinities_and_nan_stay(
    machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any]
) -> None:
    """Rounding to a shorter float refuses only what it makes infinite."""
    stored["columns"]["paint"][0, 2] = float("inf")
    stored["columns"]["paint"][1, 2] = float("nan")
    moved = migrate(stored, to=machines[1])["columns"]["paint"]
    assert moved[0, 0] == float("inf")
    assert moved[1, 0].isnan()


def test_columns_that_the_old_spec_did_not_store_are_told_together(
    machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any]
) -> None:
    """Missing, unknown, of another dtype or shape, or no tensor at all."""
    columns = stored["columns"]
    del columns["keys"]
    columns["colour"] = torch.zeros(5)
    columns["visits"] = columns["visits"].long()
    columns["path"] = columns["path"][:, :2]
    columns["ticks"] = torch.tensor(3, dtype=torch.int16)
    columns["squeak"] = [True] * 5
    with pytest.raises(MigrationError) as caught:
        migrate(stored, to=machines[1])
    assert str(caught.value) == (
        "the state dict is none of 'door' version 1, nothing was converted:\n"
        "- column 'colour' is unknown there\n"
        "- column 'keys' is missing\n"
        "- column 'path' has shape [5, 2], declared is [rows, 3]\n"
        "- column 'squeak' is a list, not a tensor\n"
        "- column 'ticks' has shape [], declared is [rows]\n"
        "- column 'visits' is torch.int64, declared is int32"
    )


def test_columns_of_unequal_length_are_refused(
    machines: tuple[Lifecycle, Lifecycle], stored: dict[str, Any]
) -> None:
    """One row a seed in every column."""
    stored["columns"]["keys"] = stored["columns"]["keys"][:4]
    with pytest.raises(MigrationError, match=r"- its columns have \[4, 5\] rows"):
        migrate(stored, to=machines[1])


@given(
    moves=st.integers(0, 40),
    old=st.integers(1, 9),
    new=st.integers(1, 9),
    highest=st.sampled_from([127, 32767]),
)
def test_a_ring_of_another_length_recalls_the_newest(
    moves: int, old: int, new: int, highest: int
) -> None:
    """Whatever the lengths: the newest states in order, and the next one finds its place."""
    ring = [-1] * old
    for place in range(moves):
        ring[place % old] = place
    tensor = torch.tensor([ring], dtype=torch.int16)
    turned, count = relay(tensor, torch.tensor([moves]), new, highest)
    kept = list(range(moves))[-min(old, new) :]
    assert recall(turned[0].tolist(), int(count[0])) == kept
    entries = turned[0].tolist()
    entries[int(count[0]) % new] = 99
    assert recall(entries, int(count[0]) + 1) == [*kept, 99][-new:]


def test_a_count_that_does_not_fit_goes_back_by_whole_turns() -> None:
    """The place in the ring stays."""
    ring = torch.tensor([[7, 8, 9]], dtype=torch.int8)
    turned, count = relay(ring, torch.tensor([40_000]), 3, 127)
    assert int(count[0]) <= 126
    assert recall(turned[0].tolist(), int(count[0])) == recall([7, 8, 9], 40_000)


def test_the_generator_and_the_runtime_store_the_same_two_columns(tmp_path: Path) -> None:
    """A spec without a state file stores what a step needs, on both sides."""
    spec = tmp_path / "door.yaml"
    spec.write_text(DOOR)
    there = [(c.name, c.dtype, c.length, c.role) for c in stored_columns(read_spec(spec))]
    here = built(spec, tmp_path / "built").columns
    assert there == [(c.name, c.dtype, c.length, c.role) for c in here]
