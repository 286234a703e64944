"""A disk that is full, broken, closed or slow leaves what was there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kasmina.checkpoint import (
    BadDirectory,
    CheckpointManager,
    Damaged,
    DiskFull,
    Retention,
    StoreFailed,
)
from tests.faults.disks import Failing, Short, Watched, contents, filled, leftovers, number_in
from tests.helpers import ROOT

Count = Callable[[str, object], None]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", ["create", "write", "fsync", "rename", "fsync_directory"])
def test_a_failed_call_leaves_the_old_state(
    call: str, code: int, tmp_path: Path, record_property: Count
) -> None:
    """At the first, second, ... call of a kind: the typed error, the old one, no leftover."""
    _, ids = filled(tmp_path, 1)
    nth = 0
    while True:
        nth += 1
        disk = Failing(call, nth, code)
        manager = CheckpointManager(tmp_path, disk=disk)
        try:
            manager.save(contents(2))
        except StoreFailed as error:
            assert type(error) is (
                DiskFull if code in (errno.ENOSPC, errno.EDQUOT) else StoreFailed
            )
            assert error.errno == code
        else:
            break
        assert disk.fired == 1
        found = CheckpointManager(tmp_path).restore()
        assert (found.id, number_in(found.contents()), found.skipped) == (ids[0], 1, ())
        assert list(leftovers(tmp_path)) == []
    assert nth > 1
    record_property("counted", f"{nth - 1} calls failed with {errno.errorcode[code]}")


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    """How much is needed, and how to make room."""
    manager = CheckpointManager(tmp_path, disk=Failing("write", 1, errno.ENOSPC))
    with pytest.raises(DiskFull) as caught:
        manager.save(contents(1))
    text = str(caught.value)
    assert text.startswith(f"writing {tmp_path}/000000000001-")
    assert "No space left on device; " in text
    assert text.endswith(
        "bytes are needed. Nothing was changed; free some space, or delete old checkpoints with "
        f"kasmina checkpoint prune {tmp_path}"
    )


def test_a_failed_fsync_is_never_called_again(tmp_path: Path) -> None:
    """The next save writes a new file; the one whose fsync failed is gone."""

    class Once(Watched):
        """Fails the first fsync of a file, and notes which file each fsync was for."""

        def __init__(self) -> None:
            super().__init__()
            self.synced: list[tuple[int, int]] = []

        def before(self, name: str, arguments: tuple[object, ...]) -> None:
            """Fail the first one."""
            if name == "fsync":
                status = os.fstat(int(str(arguments[0])))
                self.synced.append((status.st_ino, status.st_ctime_ns))
                if len(self.synced) == 1:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk = Once()
    manager = CheckpointManager(tmp_path, disk=disk)
    with pytest.raises(StoreFailed):
        manager.save(contents(1))
    assert list(tmp_path.iterdir()) == []
    id_ = manager.save(contents(2))
    assert manager.restore().id == id_
    assert len(disk.synced) == len(set(disk.synced)) == 2


@pytest.mark.parametrize("most", [1, 7, 64, 100])
def test_short_writes_are_continued(most: int, tmp_path: Path) -> None:
    """A disk that takes a few bytes a call gets them all."""
    disk = Short(most)
    manager = CheckpointManager(tmp_path, disk=disk)
    id_ = manager.save(contents(5))
    size = (tmp_path / f"{id_}.ckpt").stat().st_size
    assert disk.calls["write"] >= size / most
    assert number_in(manager.restore().contents()) == 5


def test_a_disk_that_takes_nothing_is_an_error(tmp_path: Path) -> None:
    """And not an endless loop."""
    disk = Short(0)
    with pytest.raises(StoreFailed, match="the disk took no byte; nothing was changed"):
        CheckpointManager(tmp_path, disk=disk).save(contents(1))
    assert disk.calls["write"] == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("operation", ["prune", "archive", "migrate"])
def test_errors_of_the_other_operations(operation: str, tmp_path: Path) -> None:
    """Nothing that was there is lost when deleting, replacing or taking over fails."""
    _, ids = filled(tmp_path, 3)
    disk = Failing("unlink" if operation == "prune" else "rename", code=errno.EACCES)
    manager = CheckpointManager(tmp_path, disk=disk)
    with pytest.raises(StoreFailed) as caught:
        if operation == "prune":
            manager.prune(Retention(1))
        elif operation == "archive":
            manager.archive(ids[0])
        else:
            manager.migrate(lambda state: {**state, "digest": "1" * 64}, digest="1" * 64)
    assert caught.value.errno == errno.EACCES
    assert disk.fired == 1
    whole = CheckpointManager(tmp_path)
    assert [number_in(whole.restore(id_).contents()) for id_ in ids] == [1, 2, 3]


def test_a_small_disk_fills_up(tmp_path: Path, record_property: Count) -> None:
    """On a tmpfs of 64 kB, or on a disk of as many bytes where none can be mounted."""
    code = """
import ctypes, os, sys
from pathlib import Path
from kasmina.checkpoint import CheckpointManager, DiskFull
from tests.faults.disks import contents, leftovers, number_in
from tests.faults.test_disk_errors import Budget
place, disk = Path(sys.argv[1]), None
libc = ctypes.CDLL(None, use_errno=True)
mounted = libc.unshare(0x00020000) == 0 and libc.mount(b"none", b"/", None, 0x44000, None) == 0
mounted = mounted and libc.mount(b"none", os.fsencode(place), b"tmpfs", 0, b"size=64k") == 0
manager = CheckpointManager(place, disk=None if mounted else Budget(64 << 10))
saved = []
try:
    while True:
        saved.append(manager.save(contents(len(saved) + 1, seeds=1000)))
except DiskFull as error:
    assert "No space left on device" in str(error), error
found = CheckpointManager(place).restore()
assert (found.id, number_in(found.contents())) == (saved[-1], len(saved))
assert list(leftovers(place)) == []
print("tmpfs" if mounted else "budget", len(saved))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kind, count = done.stdout.split()
    assert 2 <= int(count) <= 10
    record_property("counted", f"full after {count} checkpoints on a {kind} of 64 kB")


class Budget(Watched):
    """Has room for so many bytes; writes what fits, as a real disk does."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def write(self, file: int, data: memoryview) -> int:
        """Write what fits."""
        if self._room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = super().write(file, data[: self._room])
        self._room -= written
        return written


def test_a_budget_is_a_full_disk_too(tmp_path: Path) -> None:
    """Partial writes before the error are undone."""
    _, ids = filled(tmp_path, 1)
    disk = Budget(100)
    with pytest.raises(DiskFull):
        CheckpointManager(tmp_path, disk=disk).save(contents(2))
    assert disk.calls == Counter(create=1, write=1, unlink=1, make_directory=1)
    assert CheckpointManager(tmp_path).restore().id == ids[0]
    assert list(leftovers(tmp_path)) == []


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    """The message says what it is."""
    place = tmp_path / "c"
    place.write_text("")
    with pytest.raises(BadDirectory) as caught:
        CheckpointManager(place)
    assert str(caught.value) == f"{place}: is a file; give a directory of checkpoints"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """It is made only for those who save; removed under a run it is an error, not a crash."""
    with pytest.raises(BadDirectory) as caught:
        CheckpointManager(tmp_path / "no", create=False)
    assert str(caught.value) == f"{tmp_path}/no: there is no such directory"
    manager = CheckpointManager(tmp_path / "yes" / "deep")
    manager.directory.rmdir()
    with pytest.raises(BadDirectory):
        manager.save(contents(1))


def test_a_path_that_no_directory_can_have() -> None:
    """NUL, too long, below a file: each is an error of the store's own."""
    with pytest.raises(BadDirectory, match=r"'a\\x00b': a path holds no NUL"):
        CheckpointManager("a\0b")
    with pytest.raises(StoreFailed, match="File name too long; nothing was changed"):
        CheckpointManager("a" * 300)
    with pytest.raises(StoreFailed, match="Not a directory; nothing was changed"):
        CheckpointManager(Path(__file__) / "c")


def test_a_directory_in_place_of_a_checkpoint(tmp_path: Path) -> None:
    """It is damaged, not a crash; so is a pipe, which is not waited for, and a symbolic link."""
    manager, ids = filled(tmp_path, 1)
    (tmp_path / "000000000002-00000000.ckpt").mkdir()
    os.mkfifo(tmp_path / "000000000003-00000000.ckpt")
    (tmp_path / "000000000004-00000000.ckpt").symlink_to(tmp_path / f"{ids[0]}.ckpt")
    found = manager.restore()
    assert found.id == ids[0]
    assert [error.what for error in found.skipped] == [
        "is a symbolic link; checkpoints are plain files",
        "cannot be read: is not a regular file",
        "cannot be read: is not a regular file",
    ]
    assert all(type(error) is Damaged for error in found.skipped)
