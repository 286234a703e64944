"""Deleting what retention lets go."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kasmina.checkpoint.errors import Damaged, NewerFormat, NoCheckpoint, StoreFailed
from kasmina.checkpoint.manifest import Manifest
from kasmina.checkpoint.names import CheckpointId
from kasmina.checkpoint.retention import Held, Retention
from kasmina.checkpoint.store import Store


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune came to.

    Attributes:
        last_good: id of the newest intact checkpoint; None where there is none, then nothing goes.
        deleted: ids of those that went.
        in_use: ids of those that somebody reads.
        failed: what could not be deleted; the others went all the same.
        freed: bytes.
    """

    last_good: str | None
    deleted: tuple[str, ...]
    in_use: tuple[str, ...]
    failed: tuple[StoreFailed, ...]
    freed: int


class Pruner:
    """Prunes one directory; after a save it reads only what it has not read before."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Hashable, Held | None] = {}

    def prune(
        self, retention: Retention, *, saved: Manifest | None = None, dry_run: bool = False
    ) -> Pruned:
        """Delete what retention lets go.

        Args:
            retention: how many stay.
            saved: of what this process has just written. It is not read, nor is what was verified
                after an earlier save; without it everything is.
            dry_run: only say what would be deleted.

        Raises:
            BadDirectory, StoreFailed: what is there cannot be read; nothing was deleted.
        """
        if saved is None:
            self._known = {}
        held = self._held(saved)
        last_good = self._last_good(held)
        if last_good is None:
            return Pruned(None, (), (), (), 0)
        deleted, in_use, failed, freed = [], [], [], 0
        for gone in reversed(retention.doomed(held, last_good)):  # a kill leaves no gap
            path = self._store.path(gone.id)
            try:
                if dry_run or self._store.delete(path):
                    deleted.append(str(gone.id))
                    freed += gone.bytes
                elif path.exists():
                    in_use.append(str(gone.id))
            except StoreFailed as error:
                failed.append(error)
        return Pruned(str(last_good), tuple(deleted), tuple(in_use), tuple(failed), freed)

    def _held(self, saved: Manifest | None) -> list[Held]:
        """Every intact checkpoint, the newest first; of archives only the manifest is read."""
        known: dict[Hashable, Held | None] = {}
        for id_ in self._store.ids():
            with suppress(FileNotFoundError):
                status = os.lstat(self._store.path(id_))
                key = (*id_, status.st_ino, status.st_size, status.st_mtime_ns)
                if key in self._known:
                    known[key] = self._known[key]
                elif saved is not None and str(id_) == saved.id:
                    known[key] = Held(id_, saved.priority, False, status.st_size)
                else:
                    known[key] = self._read(id_)
        self._known = known
        return [held for held in known.values() if held is not None]

    def _read(self, id_: CheckpointId) -> Held | None:
        entry = self._store.entry(id_)
        if entry is None or entry.manifest is None:
            return None
        if not (entry.is_archived or self._is_intact(id_)):
            return None
        return Held(id_, entry.manifest.priority, entry.is_archived, entry.bytes)

    def _last_good(self, newest_first: Sequence[Held]) -> CheckpointId | None:
        return next((h.id for h in newest_first if not h.archived or self._is_intact(h.id)), None)

    def _is_intact(self, id_: CheckpointId) -> bool:
        try:
            self._store.load(id_)
        except (Damaged, NewerFormat, NoCheckpoint):
            return False
        return True
