"""The side of a run that faces the bus: a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kasmina.bus.breaker import CircuitBreaker
from kasmina.bus.client import MessageBusClient
from kasmina.bus.commands import CommandConfig, CommandHandler
from kasmina.bus.errors import BusError
from kasmina.bus.events import EventPublisher
from kasmina.bus.limiter import RateLimiter
from kasmina.bus.names import streams_of
from kasmina.bus.requests import Outcome
from kasmina.bus.signing import Verifier
from kasmina.bus.stamping import Stamp
from kasmina.bus.telemetry import TelemetryPublisher
from kasmina.growth import earlier
from kasmina.growth.alarms import Alarms, Losses
from kasmina.growth.controller import Observation
from kasmina.growth.durable import Durable
from kasmina.growth.outside_config import OutsideConfig
from kasmina.growth.showing import Showing
from kasmina.growth.signs import Signs
from kasmina.growth.steadily import steadily
from kasmina.growth.tally import Tally
from kasmina.growth.unread import Unread
from kasmina.observe.log import EventLog
from kasmina_generated.messages import types

if TYPE_CHECKING:
    from kasmina.growth.metrics import Metrics

logger = logging.getLogger(__name__)

LOOK_S = 0.1  # between two looks for a checkpoint that somebody waits for
IDLE_S = 1.0  # and between two where nobody does


class Serving:
    """Reads commands, answers, and sends, until it is stopped or another process is the run.

    Each part goes on by itself: what the server refuses to one is tried again, an alarm tells of
    it, and the others do not notice.

    Args:
        run: its name.
        bus: opens a client; called twice, so that commands never wait behind telemetry.
        config: see `OutsideConfig`.
        log: whose events are published.
        cursor: file that keeps how far they are, so that a run that goes on sends what is new; None
            sends all that the stream keeps.
        verify: takes signed commands only, and signs.
    """

    def __init__(
        self,
        run: str,
        bus: Callable[[], MessageBusClient],
        config: OutsideConfig,
        *,
        log: EventLog | None,
        cursor: Path | None,
        verify: Verifier | None,
    ) -> None:
        self.run, self.config = run, config
        self.fault: BaseException | None = None  # what ended the bus for this run
        self._streams, self._stamp = streams_of(run), Stamp(run)
        self._commands, self._health = bus(), bus()
        self.alarms = Alarms(
            self._health,
            self._streams.events,
            self._stamp,
            run,
            keep=config.events_keep,
            wake=self.wake,
        )
        self._losses = Losses(self.alarms, self._commands, self._health)
        self._unread = Unread(self._health, run)
        self.metrics = None if config.metrics is None else self._metrics(config.metrics)
        self.handler = self._handler(verify)
        self.telemetry = TelemetryPublisher(
            self._health,
            self._streams.health,
            self._stamp,
            config=config.telemetry,
            breaker=CircuitBreaker("telemetry"),
        )
        self.events = None if log is None else self._publisher(log, cursor)
        self._signs = Signs(
            self._health,
            self._streams.lease,
            self._stamp,
            lease_s=config.lease_s,
            log=None if log is None else log.path,
            verify=verify,
        )
        self.lease = self._signs.lease
        self._showing = Showing(
            self._health, self._streams.observed, self._stamp, run, verify=verify
        )
        self._tally = Tally(
            self.handler,
            self.telemetry,
            self.events,
            self._showing,
            self._unread,
            self._losses,
            self.alarms,
        )
        for part in self._tally.publishers:
            part.outages.tell = self._away
        self.durable = Durable(self.handler, self._commands, self._streams.commands)
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._end: float | None = None  # when all of it must be over, by the loop's clock

    def _handler(self, verify: Verifier | None) -> CommandHandler:
        a_second = self.config.commands_a_second
        return CommandHandler(
            self._commands,
            self._streams.commands,
            self._streams.replies,
            self._stamp,
            run=self.run,
            check=lambda command: None,
            verify=verify,
            config=CommandConfig(wait_s=2.0),
            limiter=RateLimiter(a_second, a_second),
            give_up=self._unread.put,
            observe=_unheard if self.metrics is None else self.metrics.observe,
        )

    def _metrics(self, port: int) -> Metrics:
        from kasmina.growth.metrics import Metrics  # brings an HTTP server, which few runs need

        return Metrics(self._health, port, self.counts)

    def _publisher(self, log: EventLog, cursor: Path | None) -> EventPublisher:
        publisher = EventPublisher(
            self._health,
            self._streams.events,
            log.path,
            cursor,
            self._stamp,
            keep=self.config.events_keep,
        )
        log.subscribe(publisher.notify)
        return publisher

    # ------------------------------------------------------------------ the training thread

    def start(
        self,
        beat: Callable[[], types.Heartbeat],
        saved: Callable[[str], Outcome],
        *,
        fresh: bool,
    ) -> None:
        """Connect, become the run of this name, and begin to serve.

        Args:
            beat: makes a sign of life; from the thread of the bus.
            saved: what is answered for a checkpoint, by its id; from the thread of the bus.
            fresh: what was asked of an earlier run of this name is left alone.

        Raises:
            BusError: nobody answers, wants a password, or cannot do what is needed.
            RunIsTaken: another process is the run of this name.
        """
        self._signs.make, self._saved = beat, saved
        ready: Future[None] = Future()
        self._thread = Thread(
            target=self._main, args=(ready, fresh), name="kasmina-bus", daemon=True
        )
        self._thread.start()
        ready.result()

    def show(self, seen: Observation, mask: NDArray[np.bool_]) -> None:
        """Send what a controller elsewhere decides by; neither may change any more."""
        self._showing.put(seen, mask)
        self.wake()

    def wake(self) -> None:
        """Say that there is something to send, or a checkpoint to wait for."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake.set)

    def counts(self) -> dict[str, int]:
        """What was done since the process began, and what was lost or dropped; from any thread."""
        return self._tally.counts()

    def stop(self) -> None:
        """Send what waits, within a bounded time, and let go of the bus."""
        if self.metrics is not None:
            self.metrics.close()
            self.metrics = None
        if self._thread is None:
            return
        self._stopping = True
        for each in self._tally.publishers:
            each.stop()
        self._thread.join(self.config.drain_s + 5)
        self._thread = None
        self._tally.tell(self.run)

    # ------------------------------------------------------------------ the thread of the bus

    def _away(self, error: BusError) -> None:
        told = f"{error}; the run goes on, and what is asked of it or told by it waits"
        self.alarms.sound("warning", "bus away", told, same="")

    def _main(self, ready: Future[None], fresh: bool) -> None:
        try:
            asyncio.run(self._serve(ready, fresh))
        except BaseException as error:  # noqa: BLE001  the run goes on without a bus
            if ready.done():
                self.fault = error
                how = "is held, which Ctrl-C ends," if self._signs.make().paused else "goes on"
                told = f"{type(error).__name__}: {error}"
                logger.error("run %s %s without its bus: %s", self.run, how, told)
            else:
                ready.set_exception(error)

    async def _serve(self, ready: Future[None], fresh: bool) -> None:
        async with AsyncExitStack() as clients:
            clients.push_async_callback(self._let_go)
            async with asyncio.timeout(self.config.start_s):
                await self._commands.info(self._streams.commands)  # somebody answers
            await self._signs.take_name()
            self._loop = asyncio.get_running_loop()
            if fresh:
                await earlier.forget(self._commands, self._streams.commands, self.handler)
            else:
                await earlier.look_at(self._streams.commands, self.handler, self.alarms)
            tasks = self._begin(
                ("commands", self.handler.read),
                ("answers", self.handler.answer),
                ("telemetry", self.telemetry.run),
                *([] if self.events is None else [("events", self.events.run)]),
            )
            beside = self._begin(
                ("signs of life", self._live),
                ("the bus", self._look_after),
                *([] if self.metrics is None else [("metrics", self.metrics.run)]),
            )
            await earlier.catch_up(self.handler, self.config.start_s)
            ready.set_result(None)
            try:
                await self._until_stopped(tasks, beside)
            finally:
                for task in (*tasks, *beside):
                    task.cancel()
                await asyncio.gather(*tasks, *beside, return_exceptions=True)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._end):
                    await self.durable.trim(self._saved)
                    await self._tell()
                    await self._signs.end()

    async def _let_go(self) -> None:
        """Close the clients, in what is left of the time that the end may take."""
        within_s = None
        if self._end is not None:
            within_s = max(0.0, self._end - asyncio.get_running_loop().time())
        clients = (self._commands, self._health)
        await asyncio.gather(*(each.close(within_s=within_s) for each in clients))

    def _begin(self, *parts: tuple[str, Callable[[], Awaitable[None]]]) -> list[asyncio.Task[None]]:
        return [
            asyncio.create_task(steadily(*part, self.alarms, ending=lambda: self._stopping))
            for part in parts
        ]

    async def _until_stopped(
        self, tasks: list[asyncio.Task[None]], beside: list[asyncio.Task[None]]
    ) -> None:
        """Wait for the end; raises what ended a part too early."""
        await asyncio.wait([*tasks, *beside], return_when=asyncio.FIRST_COMPLETED)
        if not self._stopping:
            for task in (*tasks, *beside):
                if task.done():
                    task.result()
        self._end = asyncio.get_running_loop().time() + self.config.drain_s
        done, left = await asyncio.wait(tasks, timeout=self.config.drain_s)
        if left:
            logger.warning("run %s: the bus did not take everything in time", self.run)
        for task in done:
            with suppress(BusError):  # the bus is away: the log and the stream keep it
                task.result()

    async def _live(self) -> None:
        while not self._stopping:
            await self._signs.give()
            await asyncio.sleep(self.config.heartbeat_s)

    async def _look_after(self) -> None:
        """Send what is rare, answer for checkpoints that are on the disk, and trim behind them."""
        while not self._stopping:
            self._wake.clear()
            await self._tell()
            await self._showing.send()
            await self.durable.look(self._saved)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self.durable.waits else IDLE_S):
                    await self._wake.wait()

    async def _tell(self) -> None:
        await self.alarms.send(self._signs.make())
        await self._unread.send()


def _unheard(_: str, __: float) -> None:
    """Nobody listens for latencies."""
