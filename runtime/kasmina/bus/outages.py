"""Waits while the bus is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from random import Random
from typing import TypeVar

from kasmina.bus.breaker import CircuitBreaker
from kasmina.bus.errors import BusError, BusFull, BusLoading, BusReadOnly, BusUnavailable
from kasmina.bus.retry import Backoff

T = TypeVar("T")
_PASSING = (BusUnavailable, BusFull, BusReadOnly, BusLoading)


class Outages:
    """Calls until the bus answers, for as long as it takes; for one event loop.

    Args:
        backoff: how long it waits; how often it tries counts only once `ending` is set, so that a
            shutdown does not wait for a bus that is gone.
        rng: draws the waits; None takes one that is seeded by the system.
        breaker: leaves a bus alone that keeps failing.
        tell: hears once of each outage, when it begins.
    """

    def __init__(
        self,
        backoff: Backoff,
        rng: Random | None = None,
        breaker: CircuitBreaker | None = None,
        *,
        tell: Callable[[BusError], object] = lambda error: None,
    ) -> None:
        self.count = 0  # calls that were not answered, since it was made
        self.ending = False
        self._backoff, self._rng, self._breaker = backoff, rng or Random(), breaker
        self.tell = tell

    async def through(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call, and call again after each error that may pass.

        Raises:
            BusError: the bus answered what no waiting mends, or is away while all is ending.
        """
        tries = 0
        while True:
            try:
                with self._breaker.guard(*_PASSING) if self._breaker else nullcontext():
                    return await call()
            except BusError as error:
                tries += 1
                if not error.transient or (self.ending and tries >= self._backoff.attempts):
                    raise
                self.count += 1
                if tries == 1:
                    self.tell(error)
                await asyncio.sleep(self._backoff.wait(min(tries, 64), self._rng))
