"""Disks that fail, and the small checkpoints that are put on them. Imports no torch."""

from __future__ import annotations

import errno
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kasmina.checkpoint import CheckpointManager, Contents
from kasmina.checkpoint.disk import Disk

POINTS = ("create", "write", "fsync", "rename", "unlink", "fsync_directory", "make_directory")


class Watched(Disk):
    """A disk that tells of every call before and after it is done."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def before(self, name: str, arguments: tuple[object, ...]) -> None:
        """A call is about to be made."""

    def after(self, name: str, arguments: tuple[object, ...], result: object) -> None:
        """It was made."""

    def create(self, path: Path) -> int:
        """As `Disk.create`."""
        self._begin("create", path)
        file = super().create(path)
        self.after("create", (path,), file)
        return file

    def write(self, file: int, data: memoryview) -> int:
        """As `Disk.write`."""
        self._begin("write", file, data)
        written = super().write(file, data)
        self.after("write", (file, data), written)
        return written

    def fsync(self, file: int) -> None:
        """As `Disk.fsync`."""
        self._begin("fsync", file)
        super().fsync(file)
        self.after("fsync", (file,), None)

    def rename(self, old: Path, new: Path) -> None:
        """As `Disk.rename`."""
        self._begin("rename", old, new)
        super().rename(old, new)
        self.after("rename", (old, new), None)

    def unlink(self, path: Path) -> None:
        """As `Disk.unlink`."""
        self._begin("unlink", path)
        super().unlink(path)
        self.after("unlink", (path,), None)

    def fsync_directory(self, path: Path) -> None:
        """As `Disk.fsync_directory`."""
        self._begin("fsync_directory", path)
        super().fsync_directory(path)
        self.after("fsync_directory", (path,), None)

    def make_directory(self, path: Path) -> None:
        """As `Disk.make_directory`."""
        self._begin("make_directory", path)
        super().make_directory(path)
        self.after("make_directory", (path,), None)

    def _begin(self, name: str, *arguments: object) -> None:
        self.calls[name] += 1
        self.before(name, arguments)


class Failing(Watched):
    """Raises an error at the `nth` call of one kind, from there on at each or so many times."""

    def __init__(
        self, name: str, nth: int = 1, code: int = errno.EIO, times: float = math.inf
    ) -> None:
        super().__init__()
        self._name, self._nth, self._code, self._times = name, nth, code, times
        self.fired = 0

    def before(self, name: str, arguments: tuple[object, ...]) -> None:
        """Fail where it is time."""
        if name == self._name and self.calls[name] >= self._nth and self.fired < self._times:
            self.fired += 1
            raise OSError(self._code, os.strerror(self._code))


class Short(Watched):
    """Takes only a few bytes with each write."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def write(self, file: int, data: memoryview) -> int:
        """Write the first bytes."""
        return super().write(file, data[: self.most])


def contents(number: int, seeds: int = 6) -> Contents:
    """What differs from every other `number` in the state, a weight and the metadata."""
    columns = {
        "lifecycle_state": np.full(seeds, number % 11, np.int8),
        "alpha": np.linspace(0, number, seeds, dtype=np.float32),
    }
    return Contents(
        state={"spec": "lifecycle", "digest": "0" * 64, "columns": columns},
        parts={"model": {"0.weight": np.full((2, 3), number, np.float64)}},
        metadata={"number": number},
    )


def number_in(given: Contents) -> int:
    """The number of `contents`; fails where any part of it is not of that number."""
    number = given.metadata["number"]
    assert given.state is not None
    wanted = contents(number, seeds=len(given.state["columns"]["alpha"]))
    assert wanted.state is not None
    for name, column in wanted.state["columns"].items():
        assert np.array_equal(given.state["columns"][name], column), (number, name)
    assert np.array_equal(given.parts["model"]["0.weight"], wanted.parts["model"]["0.weight"])
    assert isinstance(number, int)
    return number


def filled(directory: Path, count: int) -> tuple[CheckpointManager, list[str]]:
    """A directory with checkpoints 1 to `count`; their ids, the oldest first."""
    manager = CheckpointManager(directory)
    return manager, [manager.save(contents(number)) for number in range(1, count + 1)]


def leftovers(directory: Path) -> Iterator[Path]:
    """Files that are no checkpoints."""
    return (path for path in directory.iterdir() if path.suffix != ".ckpt")
