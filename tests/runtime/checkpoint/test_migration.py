"""Older formats and older specs are taken over, or refused with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3

from kasmina.checkpoint import CheckpointManager, MigrationRefused, NoCheckpoint, Retention
from kasmina.checkpoint.disk import reading
from kasmina.checkpoint.v1 import COLUMNS
from kasmina.lifecycle import Lifecycle, MigrationError, StateTensor, migrate
from tests.faults.disks import contents, filled, number_in
from tests.runtime.checkpoint import golden

GOLDEN_DIGESTS = {
    "checkpoint_000007.safetensors": "add81e2c",
    "checkpoint_000012.safetensors": "37489f40",
}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A directory with the golden checkpoints of format 1."""
    shutil.copytree(golden.GOLDEN, tmp_path / "c")
    return tmp_path / "c"


def test_the_golden_files_are_what_they_were() -> None:
    """A reader of today reads what was written then, byte for byte."""
    found = {
        path.name: blake3(path.read_bytes()).hexdigest()[:8]
        for path in sorted(golden.GOLDEN.glob("*.safetensors"))
    }
    assert found == GOLDEN_DIGESTS
    assert Lifecycle.v1().digest == golden.DIGEST
    assert {column.name for column in Lifecycle.v1().columns} == COLUMNS.keys()


def test_format_1_becomes_format_2(old: Path) -> None:
    """Columns, other tensors, time, priority and device; the old files stay."""
    done = CheckpointManager(old).migrate()
    assert done.taken == ("000000000007-add81e2c", "000000000012-37489f40")
    assert (done.refused, done.removed, done.converted) == ((), (), ())
    found = CheckpointManager(old).restore()
    assert found.id == "000000000012-37489f40"
    manifest, given = found.manifest, found.contents()
    assert (manifest.priority, manifest.created) == ("high", "2025-01-24T10:11:12.345Z")
    assert [(step.what, step.source, step.result) for step in manifest.migrations] == [
        ("format", "checkpoint_000012.safetensors", "2")
    ]
    assert given.state is not None
    assert given.state["digest"] == golden.DIGEST
    assert given.state["columns"]["state"].tolist() == [0, 1, 2, 3, 4, 0]
    assert given.parts["tensors"]["host.0.weight"].tolist()[2] == [1.0, 1.125, 1.25, 1.375]
    assert given.metadata == {"torch_version": "2.1.0", "format_1": "checkpoint_000012.json"}
    assert len(list(old.iterdir())) == 6


def test_doing_it_twice_changes_nothing(old: Path) -> None:
    """The id follows from what was taken over."""
    CheckpointManager(old).migrate()
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    done = CheckpointManager(old).migrate()
    assert (done.taken, len(done.unchanged)) == ((), 2)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


def test_old_files_go_when_they_are_asked_to(old: Path) -> None:
    """Also where they were taken over before."""
    CheckpointManager(old).migrate()
    done = CheckpointManager(old).migrate(remove=True)
    assert len(done.removed) == 4
    assert sorted(path.suffix for path in old.iterdir()) == [".ckpt", ".ckpt"]


def test_an_old_file_that_is_read_is_not_said_to_be_removed(old: Path) -> None:
    """What was deleted and what was not is told as it is; both hold what they held."""
    with reading(old / "checkpoint_000012.json"):
        done = CheckpointManager(old).migrate(remove=True)
    assert done.removed == ("checkpoint_000007.json", "checkpoint_000007.safetensors")
    (error,) = done.refused
    assert type(error) is MigrationRefused
    assert str(error) == (
        f"{old}/checkpoint_000012.json: somebody reads it, so it was not deleted; "
        "000000000012-37489f40 holds all of it, so it may be deleted by hand"
    )
    left = sorted(path.name for path in old.iterdir() if path.suffix != ".ckpt")
    assert left == ["checkpoint_000012.json", "checkpoint_000012.safetensors"]
    assert len(CheckpointManager(old).migrate(remove=True).removed) == 2


def test_two_old_files_of_one_number_are_both_taken_over(old: Path) -> None:
    """`checkpoint_7` is another file than `checkpoint_000007`; they get ids of their own."""
    for suffix in (".json", ".safetensors"):
        (old / f"checkpoint_000012{suffix}").rename(old / f"checkpoint_7{suffix}")
    done = CheckpointManager(old).migrate(remove=True)
    assert done.taken == ("000000000007-add81e2c", "000000000007-37489f40")
    assert (len(done.removed), done.refused) == (4, ())


def test_two_old_files_of_one_number_with_equal_tensors(old: Path) -> None:
    """They would be one checkpoint: the second is refused, stays, and its JSON is not lost."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(old / f"checkpoint_000007{suffix}", old / f"checkpoint_7{suffix}")
    for _ in range(2):
        done = CheckpointManager(old).migrate(remove=True)
        (error,) = done.refused
        assert type(error) is MigrationRefused
        assert str(error) == (
            f"{old}/checkpoint_7.json: has the number and the tensors of another one, which became "
            "000000000007-add81e2c; move one of them to a directory of its own"
        )
        assert (old / "checkpoint_7.json").exists()
    assert len(CheckpointManager(old).list()) == 2


def test_new_checkpoints_are_newer_than_old_ones(old: Path) -> None:
    """Numbers go on behind those of format 1, taken over or not."""
    manager = CheckpointManager(old)
    id_ = manager.save(contents(1))
    assert id_.startswith("000000000013-")
    manager.migrate()
    assert manager.restore().id == id_


def test_a_directory_of_format_1_says_what_to_do(old: Path) -> None:
    """There is no latest before it was migrated."""
    with pytest.raises(NoCheckpoint) as caught:
        CheckpointManager(old).restore()
    assert str(caught.value) == (
        f"{old}: there is no checkpoint; it holds 2 of format 1: take them over with "
        f"kasmina checkpoint migrate {old}"
    )


def to_present(state: dict[str, Any]) -> dict[str, Any]:
    """What the command does: `kasmina.lifecycle.migrate` on torch columns."""
    columns = {name: torch.as_tensor(column) for name, column in state["columns"].items()}
    return migrate({**state, "columns": columns})


def test_rows_come_under_the_present_spec(old: Path) -> None:
    """Both steps in one call; a StateTensor of today loads what comes out."""
    present = Lifecycle.default()
    done = CheckpointManager(old).migrate(to_present, digest=present.digest)
    assert len(done.converted) == 2
    found = CheckpointManager(old).restore()
    assert [step.what for step in found.manifest.migrations] == ["format", "spec"]
    state = StateTensor(6)
    given = found.contents()
    assert given.state is not None
    state.load_state_dict(given.state)
    names = [state.state(row).name for row in range(6)]
    assert names == ["DORMANT", "TRAINING", "GRAFTING", "FOSSILIZED", "CULLED", "DORMANT"]
    assert state["epochs_in_state"].tolist() == [0, 1, 8, 60, 16383, 4]
    again = CheckpointManager(old).migrate(to_present, digest=present.digest)
    assert (again.converted, len(again.unchanged)) == ((), 2)


def test_an_archive_is_converted_too(old: Path) -> None:
    """It stays an archive, so that no prune deletes it; what it holds is under the present spec."""
    manager = CheckpointManager(old)
    (first, _) = manager.migrate(remove=True).taken
    manager.archive(first)
    done = manager.migrate(to_present)
    assert first in done.converted
    assert manager.verify(first)[0].fault is None
    found = manager.restore(first)
    assert found.manifest.data.packed is not None
    state = found.contents().state
    assert state is not None
    assert state["digest"] == Lifecycle.default().digest
    assert manager.prune(Retention(0, 0)).deleted == ()


def test_a_spec_without_a_migration_is_refused(tmp_path: Path) -> None:
    """The reason is the lifecycle's own; the file is as it was."""
    manager, (id_,) = filled(tmp_path, 1)
    before = (tmp_path / f"{id_}.ckpt").read_bytes()
    (error,) = manager.migrate(to_present).refused
    assert type(error) is MigrationRefused
    assert str(error).startswith(
        f"{tmp_path}/{id_}.ckpt: a state dict of spec 'lifecycle' cannot become one of 'lifecycle': "
        f"it was stored under digest {'0' * 64}, this lifecycle has "
    )
    assert isinstance(error.__cause__, MigrationError)
    assert (tmp_path / f"{id_}.ckpt").read_bytes() == before
    assert number_in(manager.restore().contents()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.zeros(3, np.int8)}, "one number a seed each"),
        ({"state": np.zeros(6, np.int16)}, "its columns are {'state': ('I16', [6])"),
        ({"state": np.zeros((6, 1), np.int8)}, "one number a seed each"),
    ],
)
def test_columns_that_are_not_those_of_format_1(
    change: dict[str, Any], message: str, old: Path
) -> None:
    """They are told with what is there; the other checkpoint is taken over."""
    from safetensors.numpy import load_file, save_file

    path = old / "checkpoint_000007.safetensors"
    save_file({**load_file(path), **change}, path)
    done = CheckpointManager(old).migrate(remove=True)
    assert done.taken == ("000000000012-37489f40",)
    (error,) = done.refused
    assert str(path) in str(error)
    assert message in str(error)
    assert path.exists()


def test_a_file_of_format_1_that_is_missing_or_too_long(old: Path) -> None:
    """Tensors without JSON are none; JSON without tensors is refused."""
    (old / "checkpoint_000007.safetensors").unlink()
    (old / "checkpoint_000012.json").write_text(json.dumps({"x": "y" * (1 << 20)}))
    errors = [str(error) for error in CheckpointManager(old).migrate().refused]
    assert errors == [
        f"{old}/checkpoint_000007.safetensors: cannot be read: No such file or directory",
        f"{old}/checkpoint_000012.json: has {(1 << 20) + 9} bytes; legal are {1 << 20}",
    ]
