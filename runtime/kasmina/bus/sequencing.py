"""Puts what comes numbered, but out of order, back into order. Knows neither tasks nor clocks."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

M = TypeVar("M")


class Gap(NamedTuple):
    """Numbers that did not come: from `first` to `last`, both included, of one key."""

    key: str
    first: int
    last: int


class Sequencer(Generic[M]):
    """The messages of one key, by number.

    Args:
        following: the number that comes next; None takes the first that comes.
    """

    __slots__ = ("_waiting", "following", "handled", "since")

    def __init__(self, following: int | None = None) -> None:
        self.following = following
        self.handled = following  # the number before which all are handled
        self.since: float | None = None  # when the gap that is open now was seen
        self._waiting: dict[int, M] = {}

    def __len__(self) -> int:
        """Messages that wait behind a gap."""
        return len(self._waiting)

    def is_late(self, number: int) -> bool:
        """Whether the number lies before the one that comes next."""
        return self.following is not None and number < self.following

    def holds(self, number: int) -> bool:
        """Whether a message of this number waits."""
        return number in self._waiting

    def push(self, number: int, message: M, now: float) -> list[M]:
        """Take a message that is not late; returns what can go on, in order."""
        if self.following is None:
            self.following = number
        self._waiting[number] = message
        return self._release(now)

    def gap(self, key: str) -> Gap | None:
        """The gap that messages wait behind, None where none waits."""
        if not self._waiting or self.following is None:
            return None
        return Gap(key, self.following, min(self._waiting) - 1)

    def skip(self, now: float) -> list[M]:
        """Give up on the gap; returns what can go on, in order."""
        if self._waiting:
            self.following = min(self._waiting)
        return self._release(now) if self._waiting else []

    def _release(self, now: float) -> list[M]:
        assert self.following is not None
        released = []
        while self.following in self._waiting:
            released.append(self._waiting.pop(self.following))
            self.following += 1
        if not self._waiting:
            self.since = None
        elif released or self.since is None:
            self.since = now
        return released
