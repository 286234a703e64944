"""A power cut drops and reorders whatever was not synced; every way is tried.

The model of the disk: bytes count once their file was synced, names once their directory was.
Before that any of a file's pending writes may be lost, cut, or be zeros of the right length, and
any subset of the pending names may have changed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kasmina.checkpoint import CheckpointError, CheckpointManager
from kasmina.checkpoint.disk import Disk
from tests.faults.disks import Watched, contents, filled, number_in
from tests.faults.killing import OPERATIONS, migrated

Count = Callable[[str, object], None]
Files = dict[str, bytes]


@dataclass(eq=False)
class Inode:
    """A file without a name: what is safe of it, and what was written since."""

    durable: bytes = b""
    pending: bytes = b""

    def survivors(self) -> list[bytes]:
        """What may be left of it."""
        if not self.pending:
            return [self.durable]
        half = len(self.pending) // 2
        tails = (b"", self.pending[:half], bytes(len(self.pending)), self.pending)
        return [self.durable + tail for tail in tails]


Change = tuple[str | None, str | None, Inode | None]  # name that goes, name that comes, its file


@dataclass
class Moment:
    """All that a cut at this moment may leave."""

    names: dict[str, Inode]
    changes: list[Change] = field(default_factory=list)

    def outcomes(self) -> Iterator[Files]:
        """Every directory that the cut may leave."""
        for chosen in itertools.product((False, True), repeat=len(self.changes)):
            names = dict(self.names)
            for (gone, come, inode), done in zip(self.changes, chosen, strict=True):
                if done:
                    names.pop(gone or "", None)
                    names.update({come: inode} if come and inode else {})
            for bytes_ in itertools.product(*(inode.survivors() for inode in names.values())):
                yield dict(zip(names, bytes_, strict=True))


class Recording(Watched):
    """Does everything, and keeps every distinct outcome of a cut before and after each call."""

    def __init__(self, directory: Path, *, honest: bool = True) -> None:
        super().__init__()
        self._now = Moment({p.name: Inode(p.read_bytes()) for p in directory.iterdir()})
        self._open: dict[int, Inode] = {}
        self._links: dict[str, Inode] = dict(self._now.names)
        self._honest = honest
        self.cuts: list[list[Files]] = [list(self._now.outcomes())]

    def after(self, name: str, arguments: tuple[object, ...], result: object) -> None:
        """Follow the call in the model."""
        getattr(self, f"_{name}")(*arguments, result)
        self.cuts.append(list(self._now.outcomes()))

    def _create(self, path: Path, file: int) -> None:
        inode = self._open[file] = self._links[path.name] = Inode()
        self._now.changes.append((None, path.name, inode))

    def _write(self, file: int, data: memoryview, written: int) -> None:
        self._open[file].pending += bytes(data[:written])

    def _fsync(self, file: int, _: None) -> None:
        inode = self._open[file]
        if self._honest:
            inode.durable, inode.pending = inode.durable + inode.pending, b""

    def _rename(self, old: Path, new: Path, _: None) -> None:
        inode = self._links[new.name] = self._links.pop(old.name)
        self._now.changes.append((old.name, new.name, inode))

    def _unlink(self, path: Path, _: None) -> None:
        self._links.pop(path.name)
        self._now.changes.append((path.name, None, None))

    def _fsync_directory(self, path: Path, _: None) -> None:
        if self._honest:
            self._now = Moment(dict(self._links))

    def _make_directory(self, path: Path, _: None) -> None:
        assert path.is_dir()


def after_cut(files: Files, directory: Path) -> CheckpointManager:
    """The directory as it comes up again, opened by the next run."""
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return CheckpointManager(directory, disk=Quick())


class Quick(Disk):
    """Reads what a test has laid out; there is nothing that it must wait for."""

    def fsync_directory(self, path: Path) -> None:
        """Do not wait."""


def distinct(cuts: list[list[Files]]) -> Iterator[tuple[bool, Files]]:
    """Every outcome once, and whether it can come of a cut after the operation was over."""
    last = {tuple(sorted(files.items())) for files in cuts[-1]}
    seen = set(last)
    yield from ((True, dict(each)) for each in last)
    for files in itertools.chain.from_iterable(cuts):
        key = tuple(sorted(files.items()))
        if key not in seen:
            seen.add(key)
            yield False, files


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_cut_leaves_the_old_or_the_new_state(
    operation: str, tmp_path: Path, record_property: Count
) -> None:
    """Nothing is damaged whatever was lost, and what had returned is not lost."""
    operate, prepare, _ = OPERATIONS[operation]
    prepare(tmp_path / "c")
    disk = Recording(tmp_path / "c")
    operate(CheckpointManager(tmp_path / "c", disk=disk))
    count = 0
    for count, (over, files) in enumerate(distinct(disk.cuts), 1):
        place = tmp_path / str(count)
        manager = after_cut(files, place)
        if operation == "migrate":
            assert migrated(place, manager) in ("old", "between", "new")
            continue
        numbers = [number_in(manager.restore(str(e.id)).contents()) for e in manager.list()]
        assert numbers == sorted(numbers, reverse=True)
        assert manager.restore().skipped == ()
        newest = 4 if "save" in operation else 3
        assert numbers[0] in ({newest} if over else {3, newest})
        assert len(numbers) == 3 if operation in ("archive", "convert") else numbers
    assert count >= {"prune": 4, "save": 10}.get(operation, 12)
    record_property("counted", f"{count} outcomes of power cuts at {len(disk.cuts)} moments")


def test_the_model_finds_a_disk_that_does_not_sync(tmp_path: Path) -> None:
    """Where an fsync does nothing, there is a cut that loses what had been promised."""
    filled(tmp_path / "c", 1)
    disk = Recording(tmp_path / "c", honest=False)
    CheckpointManager(tmp_path / "c", disk=disk).save(contents(2))
    lost = damaged = 0
    for count, (over, files) in enumerate(distinct(disk.cuts)):
        try:
            found = after_cut(files, tmp_path / str(count)).restore()
        except CheckpointError:
            damaged += 1
            continue
        damaged += bool(found.skipped)
        lost += over and number_in(found.contents()) == 1
    assert lost and damaged
    assert os.path.isdir(tmp_path / "0")  # noqa: PTH112
