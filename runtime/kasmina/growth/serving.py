"""The side of a run that faces the bus: a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from threading import Thread

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from kasmina.bus.breaker import CircuitBreaker
from kasmina.bus.client import MessageBusClient, position
from kasmina.bus.commands import CommandConfig, CommandHandler
from kasmina.bus.errors import BusError
from kasmina.bus.events import EventPublisher
from kasmina.bus.lease import Lease, folder_of, place_of
from kasmina.bus.limiter import RateLimiter
from kasmina.bus.names import HEARTBEATS, streams_of
from kasmina.bus.requests import Outcome
from kasmina.bus.signing import Verifier
from kasmina.bus.stamping import Stamp
from kasmina.bus.telemetry import TelemetryPublisher
from kasmina.growth.controller import Observation
from kasmina.growth.durable import Durable
from kasmina.growth.outside_config import OutsideConfig
from kasmina.growth.showing import Showing
from kasmina.observe.log import EventLog
from kasmina_generated.messages import types, wire

logger = logging.getLogger(__name__)

LOOK_S = 0.1  # between two looks for a checkpoint that somebody waits for
CATCH_UP_S = 0.002  # between two looks whether all that came before was read
IDLE_S = 1.0  # and between two where nobody does


class Serving:
    """Reads commands, answers, and sends, until it is stopped or the bus fails for good.

    Args:
        run: its name.
        bus: opens a client; called twice, so that commands never wait behind telemetry.
        config: see `OutsideConfig`.
        log: whose events are published.
        cursor: file that keeps how far they are, so that a run that goes on sends what is new; None
            sends all that the stream keeps.
        verify: takes signed commands only.
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
        self.handler = CommandHandler(
            self._commands,
            self._streams.commands,
            self._streams.replies,
            self._stamp,
            run=run,
            check=lambda command: None,
            verify=verify,
            config=CommandConfig(wait_s=2.0),
            limiter=RateLimiter(config.commands_a_second, config.commands_a_second),
        )
        self.telemetry = TelemetryPublisher(
            self._health,
            self._streams.health,
            self._stamp,
            config=config.telemetry,
            breaker=CircuitBreaker("telemetry"),
        )
        self.events = None if log is None else self._publisher(log, cursor)
        self.lease = Lease(self._health, self._streams.lease, self._stamp)
        self._showing = Showing(self._health, self._streams.observed, self._stamp, run)
        self.durable = Durable(self.handler, self._commands, self._streams.commands)
        self._folder = "" if log is None else folder_of(log.path)
        self._place = place_of(None if log is None else log.path)
        self._thread: Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = False

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
        self._make_beat, self._saved = beat, saved
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

    def stop(self) -> None:
        """Send what waits, within a bounded time, and let go of the bus."""
        if self._thread is None:
            return
        self._stopping = True
        self.telemetry.stop()
        if self.events is not None:
            self.events.stop()
        self.handler.stop()
        self._thread.join(self.config.drain_s + 5)
        self._thread = None

    # ------------------------------------------------------------------ the thread of the bus

    def _main(self, ready: Future[None], fresh: bool) -> None:
        try:
            asyncio.run(self._serve(ready, fresh))
        except BaseException as error:  # noqa: BLE001  the run goes on without a bus
            if ready.done():
                self.fault = error
                told = f"{type(error).__name__}: {error}"
                logger.error("run %s goes on without its bus: %s", self.run, told)
            else:
                ready.set_exception(error)

    async def _serve(self, ready: Future[None], fresh: bool) -> None:
        async with AsyncExitStack() as clients:
            for client in (self._commands, self._health):
                await clients.enter_async_context(client)
            async with asyncio.timeout(self.config.start_s):
                await self._commands.info(self._streams.commands)  # somebody answers
            await self.lease.take(self._beat)
            await (self._forget_earlier() if fresh else self.handler.look_at_earlier())
            self._loop = asyncio.get_running_loop()
            beside = [asyncio.create_task(work) for work in (self._live(), self._look_after())]
            serving = [self.handler.run(), self.telemetry.run()]
            if self.events is not None:
                serving.append(self.events.run())
            tasks = [asyncio.create_task(work) for work in serving]
            await self._catch_up()
            ready.set_result(None)
            try:
                await self._until_stopped(tasks, beside)
            finally:
                for task in (*tasks, *beside):
                    task.cancel()
                await asyncio.gather(*tasks, *beside, return_exceptions=True)
            await self.durable.trim(self._saved)
            with suppress(BusError):  # the name is free after the lease in any case
                await self.lease.let_go(self._beat(lease=0.0))

    async def _until_stopped(
        self, tasks: list[asyncio.Task[None]], beside: list[asyncio.Task[None]]
    ) -> None:
        """Wait for the end; raises what ended a part too early."""
        await asyncio.wait([*tasks, *beside], return_when=asyncio.FIRST_COMPLETED)
        if not self._stopping:
            for task in (*tasks, *beside):
                if task.done():
                    task.result()
        done, left = await asyncio.wait(tasks, timeout=self.config.drain_s)
        if left:
            logger.warning("run %s: the bus did not take everything in time", self.run)
        for task in done:
            with suppress(BusError):  # the bus is away: the log and the stream keep it
                task.result()

    async def _forget_earlier(self) -> None:
        """Take away what an earlier run of this name was asked."""
        info = await self._commands.info(self._streams.commands)
        if position(info.last) > (0, 0):
            milliseconds, number = position(info.last)
            await self._commands.trim(self._streams.commands, before=f"{milliseconds}-{number + 1}")
            self.handler.load_state_dict({"position": info.last, "seen": "", "done": []})

    async def _catch_up(self) -> None:
        """Let no step be made before it is known what is done again at which."""
        end = asyncio.get_running_loop().time() + self.config.start_s
        while not self.handler.caught_up and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(CATCH_UP_S)

    def _beat(self, lease: float | None = None) -> types.Heartbeat:
        lease = self.config.lease_s if lease is None else lease
        return structs.replace(
            self._make_beat(), lease=lease, folder=self._folder, place=self._place
        )

    async def _live(self) -> None:
        """Give signs of life: to all who look for runs, and to whoever would be this one."""
        while not self._stopping:
            beat = self._beat()
            sign = wire.encode(self._stamp(beat))
            await asyncio.gather(self._keep_name(beat), self._tell_all(sign))  # in one round trip
            await asyncio.sleep(self.config.heartbeat_s)

    async def _keep_name(self, beat: types.Heartbeat) -> None:
        try:
            await self.lease.keep(beat)
        except BusError as error:
            if not error.transient:
                raise

    async def _tell_all(self, sign: bytes) -> None:
        with suppress(BusError):  # an outage is for others to wait out
            await self._health.publish(HEARTBEATS, sign, keep=1000)

    async def _look_after(self) -> None:
        """Send observations, answer for checkpoints that are on the disk, and trim behind them."""
        while not self._stopping:
            self._wake.clear()
            await self._showing.send()
            await self.durable.look(self._saved)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S if self.durable.waits else IDLE_S):
                    await self._wake.wait()
