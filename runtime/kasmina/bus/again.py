"""What a run that goes on from a checkpoint does again: the commands that it had answered since then.

Each is carried out at the moment at which it was, so that the run comes to where it had been: a
seed that was cancelled at step 300 is still dormant at step 100. What was refused stays refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kasmina.bus.requests import Asked, Outcome, Request

Moment = tuple[int, int]  # milestones and steps of the run; only grows, though a rewind counts back


class Again:
    """Commands of before, in their order, each with the moment at which it is due."""

    def __init__(self) -> None:
        self._told: Mapping[Asked, Outcome] = {}
        self._due: deque[tuple[Moment, Request]] = deque()

    def __len__(self) -> int:
        return len(self._due)

    def know(self, told: Mapping[Asked, Outcome]) -> None:
        """Learn what was answered."""
        self._told = told

    def told(self, asked: Asked) -> Outcome | None:
        """What was answered to a command; None where nothing was."""
        return self._told.get(asked._replace(digest=None, trace=None))

    def put(self, request: Request, due: Moment | None) -> int:
        """Add a command; without a moment it follows the one before. Returns how many are before it."""
        before = self._due[-1][0] if self._due else (0, 0)
        self._due.append((before if due is None else due, request))
        return len(self._due) - 1

    def take(self, moment: Moment | None) -> list[Request]:
        """Take what is due; None takes all."""
        found = []
        while self._due and (moment is None or self._due[0][0] <= moment):
            found.append(self._due.popleft()[1])
        return found

    def clear(self) -> None:
        """Forget the commands; they are read again."""
        self._due.clear()
