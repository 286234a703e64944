"""A directory of checkpoints: written whole or not at all, read verified or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kasmina.checkpoint.disk import Disk, is_still, lock_now, reading
from kasmina.checkpoint.errors import (
    BadDirectory,
    CheckpointError,
    Damaged,
    DiskFull,
    NewerFormat,
    NoCheckpoint,
    NothingIntact,
    StoreFailed,
)
from kasmina.checkpoint.frame import (
    Head,
    blocks_in,
    header_and_manifest,
    read_data,
    read_head,
)
from kasmina.checkpoint.manifest import Manifest
from kasmina.checkpoint.names import CheckpointId, is_leftover, numbers_in
from kasmina.checkpoint.tensors import Block, Buffer
from kasmina.checkpoint.writing import write_checkpoint

_FULL = {errno.ENOSPC, errno.EDQUOT}
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # what this machine lacks harms no file
_IN_PLACE = "the new file is in its place and is whole, but a power cut may still undo it"


@dataclass(frozen=True, slots=True)
class Entry:
    """A checkpoint as a listing sees it: either its manifest or what is wrong with it."""

    id: CheckpointId
    path: Path
    bytes: int
    manifest: Manifest | None
    fault: Damaged | NewerFormat | None

    @property
    def is_archived(self) -> bool:
        """Whether it is known to be compressed."""
        return self.manifest is not None and self.manifest.data.packed is not None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checkpoint that was read and verified to the last byte."""

    id: CheckpointId
    path: Path
    manifest: Manifest
    blocks: dict[str, Block]
    content: memoryview


class Store:
    """The directory; every method may run in many threads and processes at once."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self.directory, self.disk = directory, disk
        self._durable: CheckpointId | None = None  # the last that this process has synced
        self._counted = (0, 0)  # when the directory had last changed, and its highest number

    def open(self, create: bool) -> None:
        """Find the directory, or make it; it is the same one wherever the process goes later.

        Raises:
            BadDirectory: there is none, or something else has its name.
            StoreFailed: it cannot be made.
        """
        if "\0" in str(self.directory):
            raise BadDirectory(f"{str(self.directory)!r}: a path holds no NUL")
        with self._told("opening", self.directory):
            self.directory = self.directory.absolute()
            if self.directory.exists() and not self.directory.is_dir():
                raise BadDirectory(f"{self.directory}: is a file; give a directory of checkpoints")
            if not create and not self.directory.exists():
                raise BadDirectory(f"{self.directory}: there is no such directory")
            self.disk.make_directory(self.directory)

    def names(self) -> list[str]:
        """Every file name of the directory."""
        try:
            return os.listdir(self.directory)  # noqa: PTH208  no Path for each of them
        except OSError as error:
            raise BadDirectory(f"{self.directory}: cannot be listed: {error.strerror}") from error

    def ids(self) -> list[CheckpointId]:
        """The ids that are there, the newest first; damaged ones too."""
        found = (CheckpointId.of_file(name) for name in self.names())
        return sorted((id_ for id_ in found if id_ is not None), reverse=True)

    def highest(self) -> int:
        """The largest number that a checkpoint has, of format 1 too; 0 where there is none."""
        try:
            changed = self.directory.stat().st_mtime_ns
        except OSError:
            changed = -1  # listing it tells what is wrong
        if changed != self._counted[0]:
            names = self.names()
            ids = (CheckpointId.of_file(name) for name in names)
            older = (number for number, _ in numbers_in(names))
            highest = max([0, *(id_.number for id_ in ids if id_), *older])
            self._counted = (changed, highest)
        return self._counted[1]

    def path(self, id_: CheckpointId) -> Path:
        """Where a checkpoint lies."""
        return self.directory / id_.file

    def sweep(self) -> int:
        """Remove what writers left that were killed; those at work keep theirs."""
        leftovers = [self.directory / name for name in self.names() if is_leftover(name)]
        removed = 0
        for path in leftovers:
            with suppress(OSError):  # what cannot be deleted does no harm
                removed += self._remove(path)
        return removed

    def write(
        self,
        id_: CheckpointId,
        manifest: Manifest,
        data: Sequence[Buffer],
        *,
        replace: bool = False,
    ) -> None:
        """Put a checkpoint on the disk for good.

        Raises:
            StoreFailed, DiskFull: nothing was changed; or, where the message says so, the new file
                is in its place and could not be made durable.
        """
        target = self.path(id_)
        head = header_and_manifest(manifest)
        with self._told("writing", target, need=len(head) + manifest.data.bytes):
            temporary, file = self._create(id_)
            try:
                self._fill(temporary, file, head, data)
                self._settle(temporary, target, replace)
            finally:
                os.close(file)
        self._durable = id_

    def entries(self) -> list[Entry]:
        """Every checkpoint with its manifest, the newest first; tensors are not read."""
        return [entry for id_ in self.ids() if (entry := self.entry(id_)) is not None]

    def entry(self, id_: CheckpointId) -> Entry | None:
        """One checkpoint with its manifest; None where there is none of that id."""
        path = self.path(id_)
        try:
            size = os.lstat(path).st_size
            return Entry(id_, path, size, self._head(path).manifest, None)
        except FileNotFoundError:
            return None  # deleted since the directory was listed
        except (Damaged, NewerFormat) as error:
            return Entry(id_, path, size, None, error)

    def load(self, id_: CheckpointId) -> Loaded:
        """Read and verify one checkpoint.

        Raises:
            NoCheckpoint: there is none of this id.
            Damaged, NewerFormat: with what is wrong.
        """
        path = self.path(id_)
        for _ in range(100):  # an archive or a migration may replace it under our hands
            try:
                with _opened(path) as file:
                    return self._load(file, id_)
            except FileNotFoundError:
                if not os.path.lexists(path):
                    break
        raise self._missing(id_)

    def newest(self) -> tuple[Loaded, list[Damaged]]:
        """The newest intact checkpoint, and what was wrong with newer ones.

        A reader syncs the directory first, unless it has just done so as the writer: the file may
        have been renamed by a process that was killed before it could.

        Raises:
            NoCheckpoint: there is none.
            NothingIntact: there are, and all are damaged.
            NewerFormat: the newest intact one asks for a newer reader; going back to an older one
                would silently give up what was trained since.
        """
        while ids := self.ids():
            if ids[0] != self._durable:
                with suppress(
                    OSError
                ):  # a disk that is read-only, or dying, is still worth reading
                    self.disk.fsync_directory(self.directory)
            with suppress(NoCheckpoint):  # pruned since it was listed, so a newer one is there
                return self._first_intact(ids)
        raise NoCheckpoint(f"{self.directory}: there is no checkpoint{self.older_format()}")

    def delete(self, path: Path) -> bool:
        """Delete a file that nobody uses; returns whether it was."""
        with self._told("deleting", path):
            return self._remove(path)

    @contextmanager
    def replacing(self, id_: CheckpointId) -> Iterator[Loaded]:
        """Load a checkpoint and keep all others from reading or replacing it meanwhile."""
        path = self.path(id_)
        with ExitStack() as stack:
            while True:
                try:
                    file = stack.enter_context(_opened(path))
                except FileNotFoundError:
                    if not os.path.lexists(path):
                        raise self._missing(id_) from None
                    continue
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
                if is_still(file, path):
                    break
                stack.close()  # replaced while we waited
            yield self._load(file, id_)

    def _load(self, file: int, id_: CheckpointId) -> Loaded:
        path = self.path(id_)
        with _readable(path):
            head = read_head(file, os.fstat(file).st_size, path)
            content = read_data(file, head, path)
        return Loaded(id_, path, head.manifest, blocks_in(content, path), content)

    def _head(self, path: Path) -> Head:
        with _opened(path) as file, _readable(path):
            return read_head(file, os.fstat(file).st_size, path)

    def _first_intact(self, ids: Sequence[CheckpointId]) -> tuple[Loaded, list[Damaged]]:
        damaged: list[Damaged] = []
        for id_ in ids:
            try:
                return self.load(id_), damaged
            except Damaged as error:
                damaged.append(error)
        raise NothingIntact(self.directory, damaged)

    def _fill(self, path: Path, file: int, head: bytes, data: Sequence[Buffer]) -> None:
        """Write a whole checkpoint into a temporary file, which goes again where that fails."""
        try:
            write_checkpoint(self.disk, file, head, data)
            self.disk.fsync(file)
        except BaseException:
            self._took_back(path)  # what stays is swept when the directory is opened
            raise

    def _settle(self, temporary: Path, target: Path, replace: bool) -> None:
        """Give a synced file its name for good."""
        try:
            self.disk.rename(temporary, target)
        except BaseException:
            self._took_back(temporary)
            raise
        try:
            self.disk.fsync_directory(self.directory)
        except OSError as error:
            if not replace and self._took_back(target):
                raise
            raise _refused("syncing the name of", target, error, _IN_PLACE) from error

    def _took_back(self, path: Path) -> bool:
        with suppress(OSError):
            self.disk.unlink(path)
            return True
        return False

    def _create(self, id_: CheckpointId) -> tuple[Path, int]:
        """A new temporary file that no sweep takes for a leftover."""
        while True:
            path = self.directory / id_.temporary
            file = self.disk.create(path)
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:
                return path, file
            os.close(file)  # swept between its making and its lock

    def _remove(self, path: Path) -> bool:
        """Delete a file that nobody reads or writes; returns whether it was."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            if not lock_now(file) or not is_still(file, path):
                return False
            with suppress(FileNotFoundError):
                self.disk.unlink(path)
            return True
        finally:
            os.close(file)

    @contextmanager
    def _told(self, doing: str, path: Path, need: int = 0) -> Iterator[None]:
        """Say what the disk refused."""
        try:
            yield
        except StoreFailed:
            raise
        except OSError as error:
            if error.errno == errno.ENOENT and not os.path.isdir(self.directory):  # noqa: PTH112
                raise BadDirectory(f"{self.directory}: the directory is not there") from error
            advice = "nothing was changed"
            if error.errno in _FULL:
                needed = f"{need:,} bytes are needed. " if need else ""
                advice = f"{needed}Nothing was changed; free some space{self._room()}"
            raise _refused(doing, path, error, advice) from error

    def _room(self) -> str:
        """Which command makes room, as the end of a sentence; "" where none does."""
        freed = 0
        with suppress(CheckpointError):
            whole = [entry for entry in self.entries() if entry.manifest]
            freed = sum(entry.bytes for entry in whole[1:] if not entry.is_archived)
        if not freed:
            return ""
        return (
            f", or keep only the newest checkpoint and free {freed:,} bytes with "
            f"kasmina checkpoint prune {self.directory} --normal 0 --high 0"
        )

    def _missing(self, id_: CheckpointId) -> NoCheckpoint:
        newest = next(iter(self.ids()), None)
        instead = f"; the newest is {newest}" if newest else self.older_format()
        return NoCheckpoint(f"{self.directory}: there is no checkpoint {id_}{instead}")

    def older_format(self) -> str:
        """What to do about checkpoints of format 1, as the end of a sentence; "" for none."""
        if count := len(numbers_in(self.names())):
            return (
                f"; it holds {count} of format 1: take them over with "
                f"kasmina checkpoint migrate {self.directory}"
            )
        return ""


def _refused(doing: str, path: Path, error: OSError, advice: str) -> StoreFailed:
    kind = DiskFull if error.errno in _FULL else StoreFailed
    return kind(doing, path, error, advice)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """As `reading`; what cannot be opened is a `Damaged`, what is not there a FileNotFoundError."""
    with ExitStack() as stack:
        with _readable(path):
            file = stack.enter_context(reading(path))
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say what keeps a file from being read; one that is not there stays a FileNotFoundError.

    What this process lacks is no damage: going back to an older one would give up what was trained.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _SHORT:
            raise StoreFailed("reading", path, error, "the file may well be intact") from error
        if error.errno == errno.ELOOP:
            raise Damaged(path, "is a symbolic link; checkpoints are plain files") from None
        raise Damaged(path, f"cannot be read: {error.strerror}") from error
