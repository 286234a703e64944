"""What can be wrong with a checkpoint, a directory of them, or what is to be saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kasmina.errors import KasminaError


class CheckpointError(KasminaError):
    """Base of all errors of the store."""


class BadName(CheckpointError, ValueError):
    """A name of a checkpoint or of a tensor that is not on the allow-list."""


class BadContents(CheckpointError, ValueError):
    """Something to be saved that a checkpoint cannot hold; nothing was written."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}; nothing was written")
        self.where = where


class BadDirectory(CheckpointError):
    """A place that is no directory of checkpoints."""


class Damaged(CheckpointError):
    """A file that is not what was once written under its name."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path, self.what = path, what


class NewerFormat(CheckpointError):
    """An intact file that asks for a newer reader."""

    def __init__(self, path: Path, needs: int, writer: str, reads: int) -> None:
        super().__init__(
            f"{path}: was written by kasmina {writer} in format {needs}; this kasmina reads "
            f"formats up to {reads}. Install kasmina {writer} or newer; the file was left as it is"
        )
        self.path, self.needs, self.writer = path, needs, writer


class NoCheckpoint(CheckpointError, LookupError):
    """There is no checkpoint, or none of that id."""


class NothingIntact(CheckpointError, LookupError):
    """There are checkpoints, and every one of them is damaged."""

    def __init__(self, directory: Path, damaged: Sequence[Damaged]) -> None:
        lines = "\n".join(f"- {error}" for error in damaged)
        super().__init__(
            f"{directory}: none of its {len(damaged)} checkpoints is intact:\n{lines}\n"
            "Nothing was changed; restore the directory from a backup"
        )
        self.damaged = tuple(damaged)


class StoreFailed(CheckpointError, OSError):
    """The disk refused; the directory holds what it held before."""

    def __init__(self, doing: str, path: Path, error: OSError, advice: str = "") -> None:
        reason = error.strerror or str(error)
        super().__init__(f"{doing} {path}: {reason}{f'; {advice}' if advice else ''}")
        self.errno = error.errno
        self.path = path


class DiskFull(StoreFailed):
    """There is no room for it."""


class MigrationRefused(CheckpointError, ValueError):
    """A checkpoint of an older format or spec that cannot be taken over; it was left as it is."""


class ArchiveRefused(CheckpointError, ValueError):
    """A checkpoint that would not be readable as an archive; it was left as it is."""
