"""A disk that is full, broken, closed or slow leaves what was there."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import warnings
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
from kasmina.cli import main
from tests.faults.disks import Failing, Short, Watched, contents, filled, leftovers, number_in
from tests.helpers import ROOT, run_python

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
    """How much is needed, and the command that makes room: it frees what it is said to free."""
    filled(tmp_path, 1)
    assert told_when_full(tmp_path).endswith(" Nothing was changed; free some space")
    filled(tmp_path, 3)
    before = sum(path.stat().st_size for path in tmp_path.iterdir())
    text = told_when_full(tmp_path)
    assert text.startswith(f"writing {tmp_path}/000000000005-")
    found = re.search(r"No space left on device; [\d,]+ bytes are needed\. Nothing was changed; free "
                      r"some space, or keep only the newest checkpoint and free ([\d,]+) bytes with "
                      r"kasmina (.*)$", text)  # fmt: skip
    assert found is not None
    assert found[2].split()[2] == str(tmp_path)
    assert main(found[2].split()) == 0
    (left,) = tmp_path.iterdir()
    assert before - left.stat().st_size == int(found[1].replace(",", ""))


def told_when_full(directory: Path) -> str:
    """What a save says where no byte can be written."""
    disk = Failing("write", 1, errno.ENOSPC)
    with pytest.raises(DiskFull) as caught:
        CheckpointManager(directory, disk=disk).save(contents(1))
    assert disk.fired == 1
    return str(caught.value)


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


def new_spec(state: dict[str, object]) -> dict[str, object]:
    """Rows under another digest."""
    return {**state, "digest": "1" * 64}


def test_what_cannot_be_deleted_keeps_no_other(tmp_path: Path) -> None:
    """A prune goes on, and tells which one stayed and why."""
    _, ids = filled(tmp_path, 4)
    disk = Failing("unlink", code=errno.EACCES, times=1)
    done = CheckpointManager(tmp_path, disk=disk).prune(Retention(1))
    (error,) = done.failed
    assert disk.fired == 1
    assert (type(error), error.errno) == (StoreFailed, errno.EACCES)
    assert str(error) == (
        f"deleting {tmp_path}/{ids[0]}.ckpt: Permission denied; nothing was changed"
    )
    assert done.deleted == tuple(ids[1:3])
    whole = CheckpointManager(tmp_path)
    assert number_in(whole.restore(ids[0]).contents()) == 1
    assert [str(entry.id) for entry in whole.list()] == [ids[3], ids[0]]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_save_stands_where_an_old_one_cannot_be_deleted(blocking: bool, tmp_path: Path) -> None:
    """It is told once, and the run goes on; what else is old goes."""

    class Stuck(Watched):
        """Has one file that cannot be deleted."""

        def before(self, name: str, arguments: tuple[object, ...]) -> None:
            """Refuse it."""
            if name == "unlink" and str(arguments[0]).endswith(f"{ids[0]}.ckpt"):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    _, ids = filled(tmp_path, 1)
    disk = Stuck()
    manager = CheckpointManager(tmp_path, disk=disk, retention=Retention(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")  # as outside of tests
        ids += [manager.save(contents(n), blocking=blocking) for n in range(2, 7)]
        manager.flush()
    assert disk.calls["unlink"] == 4 + 3  # the stuck one was tried each time, three could go
    (told,) = caught
    assert told.category is RuntimeWarning
    assert str(told.message) == (
        f"saved, but an old checkpoint cannot be deleted: deleting {tmp_path}/{ids[0]}.ckpt: "
        "Operation not permitted; nothing was changed"
    )
    assert [str(entry.id) for entry in manager.list()] == [ids[5], ids[4], ids[0]]
    assert number_in(manager.restore().contents()) == 6


@pytest.mark.parametrize("operation", ["archive", "migrate"])
def test_a_failed_replacement_leaves_the_old_one(operation: str, tmp_path: Path) -> None:
    """A migration goes on with the others."""
    _, ids = filled(tmp_path, 3)
    disk = Failing("rename", code=errno.EACCES, times=1)
    manager = CheckpointManager(tmp_path, disk=disk)
    if operation == "archive":
        with pytest.raises(StoreFailed) as caught:
            manager.archive(ids[0])
        error: BaseException = caught.value
    else:
        done = manager.migrate(new_spec, digest="1" * 64)
        (error,) = done.refused
        assert done.converted == tuple(ids[1:])
    assert type(error) is StoreFailed
    assert str(error) == f"writing {tmp_path}/{ids[0]}.ckpt: Permission denied; nothing was changed"
    assert disk.fired == 1
    whole = CheckpointManager(tmp_path)
    assert whole.restore(ids[0]).manifest.migrations == ()
    states = [whole.restore(id_).contents() for id_ in ids]
    assert [state.metadata for state in states] == [{"number": n} for n in (1, 2, 3)]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("operation", ["archive", "migrate"])
def test_a_replacement_that_is_not_synced_is_told_as_such(
    operation: str, code: int, tmp_path: Path
) -> None:
    """The new file is there and whole, so nobody may say that nothing was changed."""
    _, (id_,) = filled(tmp_path, 1)
    disk = Failing("fsync_directory", code=code, times=1)
    manager = CheckpointManager(tmp_path, disk=disk)
    if operation == "archive":
        with pytest.raises(StoreFailed) as caught:
            manager.archive(id_)
        error: BaseException = caught.value
    else:
        (error,) = manager.migrate(new_spec, digest="1" * 64).refused
    assert disk.fired == 1
    assert type(error) is {errno.EIO: StoreFailed, errno.ENOSPC: DiskFull}[code]
    assert str(error) == (
        f"syncing the name of {tmp_path}/{id_}.ckpt: {os.strerror(code)}; the new file is in its "
        "place and is whole, but a power cut may still undo it"
    )
    found = CheckpointManager(tmp_path).restore(id_).manifest
    assert (found.data.packed is not None, bool(found.migrations)) == (
        operation == "archive",
        operation == "migrate",
    )


def test_a_save_that_can_neither_be_synced_nor_taken_back(tmp_path: Path) -> None:
    """A disk that turns read-only: the new one is there for now, and that is what is said."""

    class ReadOnly(Watched):
        """Fails everything after the rename."""

        def before(self, name: str, arguments: tuple[object, ...]) -> None:
            """Fail."""
            if self.calls["rename"] and name in ("fsync_directory", "unlink"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    disk = ReadOnly()
    with pytest.raises(StoreFailed, match=r"but a power cut may still undo it$"):
        CheckpointManager(tmp_path, disk=disk).save(contents(2))
    assert (disk.calls["fsync_directory"], disk.calls["unlink"]) == (1, 1)
    assert number_in(CheckpointManager(tmp_path).restore().contents()) == 2


def test_a_process_without_free_files_finds_no_damage(tmp_path: Path) -> None:
    """It must not go back to an older checkpoint because of what it lacks itself."""
    _, ids = filled(tmp_path, 2)
    code = """
import resource
from kasmina.checkpoint import CheckpointManager, StoreFailed
manager = CheckpointManager({place!r})
manager.restore()
kept = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
try:
    while True:
        kept.append(open("/dev/null"))
except OSError:
    pass
try:
    manager.restore({id!r})
except StoreFailed as error:
    print(error)
"""
    done = run_python(code.format(place=str(tmp_path), id=ids[1]), cwd=ROOT)
    assert done.stdout == (
        f"reading {tmp_path}/{ids[1]}.ckpt: Too many open files; the file may well be intact\n"
    ), done.stderr


def test_a_directory_is_the_same_wherever_the_process_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path means what it meant when the manager was made."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    manager = CheckpointManager("c")
    monkeypatch.chdir("elsewhere")
    id_ = manager.save(contents(1))
    assert manager.restore().id == id_
    assert [path.name for path in (tmp_path / "c").iterdir()] == [f"{id_}.ckpt"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert manager.directory == tmp_path / "c"


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
