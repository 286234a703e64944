"""`CheckpointManager`: the face of the room."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kasmina.checkpoint.archiving import archive
from kasmina.checkpoint.contents import Contents, Restored, Snapshot, snapshot
from kasmina.checkpoint.disk import Disk
from kasmina.checkpoint.errors import CheckpointError, Damaged, NewerFormat
from kasmina.checkpoint.manifest import Manifest, Priority
from kasmina.checkpoint.migration import Migrated, migrate
from kasmina.checkpoint.names import CheckpointId
from kasmina.checkpoint.pruning import Pruned, Pruner
from kasmina.checkpoint.retention import Retention
from kasmina.checkpoint.saver import Saver
from kasmina.checkpoint.store import Entry, Loaded, Store

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one checkpoint is intact; `fault` says what is wrong."""

    id: str
    path: Path
    bytes: int
    fault: Damaged | NewerFormat | None


class CheckpointManager:
    """Saves and restores the checkpoints of one directory.

    Several managers, in several threads and processes, may use the same directory at once. As a
    context manager it is closed at the end: what waits is saved, and an error of a save in the
    background is raised.

    Args:
        directory: where the checkpoints lie.
        create: make the directory where it is missing.
        retention: how many a save leaves; None deletes only when `prune` is called.
        queue: saves that may wait in the background before the next call waits for them.
        sweep: remove on opening what killed writers left.
        disk: how the disk is written; for tests.

    Raises:
        BadDirectory: there is no such directory, or it is a file.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        create: bool = True,
        retention: Retention | None = None,
        queue: int = 2,
        sweep: bool = True,
        disk: Disk | None = None,
    ) -> None:
        self._store = Store(Path(directory), disk or Disk())
        self._store.open(create)
        self._pruner = Pruner(self._store)
        self._retention = retention
        self._saver = Saver(queue)
        self._numbering = threading.Lock()
        self._last = 0
        self._parent: str | None = None
        if sweep:
            self._store.sweep()

    @property
    def directory(self) -> Path:
        """Where the checkpoints lie."""
        return self._store.directory

    def save(
        self,
        contents: Contents,
        *,
        priority: Priority = "normal",
        blocking: bool = True,
        parent: str | None = None,
    ) -> str:
        """Save a snapshot that is taken now; later changes of `contents` cannot reach it.

        Args:
            contents: what to save.
            priority: which retention it falls under.
            blocking: return when it is durable. Otherwise return when the snapshot is taken; the
                call waits only while the queue is full. Errors of such saves are raised by the
                next `save`, `prune`, `archive`, `migrate`, `flush` or `close`.
            parent: id of the checkpoint that the run goes on from, where it was restored; otherwise
                it is the one that this manager has saved before.

        Old checkpoints that retention cannot delete are told as a warning: the save stands.

        Returns:
            The id. Of a save in the background it can be restored once `flush` has returned.

        Raises:
            BadContents, BadName: something in it, or the parent, cannot be kept; nothing was
                written.
            StoreFailed, DiskFull: the disk refused; what was there before is still there.
        """
        self._saver.flush() if blocking else self._saver.raise_failure()
        if parent is not None:
            CheckpointId.parse(parent)
        made = self._snapshot(contents, priority)
        if blocking:
            self._write(made, parent)
        else:
            # The views go before the thread wakes: torch lets go of the interpreter's lock when it
            # frees a tensor, and the thread would take it from the caller.
            made = made.copied()
            self._saver.submit(partial(self._write, made, parent))
        return str(made.id)

    def restore(self, id: str = LATEST) -> Restored:
        """Read a checkpoint, verified to the last byte.

        Args:
            id: which one; "latest" is the newest that is durable and intact, and what was wrong
                with newer ones stands in `skipped`. Saves that still wait do not count.

        Raises:
            BadName: no id.
            NoCheckpoint: there is none, or none of that id.
            NothingIntact: there are only damaged ones.
            Damaged: the one that was asked for.
            NewerFormat: it takes a newer kasmina to read it.
            StoreFailed: this process lacks memory or open files to read it.
        """
        skipped: list[Damaged] = []
        if id == LATEST:
            loaded, skipped = self._store.newest()
        else:
            loaded = self._store.load(CheckpointId.parse(id))
        return _restored(loaded, skipped)

    def list(self) -> tuple[Entry, ...]:
        """Every checkpoint with its manifest or its fault, the newest first; no tensor is read."""
        return tuple(self._store.entries())

    def older_format(self) -> str:
        """What to do about checkpoints of format 1, as the end of a sentence; "" for none."""
        return self._store.older_format()

    def verify(self, id: str | None = None) -> tuple[Verdict, ...]:
        """Read every byte of one or of all checkpoints, the newest first.

        Raises:
            BadName, NoCheckpoint: there is none of that id.
        """
        if id is not None:
            wanted = CheckpointId.parse(id)
            entries = [entry for entry in self._store.entries() if entry.id == wanted]
            if not entries:
                self._store.load(wanted)
        else:
            entries = self._store.entries()
        return tuple(Verdict(str(e.id), e.path, e.bytes, self._fault(e)) for e in entries)

    def prune(self, retention: Retention | None = None, *, dry_run: bool = False) -> Pruned:
        """Delete what retention lets go; the manager's own where none is given.

        The newest intact checkpoint stays whatever it says, and so do those that somebody reads,
        archives, damaged ones, and those of a newer format. To know them, all but archives are
        read. What cannot be deleted stands in `failed`.
        """
        self._saver.flush()
        return self._pruner.prune(retention or self._retention or Retention(), dry_run=dry_run)

    def archive(self, id: str) -> Manifest:
        """Compress a checkpoint in its place; it keeps its id, and retention leaves it alone.

        Raises:
            BadName, NoCheckpoint, Damaged, ArchiveRefused: it was left as it is.
            StoreFailed: the same, unless the message says that the new file is in its place.
        """
        self._saver.flush()
        return archive(self._store, CheckpointId.parse(id))

    def migrate(
        self,
        convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        *,
        digest: str | None = None,
        remove: bool = False,
    ) -> Migrated:
        """Take over checkpoints of format 1, and of older specs.

        Args:
            convert: given a state dict of an older spec, returns that of the new one, as
                `kasmina.lifecycle.migrate` does; None leaves the rows as they are.
            digest: of the new spec; checkpoints that have it are not read into memory.
            remove: delete the files of format 1, once what they became was read back.

        What fails or is refused stands in `refused`; the others are taken over all the same.
        """
        self._saver.flush()
        return migrate(self._store, convert=convert, digest=digest, remove=remove)

    def flush(self) -> None:
        """Wait until every save is durable; raises what one of them raised."""
        self._saver.flush()

    def close(self) -> None:
        """As `flush`; the manager can still be used."""
        self._saver.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _snapshot(self, contents: Contents, priority: Priority) -> Snapshot:
        with self._numbering:  # ids count up in the order of the calls
            id_ = CheckpointId.after(max(self._store.highest(), self._last))
            self._last = id_.number
        return snapshot(contents, id_, priority=priority)

    def _write(self, made: Snapshot, parent: str | None) -> None:
        self._parent = parent or self._parent
        self._store.write(made.id, *made.laid_out(self._parent))
        self._parent = str(made.id)
        try:
            failed = self._prune_after(made.manifest)
            self._store.highest()  # here, so that the next call finds it counted
        except CheckpointError as error:
            failed = (error,)
        for each in failed:  # Python tells a warning with the same text once
            text = f"saved, but an old checkpoint cannot be deleted: {each}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _prune_after(self, saved: Manifest) -> tuple[CheckpointError, ...]:
        if self._retention is None:
            return ()
        return self._pruner.prune(self._retention, saved=saved).failed

    def _fault(self, entry: Entry) -> Damaged | NewerFormat | None:
        try:
            _restored(self._store.load(entry.id), []).contents()
        except (Damaged, NewerFormat) as error:
            return error
        return None


def _restored(loaded: Loaded, skipped: list[Damaged]) -> Restored:
    return Restored(str(loaded.id), loaded.manifest, loaded.blocks, tuple(skipped), loaded)
