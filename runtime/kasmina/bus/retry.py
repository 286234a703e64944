"""Trying again, with waits that grow and are drawn at random, so that many callers spread out.

tenacity and stamina draw from the global `random` and read the process's clock; a test cannot drive
them by a clock of its own and a run cannot repeat their waits, so these lines stay our own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from kasmina.errors import KasminaError

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often, and after which waits, something is tried again.

    The wait after attempt n (from 1) is drawn evenly from 0 to `min(ceiling_s, base_s * factor **
    (n - 1))`: full jitter, which of the usual forms makes the fewest calls where many callers
    contend (Brooker, "Exponential Backoff And Jitter", 2015).

    Attributes:
        attempts: calls in all, 1 or more.
        base_s: longest wait after the first attempt, seconds.
        factor: by how much it grows, 1 or more.
        ceiling_s: beyond which it does not grow, seconds.
        jitter: share of the wait that is drawn, in [0, 1]; 0 waits the longest time each time.
    """

    attempts: int = 5
    base_s: float = 0.05
    factor: float = 2.0
    ceiling_s: float = 5.0
    jitter: float = 1.0

    def __post_init__(self) -> None:
        legal = {
            "attempts": (self.attempts >= 1, "1 or more"),
            "base_s": (0 <= self.base_s < float("inf"), "0 or more seconds"),
            "factor": (1 <= self.factor < float("inf"), "1 or more"),
            "ceiling_s": (0 <= self.ceiling_s < float("inf"), "0 or more seconds"),
            "jitter": (0 <= self.jitter <= 1, "from 0 to 1"),
        }
        for name, (holds, rule) in legal.items():
            if not holds:
                raise BadSetting("Backoff", name, getattr(self, name), rule)

    def longest(self, attempt: int) -> float:
        """The longest wait after an attempt (from 1), seconds."""
        try:
            grown = self.base_s * self.factor ** (attempt - 1)
        except OverflowError:
            grown = self.ceiling_s
        return min(self.ceiling_s, grown)

    def wait(self, attempt: int, rng: Random) -> float:
        """The wait after an attempt (from 1), seconds."""
        longest = self.longest(attempt)
        return longest * (1 - self.jitter * rng.random())


DEFAULT_BACKOFF = Backoff()


class BadSetting(KasminaError, ValueError):
    """A setting outside its range."""

    def __init__(self, owner: str, name: str, value: object, rule: str) -> None:
        super().__init__(f"{owner}: {name} is {value!r}; it is {rule}")


async def retry(
    call: Callable[[], Awaitable[T]],
    *,
    on: tuple[type[Exception], ...],
    backoff: Backoff = DEFAULT_BACKOFF,
    deadline_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Sleep = asyncio.sleep,
    rng: Random | None = None,
) -> T:
    """Call until it succeeds.

    An error with an attribute `retry_after_s` (an open breaker has one) is waited for at least so
    long.

    Args:
        call: what to try; must be safe to do twice.
        on: errors after which it is tried again; all others are raised at once.
        backoff: how often and how long.
        deadline_s: seconds from now after which no further attempt begins.
        clock: monotonic seconds.
        sleep: waits for seconds.
        rng: draws the waits; None takes one that is seeded by the system.

    Raises:
        The last error, with a note of how many attempts were made in which time.
    """
    rng, began = rng or Random(), clock()
    attempt = 1
    while True:
        try:
            return await call()
        except on as error:
            wait = max(backoff.wait(attempt, rng), getattr(error, "retry_after_s", 0.0))
            late = deadline_s is not None and clock() - began + wait > deadline_s
            if attempt == backoff.attempts or late:
                spent = clock() - began
                error.add_note(f"given up after {attempt} attempts in {spent:.3g} s")
                raise
            await sleep(wait)
            attempt += 1
