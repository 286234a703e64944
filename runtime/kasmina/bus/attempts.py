"""Tries to handle a message a counted number of times, and then gives it up as a dead letter."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from random import Random

from kasmina.bus.client import Delivery
from kasmina.bus.dead_letters import DeadLetterQueue, Failure
from kasmina.bus.errors import BusError
from kasmina.bus.retry import DEFAULT_BACKOFF, Backoff, BadSetting, Sleep

Handler = Callable[[Delivery], Awaitable[None]]

_OUTAGES = 1000  # in a row; with the default waits more than an hour


class Rejected(BusError):
    """Raised by a handler for a message that no further attempt can handle."""


class HandlerTimedOut(BusError, TimeoutError):
    """A handler took too long."""


class Attempts:
    """Runs a handler on deliveries, at most `backoff.attempts` times each.

    An attempt fails by any error, `SystemExit` too, or by taking longer than `timeout_s`; then the
    handler is cancelled, and left behind if it does not obey. An error of the bus that may pass
    (`transient`) is waited for and is no attempt: an outage must not make dead letters. A delivery
    that the group has given out before counts as one attempt each time: its handler took the
    process with it. So a message that kills every process that touches it is given up too, without
    a further try.

    Args:
        handler: handles a delivery; must be safe to do twice. It runs in the event loop, so it must
            not block it.
        dead: takes what is given up.
        backoff: how often and with which waits.
        timeout_s: of one attempt, seconds.
        clock: seconds since 1970, for the letters.
        sleep: waits for seconds.
        rng: draws the waits; None takes one that is seeded by the system.

    Raises:
        BadSetting: the time-out is not more than 0.
    """

    def __init__(
        self,
        handler: Handler,
        dead: DeadLetterQueue,
        *,
        backoff: Backoff = DEFAULT_BACKOFF,
        timeout_s: float = 30.0,
        clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
        rng: Random | None = None,
    ) -> None:
        if not timeout_s > 0:
            raise BadSetting("Attempts", "timeout_s", timeout_s, "more than 0 seconds")
        self.failures = self.outages = self.given_up = self.abandoned = 0
        self._handler, self._dead, self._backoff = handler, dead, backoff
        self._timeout_s, self._clock, self._sleep = timeout_s, clock, sleep
        self._rng = rng or Random()
        self._left: set[asyncio.Task[None]] = set()  # that did not end when they were cancelled

    async def __call__(self, delivery: Delivery) -> bool:
        """Handle a delivery or give it up; says whether it was handled.

        Raises:
            BusError: the bus stayed away, so it must not be acknowledged.
        """
        before = delivery.attempt - 1
        failures: list[Failure] = []
        for attempt in range(before + 1, self._backoff.attempts + 1):
            error = await self._through_outages(lambda: self._once(delivery))
            if error is None:
                return True
            self.failures += 1
            failures.append(failure(error, self._clock()))
            if isinstance(error, Rejected):
                break
            if attempt < self._backoff.attempts:
                await self._sleep(self._backoff.wait(attempt, self._rng))
        attempts = before + len(failures)
        if not failures:
            cause = f"given out {before} times, and whoever had it never came back"
            failures.append(Failure(self._clock(), cause, ""))
        await self._through_outages(lambda: self._give_up(delivery, attempts, failures))
        return False

    async def _give_up(
        self, delivery: Delivery, attempts: int, failures: list[Failure]
    ) -> BaseException | None:
        try:
            await self._dead.put(delivery, attempts, failures)
        except BusError as error:
            if not error.transient:
                raise
            return error
        self.given_up += 1
        return None

    async def _through_outages(
        self, call: Callable[[], Awaitable[BaseException | None]]
    ) -> BaseException | None:
        """Call until it ends by anything but an outage; raises one that does not end."""
        for outage in range(1, _OUTAGES + 1):
            error = await call()
            if not (isinstance(error, BusError) and error.transient):
                return error
            self.outages += 1
            if outage == _OUTAGES:
                raise error
            await self._sleep(self._backoff.wait(min(outage, 64), self._rng))
        return None

    async def _once(self, delivery: Delivery) -> BaseException | None:
        """Run the handler once; returns what it failed by."""
        ended: list[BaseException | None] = []
        task = asyncio.ensure_future(self._contained(delivery, ended))
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
        except asyncio.CancelledError:
            await self._cancel(task)
            raise
        if ended:
            return ended[0]
        if task.done():
            task.result()  # an interrupt from the keyboard
        await self._cancel(task)
        return HandlerTimedOut(f"the handler took longer than {self._timeout_s:.3g} s")

    async def _cancel(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
        if not task.done():
            self.abandoned += 1
            self._left.add(task)
            task.add_done_callback(self._left.discard)

    async def _contained(self, delivery: Delivery, ended: list[BaseException | None]) -> None:
        """Let nothing out: an exit inside a task would end the event loop."""
        try:
            await self._handler(delivery)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  told by the letter
            ended.append(error)
        else:
            ended.append(None)


def failure(error: BaseException, now: float) -> Failure:
    """An error as a letter keeps it."""
    cause = traceback.format_exception_only(error)[0].strip()
    return Failure(now, cause, "".join(traceback.format_exception(error)))
