"""What a run that goes on from a checkpoint does again: the commands that it had answered since then.

Each is carried out at the moment at which it was, so that the run comes to where it had been: a
seed that was cancelled at step 300 is still dormant at step 100. What was refused stays refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kasmina.bus.client import MessageBusClient, just_before, position
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import Applied, Refused, Status

if TYPE_CHECKING:
    from kasmina.bus.commands import Outcome, Request


Moment = tuple[int, int]  # milestones and steps of the run; only grows, though a rewind counts back


class Again:
    """Commands of before, in their order, each with the moment at which it is due."""

    def __init__(self) -> None:
        self._told: Mapping[str, Outcome] = {}
        self._due: deque[tuple[Moment, Request]] = deque()

    def __len__(self) -> int:
        return len(self._due)

    def know(self, told: Mapping[str, Outcome]) -> None:
        """Learn what was answered, by the command's id."""
        self._told = told

    def told(self, id: str) -> Outcome | None:
        """What was answered to a command; None where nothing was."""
        return self._told.get(id)

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


async def answers_since(
    client: MessageBusClient, replies: str, entry: str
) -> dict[str, Applied | Refused | Status]:
    """What was answered in a stream of replies since an entry of the commands, by correlation.

    Raises:
        BusError: the bus is away.
    """
    found: dict[str, Applied | Refused | Status] = {}
    after = just_before(f"{position(entry)[0]}-0")
    while page := await client.read(replies, after=after):
        after = page[-1].id
        for each in page:
            try:
                envelope = wire.decode(each.payload)
            except wire.MessageRefused:
                continue
            if envelope.correlation and isinstance(envelope.body, Applied | Refused | Status):
                found[envelope.correlation] = envelope.body
    return found
