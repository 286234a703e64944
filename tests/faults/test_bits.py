"""Bytes that change, vanish, appear or change places are noticed, each one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kasmina.checkpoint import CheckpointManager, Damaged, NoCheckpoint, NothingIntact
from kasmina.checkpoint.frame import FOOTER, HEADER
from tests.faults.disks import contents, filled, number_in

Count = Callable[[str, object], None]


@pytest.fixture(params=["raw", "zstd"])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[CheckpointManager, list[str]]:
    """Two small checkpoints, the newer one in either encoding."""
    manager, ids = filled(tmp_path / "c", 2)
    if request.param == "zstd":
        manager.archive(ids[1])
    return manager, ids


def path_of(manager: CheckpointManager, id_: str) -> Path:
    """The file of a checkpoint."""
    return manager.directory / f"{id_}.ckpt"


def assert_falls_back(manager: CheckpointManager, ids: list[str]) -> None:
    """The newer one is refused by its type, the older one is found, and the report says so."""
    found = manager.restore()
    assert (found.id, number_in(found.contents())) == (ids[0], 1)
    assert [type(error) for error in found.skipped] == [Damaged]
    assert found.skipped[0].path == path_of(manager, ids[1])


def test_every_flipped_bit_is_found(
    two: tuple[CheckpointManager, list[str]], record_property: Count
) -> None:
    """100% of all single bits of the file, header to footer."""
    manager, ids = two
    path = path_of(manager, ids[1])
    whole = path.read_bytes()
    found = 0
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                with pytest.raises(Damaged):
                    manager.restore(ids[1])
                found += 1
            assert_falls_back(manager, ids)
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert number_in(manager.restore(ids[1]).contents()) == 2
    assert found == 8 * len(whole)
    record_property("counted", f"{found} of {8 * len(whole)} flipped bits found")


def test_every_length_but_the_right_one_is_found(
    two: tuple[CheckpointManager, list[str]], record_property: Count
) -> None:
    """Cut anywhere, or with anything behind it."""
    manager, ids = two
    path = path_of(manager, ids[1])
    whole = path.read_bytes()
    longer = [whole + more for more in (b"\0", b"x" * 7, whole, bytes(4096))]
    for wrong in [*(whole[:length] for length in range(len(whole))), *longer]:
        path.write_bytes(wrong)
        with pytest.raises(Damaged):
            manager.restore(ids[1])
        assert_falls_back(manager, ids)
    record_property("counted", f"{len(whole)} truncations and {len(longer)} extensions found")


def test_damage_is_told_by_what_it_is(tmp_path: Path) -> None:
    """Empty, cut, foreign, edited in head or tensors: each has words of its own."""
    manager, (id_,) = filled(tmp_path, 1)
    path = path_of(manager, id_)
    whole = path.read_bytes()
    expected = {
        b"": "is empty",
        whole[:40]: "is cut: it has 40 bytes, the header alone has 64",
        whole[:-1]: f"has {len(whole) - 1} bytes, its header says {len(whole)}",
        b"hello" * 40: "is no checkpoint: it does not begin with the mark of one",
        whole[:9] + b"\1" + whole[10:]: "its header differs from its digest",
        whole[:HEADER] + b"?" + whole[HEADER + 1 :]: (
            "header, manifest or footer differ from their digest"
        ),
        whole[: -FOOTER - 1] + b"?" + whole[-FOOTER:]: "its tensors differ from their digest",
    }
    for wrong, message in expected.items():
        path.write_bytes(wrong)
        with pytest.raises(Damaged) as caught:
            manager.restore(id_)
        assert str(caught.value) == f"{path}: {message}"


def test_exchanged_files_are_found(tmp_path: Path) -> None:
    """A valid file under the name of another one is refused; the third one is taken."""
    manager, ids = filled(tmp_path, 3)
    one, two = path_of(manager, ids[1]), path_of(manager, ids[2])
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    found = manager.restore()
    assert (found.id, number_in(found.contents())) == (ids[0], 1)
    assert [error.what for error in found.skipped] == [
        f"holds checkpoint {other!r}; it was renamed or exchanged, so give it its own name back"
        for other in (ids[1], ids[2])
    ]


def test_a_stale_manifest_is_found(tmp_path: Path) -> None:
    """The head of one checkpoint before the tensors of another, although both are valid."""
    manager, ids = filled(tmp_path, 2)
    old, new = (path_of(manager, id_).read_bytes() for id_ in ids)
    head = HEADER + int.from_bytes(new[16:24], "little")
    assert len(old) == len(new)
    path_of(manager, ids[1]).write_bytes(new[:head] + old[head:-FOOTER] + new[-FOOTER:])
    assert_falls_back(manager, ids)
    path_of(manager, ids[1]).write_bytes(new[:head] + old[head:])
    assert_falls_back(manager, ids)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    """The id is not there; the latest is the one before; the message names it."""
    manager, ids = filled(tmp_path, 2)
    path_of(manager, ids[1]).unlink()
    with pytest.raises(NoCheckpoint) as caught:
        manager.restore(ids[1])
    assert type(caught.value) is NoCheckpoint
    assert str(caught.value) == (
        f"{tmp_path}: there is no checkpoint {ids[1]}; the newest is {ids[0]}"
    )
    assert manager.restore().id == ids[0]


def test_all_copies_damaged_is_an_error_of_its_own(tmp_path: Path) -> None:
    """It lists what is wrong with each, and deletes none."""
    manager, ids = filled(tmp_path, 3)
    for id_ in ids:
        path_of(manager, id_).write_bytes(b"")
    with pytest.raises(NothingIntact) as caught:
        manager.restore()
    assert [error.what for error in caught.value.damaged] == ["is empty"] * 3
    assert str(caught.value).startswith(f"{tmp_path}: none of its 3 checkpoints is intact:\n- ")
    assert manager.prune().deleted == ()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_directory_without_checkpoints_has_no_latest(tmp_path: Path) -> None:
    """Empty, or with other files only."""
    (tmp_path / "notes.txt").write_text("not ours")
    with pytest.raises(NoCheckpoint) as caught:
        CheckpointManager(tmp_path).restore()
    assert str(caught.value) == f"{tmp_path}: there is no checkpoint"


def test_damage_does_not_stop_saving(tmp_path: Path) -> None:
    """After a fallback the run goes on, and its next checkpoint is the newest."""
    manager, ids = filled(tmp_path, 2)
    path_of(manager, ids[1]).write_bytes(b"torn")
    found = manager.restore()
    assert found.report == (
        f"went back to {ids[0]}, because:\n- {path_of(manager, ids[1])}: is no checkpoint: "
        "it does not begin with the mark of one"
    )
    fresh = manager.save(contents(3), parent=found.id)
    again = manager.restore()
    assert (again.id, again.skipped, again.manifest.parent) == (fresh, (), ids[0])


def test_the_last_intact_one_outlives_newer_damaged_ones(tmp_path: Path) -> None:
    """Retention of one keeps the newest that can be loaded, not the newest name."""
    from kasmina.checkpoint import Retention

    manager, ids = filled(tmp_path, 4)
    whole = path_of(manager, ids[3]).read_bytes()
    path_of(manager, ids[3]).write_bytes(whole[: -FOOTER - 1] + b"?" + whole[-FOOTER:])
    path_of(manager, ids[2]).write_bytes(b"")
    pruned = manager.prune(Retention(normal=0, high=0))
    assert (pruned.last_good, pruned.deleted) == (ids[1], (ids[0],))
    assert manager.restore().id == ids[1]
    shutil.rmtree(tmp_path)
