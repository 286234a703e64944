"""The bundle around a generated package, built in or loaded from a directory."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kasmina.errors import KasminaError
from kasmina.lifecycle import (
    Column,
    Lifecycle,
    LifecycleManager,
    LimitTable,
    PackageError,
    StateTensor,
    UnknownName,
)

from .packages import MACHINES, built, edited

DEFAULT = Lifecycle.default()
_RESTING = """\
  RESTING:
    {code: 11, plane: identity, trains: host, blueprint: forbidden, max_epochs: 3, meaning: Waits.}
"""
_TO_REST = """\
  - {from: GERMINATED, on: request_germination, to: RESTING}
  - {from: RESTING, on: expire, to: CANCELLED, guard: timed_out}
"""


def test_the_built_in_ones_are_made_once() -> None:
    """Eleven states and five; compared by identity and never copied."""
    assert (len(DEFAULT.State), len(Lifecycle.v1().State)) == (11, 5)
    assert Lifecycle.default() is DEFAULT is copy.deepcopy(DEFAULT)
    assert Lifecycle.v1() is not DEFAULT
    assert DEFAULT.digest != Lifecycle.v1().digest


def test_a_pickle_names_a_built_in_one() -> None:
    """The same object comes back; one that was built elsewhere is refused with what to do."""
    for lifecycle in (DEFAULT, Lifecycle.v1()):
        assert pickle.loads(pickle.dumps(lifecycle)) is lifecycle  # noqa: S301  our own
    foreign = Lifecycle.from_package(DEFAULT.package)
    with pytest.raises(KasminaError) as error:
        pickle.dumps(foreign)
    assert str(error.value) == (
        "the lifecycle 'lifecycle' was built elsewhere and cannot be pickled; pickle the model's "
        "state_dict(), or fold(model), or save the run with a checkpoint"
    )


def test_commands_are_what_somebody_may_ask_for() -> None:
    """All other events happen by themselves."""
    assert [event.name for event in DEFAULT.commands] == [
        "emergency", "cancel", "request_germination",
    ]  # fmt: skip


def test_edges_with_room_lead_into_a_capacity() -> None:
    """From outside only; a spec without capacities has none."""
    entered = {DEFAULT.edges[edge].target.name for edge in DEFAULT.edges_with_room}
    assert entered == {"TRAINING", "GRAFTING"}
    assert Lifecycle.v1().edges_with_room == frozenset()


def test_attributes_follow_state_codes() -> None:
    """In any shape; codes, values and names agree."""
    codes = torch.tensor([[0, 2], [3, 7]], dtype=torch.int8)
    planes = DEFAULT.attribute("plane")
    named = [[planes(int(code)).name for code in row] for row in DEFAULT.plane_of(codes)]
    assert named == [["identity", "shadow"], ["blend", "full"]]
    assert DEFAULT.attribute_of("trains", codes).dtype == torch.uint8
    assert DEFAULT.attribute_values("plane")["blend"] == DEFAULT.attribute_code("plane", "blend")
    assert np.array_equal(DEFAULT.tables.STATE_PLANE, DEFAULT.plane_of(torch.arange(11)).numpy())


def test_unknown_attributes_and_values_list_the_known() -> None:
    """Each with a hint."""
    with pytest.raises(UnknownName) as attribute:
        DEFAULT.attribute_of("plain", torch.tensor([0]))
    assert str(attribute.value) == (
        "the lifecycle 'lifecycle' has no attribute 'plain'; it has: plane, trains, blueprint; "
        "did you mean 'plane'?"
    )
    with pytest.raises(UnknownName, match="no value of plane 'mix'; it has: identity, shadow, bl"):
        DEFAULT.attribute_code("plane", "mix")
    with pytest.raises(UnknownName, match="no event 99; it has: emergency"):
        DEFAULT.event(99)


def test_a_limit_a_plane_and_a_state_come_from_the_yaml(tmp_path: Path) -> None:
    """No Python is touched: build, load, and the runtime behaves by the new spec."""
    spec = edited(
        tmp_path,
        ("max_training: {dtype: int32, default: 64", "max_training: {dtype: int32, default: 2"),
        ("{code: 1, plane: identity", "{code: 1, plane: shadow"),
        (
            "  ROLLED_BACK:\n    {code: 10,",
            f"{_RESTING}  ROLLED_BACK:\n    {{code: 10,",
        ),
        (
            "transitions:\n",
            f"transitions:\n{_TO_REST}",
        ),
    )
    lifecycle = built(spec, tmp_path / "out")
    assert LimitTable(lifecycle)["max_training"] == 2
    codes = torch.tensor([lifecycle.State["GERMINATED"]])
    assert int(lifecycle.plane_of(codes)) == lifecycle.attribute_code("plane", "shadow")
    seed = LifecycleManager(lifecycle)
    seed.trigger("request_germination")
    assert seed.trigger("request_germination").target.name == "RESTING"


def test_packages_live_side_by_side(tmp_path: Path) -> None:
    """The same directory before and after an edit of equal length, within the same second."""
    old = built(edited(tmp_path, ("default: 0.7,", "default: 0.3,")), tmp_path / "out")
    new = built(edited(tmp_path, ("default: 0.7,", "default: 0.4,")), tmp_path / "out")
    assert LimitTable(old)["max_reconstruction_loss"] == torch.tensor(0.3).item()
    assert LimitTable(new)["max_reconstruction_loss"] == torch.tensor(0.4).item()
    assert old.package.__name__ != new.package.__name__
    assert old.package.__name__ in sys.modules
    assert not list((tmp_path / "out").glob("__pycache__"))


def test_a_machine_that_knows_no_seeds(tmp_path: Path) -> None:
    """No stored columns: the two that a step needs are there; own attributes have their names."""
    light = built(MACHINES / "traffic_light.yaml", tmp_path / "light")
    state = StateTensor(2, lifecycle=light)
    assert [column.role for column in light.columns] == ["state", "epochs"]
    assert state.state(0) is light.initial
    assert light.attribute("priority_road").__members__.keys() == {"ignored", "counts"}
    with pytest.raises(UnknownName, match="no attribute 'plane'; it has: lamp, priority_road"):
        light.plane_of(state.codes)


def test_columns_of_every_dtype(tmp_path: Path) -> None:
    """Bool and int64 columns hold what they should."""
    shop = built(MACHINES / "orders.yaml", tmp_path / "shop")
    state = StateTensor(2, lifecycle=shop)
    state.update([1], {"express": True, "customer": 1 << 40})
    assert state["express"].tolist() == [False, True]
    assert state["customer"].tolist() == [0, 1 << 40]
    assert isinstance(shop.columns[0], Column)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package as the build leaves it."""
    return Path(built(edited(tmp_path), tmp_path / "out").package.__file__ or "").parent


def _refusal(directory: Path) -> str:
    with pytest.raises(PackageError) as caught:
        Lifecycle.from_directory(directory)
    return str(caught.value)


def test_a_path_that_is_no_directory(tmp_path: Path) -> None:
    """Missing, or a file."""
    for name in ("none", "file"):
        (tmp_path / "file").touch()
        assert _refusal(tmp_path / name) == (
            f"{tmp_path / name}: is no directory; give the --out of a kasmina spec build"
        )


def test_a_directory_without_a_package(tmp_path: Path) -> None:
    """All missing modules are listed, and how to make them."""
    (tmp_path / "tables.py").touch()
    assert _refusal(tmp_path) == (
        f"{tmp_path}: is no generated package, it lacks __init__.py, guards.py, lifecycle.py, "
        "machine.py, vector.py; make one with kasmina spec build FILE --out DIR"
    )


def test_a_hand_edit_is_refused_before_it_runs(package: Path) -> None:
    """With the command that makes the file again."""
    guards = package / "guards.py"
    command = guards.read_text().splitlines()[0].partition("again: ")[2]
    guards.write_text(guards.read_text() + "\nraise SystemExit('ran')\n")
    assert _refusal(package) == (
        f"{guards}: was edited by hand; edit the spec and build again: {command}"
    )
    assert command.startswith("kasmina spec build lifecycle.yaml --out ")


@pytest.mark.parametrize("line", [0, 2, 4])
def test_a_broken_header_is_refused(package: Path, line: int) -> None:
    """The mark, the digest or the checksum."""
    vector = package / "vector.py"
    lines = vector.read_text().splitlines(keepends=True)
    lines[line] = "# gone\n"
    vector.write_text("".join(lines))
    assert _refusal(package) == (
        f"{vector}: does not begin with a whole header of Kasmina; build the package again with "
        "kasmina spec build FILE --out DIR"
    )


def test_modules_of_two_specs_are_refused(package: Path, tmp_path: Path) -> None:
    """Each is whole, but they do not belong together."""
    (tmp_path / "other").mkdir()
    other = edited(tmp_path / "other", ("default: 0.7,", "default: 0.8,"))
    built(other, tmp_path / "other" / "out")
    (package / "vector.py").write_text((tmp_path / "other/out/vector.py").read_text())
    assert _refusal(package) == (
        f"{package / 'vector.py'}: comes from another spec than __init__.py; build the package "
        "again as a whole"
    )
