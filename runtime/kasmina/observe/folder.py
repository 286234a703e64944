"""The directory that a run leaves, and who may write into one that exists."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from kasmina.errors import KasminaError

FORMAT = 1
MARKER = "kasmina-run.json"
LOG = "events.jsonl"
RESULT = "result.json"
REPORT = "report.html"
MODEL = "model.safetensors"
PUBLISHED = "events.published"  # how far a bus was told of the log
CHECKPOINTS = "checkpoints"  # a directory
FILES = (LOG, RESULT, REPORT, MODEL, MARKER)  # the marker goes last when a run is taken away


class FolderError(KasminaError, OSError):
    """A directory that cannot hold the run."""


class Marker(msgspec.Struct, frozen=True):
    """What makes a directory a run: `kasmina-run.json`.

    `options` are those that the run was started with; None where it cannot be resumed.
    """

    format: int
    task: str
    seed: int
    options: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run directory; its files have fixed names."""

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        task: str,
        seed: int,
        *,
        replace: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """Make a directory for a new run.

        Args:
            path: new, or empty, or with `replace` one that holds a run.
            task: name of the task.
            seed: of the run.
            replace: take away the run that is there. Only the files of a run go, and only from a
                directory that is marked as one.
            options: what the run is started with, so that it can be resumed.

        Raises:
            FolderError: the directory is in use, holds something else, or cannot be written.
        """
        folder = cls(path)
        folder._make_room(replace)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FolderError(
                f"{path}: this directory cannot be made: {error.strerror}; choose another one with "
                "--out"
            ) from error
        marker = Marker(FORMAT, task, seed, None if options is None else dict(options))
        write_atomically(path / MARKER, msgspec.json.encode(marker))
        return folder

    @classmethod
    def create_next(
        cls,
        runs: Path,
        task: str,
        seed: int,
        *,
        replace: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> RunFolder:
        """Make `runs/TASK-SEED`, or, where that is taken, the first free `runs/TASK-SEED-N`."""
        name = f"{task.replace(':', '-')}-{seed}"
        numbered = (runs / (name if n == 1 else f"{name}-{n}") for n in count(1))
        path = next(path for path in numbered if replace or not os.path.lexists(path))
        return cls.create(path, task, seed, replace=replace, options=options)

    @property
    def log(self) -> Path:
        """The event log."""
        return self.path / LOG

    @property
    def result(self) -> Path:
        """What `--json` prints."""
        return self.path / RESULT

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / REPORT

    @property
    def model(self) -> Path:
        """The grown network's tensors."""
        return self.path / MODEL

    @property
    def checkpoints(self) -> Path:
        """The directory of the run's checkpoints."""
        return self.path / CHECKPOINTS

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the run to this process; the lock goes with the process, however it ends.

        Raises:
            FolderError: another process has it.
        """
        file = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FolderError(
                    f"{self.path}: another process is at work on this run; wait for it, or end it"
                ) from error
            yield
        finally:
            os.close(file)

    def marker(self) -> Marker | None:
        """Read what run it holds; None where it holds none."""
        try:
            return msgspec.json.decode((self.path / MARKER).read_bytes(), type=Marker)
        except (OSError, msgspec.MsgspecError):
            return None

    def keep(self, changed: Mapping[str, Any]) -> None:
        """Keep other values of some options, for when the run is resumed; it must be held.

        Raises:
            FolderError: they cannot be written.
        """
        marker = self.marker()
        if marker is None or marker.options is None:
            return
        options = marker.options | dict(changed)
        if options != marker.options:
            marker = msgspec.structs.replace(marker, options=options)
            write_atomically(self.path / MARKER, msgspec.json.encode(marker))

    def discard(self) -> None:
        """Take the run's files away, and the directory where nothing else is in it."""
        if self.checkpoints.is_dir() and not self.checkpoints.is_symlink():
            for pattern in ("*.ckpt", ".*.tmp"):
                for file in self.checkpoints.glob(pattern):
                    file.unlink(missing_ok=True)
            with suppress(OSError):  # something else lies in it
                self.checkpoints.rmdir()
        for name in (PUBLISHED, *FILES):
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _make_room(self, replace: bool) -> None:
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise FolderError(f"{self.path}: this is a file; a run needs a directory")
        marker = self.marker()
        if marker is None and any(self.path.iterdir()):
            raise FolderError(
                f"{self.path}: this directory exists and is not a run; choose a new or an empty "
                "one with --out"
            )
        if marker is not None and not replace:
            raise FolderError(
                f"{self.path}: this directory holds a run of task {marker.task!r} with seed "
                f"{marker.seed}; choose another one with --out, or replace the run with --force"
            )
        if marker is not None:
            with self.held():
                self.discard()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, also after a crash.

    Raises:
        FolderError: it cannot be written; an earlier one is kept.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FolderError(f"{path}: this file cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):  # there is none, or the disk takes no change at all
            temporary.unlink()
