"""Which checkpoints are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kasmina.checkpoint.manifest import PRIORITIES, Priority
from kasmina.checkpoint.names import CheckpointId


class Held(NamedTuple):
    """What retention asks of a checkpoint."""

    id: CheckpointId
    priority: Priority
    archived: bool
    bytes: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How many checkpoints of each priority stay, the newest first; archives stay always.

    Attributes:
        normal: of normal priority, 0 or more.
        high: of high priority, 0 or more.
    """

    normal: int = 3
    high: int = 10

    def __post_init__(self) -> None:
        for priority in PRIORITIES:
            if self.of(priority) < 0:
                raise ValueError(f"{priority} is {self.of(priority)}; legal is 0 or more")

    def of(self, priority: Priority) -> int:
        """How many of one priority stay."""
        return self.normal if priority == "normal" else self.high

    def doomed(self, newest_first: Sequence[Held], last_good: CheckpointId) -> list[Held]:
        """What may go.

        Args:
            newest_first: every intact checkpoint, and every archive.
            last_good: the newest one that was verified to the last byte; it stays, and so does
                whatever is newer.
        """
        room = {priority: self.of(priority) for priority in PRIORITIES}
        doomed, passed = [], False
        for held in newest_first:
            older, passed = passed, passed or held.id == last_good
            if held.archived:
                continue
            room[held.priority] -= 1
            if room[held.priority] < 0 and older:
                doomed.append(held)
        return doomed
