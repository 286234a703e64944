"""Saved runs: one directory that rebuilds the grown architecture and resumes it to the bit.

Nothing here imports torch or numpy until an array of theirs is met. Nothing is ever unpickled.
"""

from kasmina.checkpoint.contents import Contents, Restored
from kasmina.checkpoint.errors import (
    ArchiveRefused,
    BadContents,
    BadDirectory,
    BadName,
    CheckpointError,
    Damaged,
    DiskFull,
    MigrationRefused,
    NewerFormat,
    NoCheckpoint,
    NothingIntact,
    StoreFailed,
)
from kasmina.checkpoint.manager import LATEST, CheckpointManager, Verdict
from kasmina.checkpoint.manifest import Manifest, Priority
from kasmina.checkpoint.migration import Migrated
from kasmina.checkpoint.pruning import Pruned
from kasmina.checkpoint.retention import Retention
from kasmina.checkpoint.store import Entry

__all__ = [
    "LATEST",
    "ArchiveRefused",
    "BadContents",
    "BadDirectory",
    "BadName",
    "CheckpointError",
    "CheckpointManager",
    "Contents",
    "Damaged",
    "DiskFull",
    "Entry",
    "Manifest",
    "Migrated",
    "MigrationRefused",
    "NewerFormat",
    "NoCheckpoint",
    "NothingIntact",
    "Priority",
    "Pruned",
    "Restored",
    "Retention",
    "StoreFailed",
    "Verdict",
]
