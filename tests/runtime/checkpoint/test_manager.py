"""The face of the room: what may be saved, what comes back, and errors that name the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kasmina
from kasmina.checkpoint import (
    ArchiveRefused,
    BadContents,
    BadName,
    CheckpointManager,
    Contents,
    NoCheckpoint,
    Retention,
    StoreFailed,
)
from kasmina.checkpoint.names import CheckpointId
from kasmina.checkpoint.store import Loaded, Store
from kasmina.lifecycle import Lifecycle, StateTensor
from tests.faults.disks import Failing, contents, filled, number_in
from tests.helpers import run_python


def test_everything_of_a_run_comes_back(tmp_path: Path) -> None:
    """The state tensor loads, parts are equal, and the manifest tells what was saved."""
    state = StateTensor(7)
    state.update([1, 2], {"alpha": [0.25, 0.5]})
    given = Contents(
        state=state.state_dict(),
        parts={"model": {"w": torch.ones(2, 3)}, "data": {"epoch": 1, "index": 2}},
        architecture=[{"site": "0", "slot": 1}],
        metadata={"log_offset": 7, "best": float("inf")},
        device="cuda:0",
    )
    manager = CheckpointManager(tmp_path)
    first = manager.save(given)
    second = manager.save(given, priority="high")
    found = manager.restore(second)
    back = found.contents()
    fresh = StateTensor(7)
    assert back.state is not None
    fresh.load_state_dict(back.state)
    assert torch.equal(fresh["alpha"], state["alpha"])
    assert torch.equal(back.parts["model"]["w"], torch.ones(2, 3))
    assert back.parts["data"] == {"epoch": 1, "index": 2}
    assert (back.architecture, back.metadata) == (given.architecture, given.metadata)
    manifest = found.manifest
    assert (manifest.parent, manifest.priority, manifest.device) == (first, "high", "cuda:0")
    assert manifest.spec is not None
    assert (manifest.spec.name, manifest.spec.digest) == ("lifecycle", Lifecycle.default().digest)
    assert (manifest.schema["metrics"].dtype, manifest.schema["metrics"].shape) == ("F32", (7, 4))
    assert manifest.torch is not None
    assert manifest.torch.startswith(torch.__version__.partition("+")[0])
    assert manifest.created.endswith("Z")
    assert len(manifest.created) == len("2026-01-01T00:00:00.000Z")


def test_empty_contents_are_contents(tmp_path: Path) -> None:
    """Also as an archive."""
    manager = CheckpointManager(tmp_path)
    id_ = manager.save(Contents())
    assert manager.restore(id_).contents() == Contents()
    manager.archive(id_)
    manager.archive(id_)
    assert manager.restore(id_).contents() == Contents()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"state": {"spec": "a"}}, "state: not a dict of spec, digest, columns, as StateTensor"),
        ({"state": {"spec": 1, "digest": "b", "columns": {}}}, "state['spec']: a int"),
        ({"state": {"spec": "a", "digest": "b", "columns": []}}, "state['columns']: a list"),
        (
            {"state": {"spec": "a", "digest": "b", "columns": {"x": [1]}}},
            "state['x']: a column is one numpy array or torch tensor",
        ),
        ({"parts": [1]}, "parts: a list, not a dict of parts by name"),
        ({"parts": {1: 2}}, "part 1: no name of a part; 'state' is the state tensor"),
        ({"parts": {"$a": 2}}, "part '$a': no name of a part"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    given: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """With the place in the message, in the foreground and in the background."""
    manager = CheckpointManager(tmp_path)
    for blocking in (True, False):
        with pytest.raises(BadContents) as caught:
            manager.save(Contents(**given), blocking=blocking)
        assert str(caught.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_a_state_dict_alone_is_no_contents(tmp_path: Path) -> None:
    """The message says how to wrap it."""
    with pytest.raises(BadContents) as caught:
        CheckpointManager(tmp_path).save(torch.nn.Linear(2, 2).state_dict())  # type: ignore[arg-type]
    assert str(caught.value) == (
        "contents: a OrderedDict; give a state dict as Contents(parts={'model': it}); nothing was "
        "written"
    )


def test_a_priority_is_one_of_two(tmp_path: Path) -> None:
    """The legal ones stand in the message."""
    with pytest.raises(BadContents) as caught:
        CheckpointManager(tmp_path).save(Contents(), priority="urgent")  # type: ignore[arg-type]
    assert str(caught.value) == ("priority: 'urgent'; legal are normal, high; nothing was written")


def test_a_manifest_has_a_limit(tmp_path: Path) -> None:
    """What is large belongs into an array."""
    with pytest.raises(BadContents, match=r"metadata: 67109\d+ bytes as JSON; legal are 67108864"):
        CheckpointManager(tmp_path).save(Contents(metadata="x" * (1 << 26)))


def test_an_archive_that_no_reader_would_take_is_not_made(tmp_path: Path) -> None:
    """100 MB of zeros look like a bomb; the checkpoint stays as it was."""
    manager = CheckpointManager(tmp_path)
    id_ = manager.save(Contents(parts={"zeros": np.zeros(100_000_000, np.uint8)}))
    with pytest.raises(ArchiveRefused, match="which a reader would take for a bomb; it was left"):
        manager.archive(id_)
    assert manager.verify(id_)[0].fault is None


def test_what_is_not_there_cannot_be_used(tmp_path: Path) -> None:
    """Each method says so, with the newest that is there."""
    manager, ids = filled(tmp_path, 1)
    for call in (manager.restore, manager.verify, manager.archive):
        with pytest.raises(
            NoCheckpoint, match=f"there is no checkpoint .*; the newest is {ids[0]}"
        ):
            call("000000000009-00000000")


def parents(manager: CheckpointManager) -> list[str | None]:
    """Of all checkpoints, the oldest first."""
    return [manager.restore(str(e.id)).manifest.parent for e in reversed(manager.list())]


def test_the_parent_is_the_one_before_or_the_one_that_is_named(tmp_path: Path) -> None:
    """Looking at another one changes nothing; a run that went back to one says so."""
    manager, ids = filled(tmp_path, 3)
    manager.restore(ids[0])
    fourth = manager.save(contents(4))
    fifth = manager.save(contents(5), parent=ids[1])
    manager.save(contents(6), blocking=False)
    manager.flush()
    assert parents(manager) == [None, ids[0], ids[1], ids[2], ids[1], fifth]
    assert fourth in ids[2:] or fourth > ids[2]
    with pytest.raises(BadName, match="'x' is no id of a checkpoint"):
        manager.save(contents(7), parent="x")


@pytest.mark.parametrize("blocking", [True, False])
def test_a_save_that_failed_is_no_parent(blocking: bool, tmp_path: Path) -> None:
    """Those behind it name the one that is durable, also while they wait in one queue."""
    disk = Failing("fsync", 2, times=1)
    manager = CheckpointManager(tmp_path, disk=disk, queue=4)
    first = manager.save(contents(1))
    with pytest.raises(StoreFailed):
        manager.save(contents(2), blocking=blocking)
        for number in (3, 4):
            manager.save(contents(number), blocking=blocking)
        manager.flush()
    last = manager.save(contents(5))
    assert disk.fired == 1
    found = parents(manager)
    assert found[:2] == [None, first]
    assert len(found) == len(manager.list())
    assert manager.restore(last).manifest.parent in [str(e.id) for e in manager.list()]


def test_priorities_have_quotas_of_their_own(tmp_path: Path) -> None:
    """A save leaves what retention says."""
    manager = CheckpointManager(tmp_path, retention=Retention(normal=1, high=2))
    for number in range(1, 9):
        manager.save(contents(number), priority="high" if number in (1, 2, 3) else "normal")
    left = [number_in(manager.restore(str(e.id)).contents()) for e in manager.list()]
    assert left == [8, 3, 2]
    with pytest.raises(ValueError, match="normal is -1; legal is 0 or more"):
        Retention(normal=-1)


def test_a_damaged_one_takes_no_place_and_is_not_deleted(tmp_path: Path) -> None:
    """Also where only its tensors are damaged, which its manifest does not show."""
    manager, ids = filled(tmp_path, 5)
    path = tmp_path / f"{ids[3]}.ckpt"
    path.write_bytes(path.read_bytes()[:-73] + b"?" + path.read_bytes()[-72:])
    assert CheckpointManager(tmp_path).prune(Retention(2)).deleted == tuple(ids[:2])
    with_retention = CheckpointManager(tmp_path, retention=Retention(2))
    sixth = with_retention.save(contents(6))
    left = [str(entry.id) for entry in manager.list()]
    assert left == [sixth, ids[4], ids[3]]


def test_a_save_reads_each_old_one_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its own never; a prune by hand reads all, for files may rot."""
    filled(tmp_path, 3)
    manager = CheckpointManager(tmp_path, retention=Retention(2))
    read: list[int] = []
    load = Store.load

    def noted(store: Store, id_: CheckpointId) -> Loaded:
        read.append(id_.number)
        return load(store, id_)

    monkeypatch.setattr(Store, "load", noted)
    for number in (4, 5):
        manager.save(contents(number))
    assert read == [3, 2, 1]
    read.clear()
    manager.prune()
    assert read == [5, 4]


def test_the_core_needs_no_torch() -> None:
    """Nor numpy; and the manager is found at the top."""
    code = """
import sys, kasmina.checkpoint
assert not {"torch", "numpy"} & set(sys.modules)
kasmina.checkpoint.CheckpointManager(sys.argv[1] if sys.argv[1:] else ".", sweep=False).list()
assert not {"torch", "numpy"} & set(sys.modules)
"""
    done = run_python(code)
    assert (done.returncode, done.stderr) == (0, "")
    assert kasmina.CheckpointManager is CheckpointManager


@pytest.mark.parametrize("number", ["0000000000042", "00000000000000", "000000000000042"])
def test_a_number_has_one_way_to_be_written(number: str, tmp_path: Path) -> None:
    """A copy under a longer name is a file of somebody else's, and latest does not look for it."""
    manager = CheckpointManager(tmp_path)
    saved = manager.save(contents(1))
    (file,) = tmp_path.glob("*.ckpt")
    (tmp_path / f"{number}-1a2b3c4d.ckpt").write_bytes(file.read_bytes())
    assert [str(entry.id) for entry in manager.list()] == [saved]
    assert str(manager.restore().id) == saved


def test_a_leftover_that_cannot_be_removed_keeps_no_other(tmp_path: Path) -> None:
    """A directory has the name of a leftover; the files are swept all the same."""
    (tmp_path / ".000000000001-aaaaaaaa.aaaaaaaa.tmp").mkdir()
    for mark in ("bbbbbbbb", "cccccccc", "dddddddd"):
        (tmp_path / f".000000000001-{mark}.{mark}.tmp").write_bytes(b"x")
    CheckpointManager(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".000000000001-aaaaaaaa.aaaaaaaa.tmp"]
