"""Commands that could not be read, on their way to the dead letters: somebody may look, or replay."""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress

from kasmina.bus.client import Delivery, MessageBusClient
from kasmina.bus.dead_letters import DeadLetterQueue, Failure
from kasmina.bus.errors import BusError
from kasmina.bus.limiter import RateLimiter
from kasmina.bus.names import DEAD_LETTERS

LARGEST = 1 << 14  # bytes; a command takes a tenth of it, so more is nobody's mistake
AT_ONCE = 32  # that are kept of a burst, and one more each second


class Unread:
    """A flood of them is not kept, so that it costs neither the run nor the server its memory.

    Args:
        client: the bus.
        run: name of the run.
    """

    def __init__(self, client: MessageBusClient, run: str) -> None:
        self.not_kept = 0
        self._dead = DeadLetterQueue(client, DEAD_LETTERS, reader=run)
        self._limiter = RateLimiter(1.0, AT_ONCE)
        self._waiting: deque[tuple[Delivery, Failure]] = deque()

    def put(self, delivery: Delivery, error: Exception) -> None:
        """Hand one over; never waits."""
        fits = len(delivery.payload) <= LARGEST and len(self._waiting) < AT_ONCE
        if not fits or not self._limiter.try_acquire():
            self.not_kept += 1
            return
        failure = Failure(time.time(), f"{type(error).__name__}: {error}", "")
        self._waiting.append((delivery, failure))

    async def send(self) -> None:
        """Send all there are; those that the bus does not take now wait."""
        with suppress(BusError):
            while self._waiting:
                delivery, failure = self._waiting[0]
                await self._dead.put(delivery, 1, [failure])
                self._waiting.popleft()
