"""A rate limiter: a bucket of tokens that fills at a constant rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from kasmina.bus.retry import BadSetting, Sleep

_SLACK_S = 1e-6  # so much too early is in time: a sleep may end one rounding before its time


class RateLimiter:
    """Lets `burst` tokens pass at once and `rate` a second; for one event loop.

    It keeps one number, the time at which the bucket will be full (the virtual scheduling form of
    the generic cell rate algorithm, ITU-T I.371), so waiting costs no timer.

    Args:
        rate: tokens a second, more than 0.
        burst: tokens that a full bucket holds, 1 or more.
        clock: monotonic seconds; one that steps back is held at its latest time.
        sleep: waits for seconds.

    Raises:
        BadSetting: a setting is outside its range.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if not 0 < rate < float("inf"):
            raise BadSetting("RateLimiter", "rate", rate, "more than 0 tokens a second")
        if burst < 1:
            raise BadSetting("RateLimiter", "burst", burst, "1 token or more")
        self._interval, self._burst = 1 / rate, burst
        self._clock, self._sleep = clock, sleep
        self._full = self._latest = clock()
        self._turn = asyncio.Lock()  # those that wait pass in the order in which they came

    def wait_s(self, tokens: int = 1) -> float:
        """Seconds until so many tokens will be there, if nobody takes any; 0 where they are.

        Raises:
            BadSetting: the bucket never holds so many.
        """
        if not 1 <= tokens <= self._burst:
            rule = f"from 1 to the burst, which is {self._burst}"
            raise BadSetting("RateLimiter", "tokens", tokens, rule)
        missing = self._full - self._now() - (self._burst - tokens) * self._interval
        return missing if missing > _SLACK_S else 0.0

    def try_acquire(self, tokens: int = 1) -> bool:
        """Take tokens where they are there; raises BadSetting where they never will be."""
        if self.wait_s(tokens) > 0:
            return False
        self._full = max(self._full, self._latest) + tokens * self._interval
        return True

    async def acquire(self, tokens: int = 1) -> None:
        """Wait for tokens and take them; raises BadSetting where there never will be so many."""
        async with self._turn:
            while (wait := self.wait_s(tokens)) > 0:
                await self._sleep(wait)
            self.try_acquire(tokens)

    def _now(self) -> float:
        self._latest = max(self._latest, self._clock())
        return self._latest
