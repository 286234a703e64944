"""A circuit breaker: what keeps failing is left alone for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

from kasmina.bus.errors import BusUnavailable
from kasmina.bus.retry import BadSetting


class BreakerState(Enum):
    """What a breaker does with calls."""

    CLOSED = "closed"  # lets them pass
    OPEN = "open"  # refuses them
    HALF_OPEN = "half open"  # lets a few pass, to see


class CircuitOpen(BusUnavailable):
    """The call was not made, because those before it failed."""

    def __init__(self, name: str, retry_after_s: float, failures: int) -> None:
        super().__init__(
            f"{name} is left alone for another {retry_after_s:.3g} s, after {failures} failures in "
            "a row: look at the last error it gave"
        )
        self.retry_after_s = retry_after_s


class Permit:
    """Leave to make one call; tell it how the call went, once.

    What a call says that began before the breaker last changed its state is not counted: a call
    that hung since before it opened must not close it.
    """

    __slots__ = ("_breaker", "_era", "_told")

    def __init__(self, breaker: CircuitBreaker, era: int) -> None:
        self._breaker, self._era, self._told = breaker, era, False

    def succeeded(self) -> None:
        """The call did what it should."""
        self._tell(self._breaker._succeeded)

    def failed(self) -> None:
        """The call failed in a way that speaks against the other side."""
        self._tell(self._breaker._failed)

    def dropped(self) -> None:
        """The call was cancelled, or failed in a way that says nothing."""
        self._tell(self._breaker._dropped)

    def _tell(self, verdict: Callable[[], None]) -> None:
        if not self._told and self._era == self._breaker._era:
            verdict()
        self._told = True


class CircuitBreaker:
    """Counts failures in a row; for one thread or one event loop.

    Closed until `failures` calls in a row have failed; then open for `cooldown_s`; then half open:
    `trials` calls at a time may pass, as many successes close it, and one failure opens it for
    twice as long, up to `ceiling_s`.

    Args:
        name: of what it guards, for messages.
        failures: in a row that open it, 1 or more.
        cooldown_s: how long it then stays open, seconds.
        ceiling_s: the longest that it stays open, seconds.
        trials: successes that close it again, 1 or more.
        clock: monotonic seconds.

    Raises:
        BadSetting: a setting is outside its range.
    """

    def __init__(
        self,
        name: str = "the bus",
        *,
        failures: int = 5,
        cooldown_s: float = 1.0,
        ceiling_s: float = 30.0,
        trials: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for setting, value in {"failures": failures, "trials": trials}.items():
            if value < 1:
                raise BadSetting("CircuitBreaker", setting, value, "1 or more")
        if not 0 < cooldown_s <= ceiling_s < float("inf"):
            rule = f"more than 0 and at most ceiling_s, which is {ceiling_s!r}"
            raise BadSetting("CircuitBreaker", "cooldown_s", cooldown_s, rule)
        self.name, self._threshold, self._trials, self._clock = name, failures, trials, clock
        self._shortest, self._ceiling = cooldown_s, ceiling_s
        self._cooldown = cooldown_s
        self._state = BreakerState.CLOSED
        self._era = 0  # counts changes of state
        self._failures = self._successes = self._pending = 0
        self._until = 0.0

    @property
    def state(self) -> BreakerState:
        """What it would do with a call now."""
        if self._state is BreakerState.OPEN and self._clock() >= self._until:
            self._become(BreakerState.HALF_OPEN)
        return self._state

    def acquire(self) -> Permit:
        """Ask to make a call.

        Raises:
            CircuitOpen: it is open, or half open with enough calls under way.
        """
        state = self.state
        if state is BreakerState.OPEN:
            raise CircuitOpen(self.name, self._until - self._clock(), self._failures)
        if state is BreakerState.HALF_OPEN:
            if self._pending + self._successes >= self._trials:
                raise CircuitOpen(self.name, self._cooldown, self._failures)
            self._pending += 1
        return Permit(self, self._era)

    @contextmanager
    def guard(self, *on: type[Exception]) -> Iterator[None]:
        """Make a call inside; errors of the types `on` count as failures, others say nothing.

        Raises:
            CircuitOpen: the call may not be made.
        """
        permit = self.acquire()
        try:
            yield
        except on:
            permit.failed()
            raise
        except BaseException:
            permit.dropped()
            raise
        permit.succeeded()

    def _succeeded(self) -> None:
        self._failures = 0
        if self._state is BreakerState.HALF_OPEN:
            self._pending -= 1
            self._successes += 1
            if self._successes == self._trials:
                self._cooldown = self._shortest
                self._become(BreakerState.CLOSED)

    def _failed(self) -> None:
        self._failures += 1
        if self._state is BreakerState.HALF_OPEN:
            self._cooldown = min(self._ceiling, 2 * self._cooldown)
        elif self._failures < self._threshold:
            return
        self._until = self._clock() + self._cooldown
        self._become(BreakerState.OPEN)

    def _dropped(self) -> None:
        if self._state is BreakerState.HALF_OPEN:
            self._pending -= 1

    def _become(self, state: BreakerState) -> None:
        self._state = state
        self._era += 1
        self._pending = self._successes = 0
