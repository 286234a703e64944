"""A run on a message bus: it tells how it is, and obeys.

The bus has a thread and an event loop of its own. The training thread hands over and takes; between
two steps that costs a look at a queue and at a clock. It never waits for the bus, except while the
run is held by a `Pause`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from kasmina.bus.breaker import CircuitBreaker
from kasmina.bus.claims import BadClaim, ClaimStore
from kasmina.bus.client import FIRST, MessageBusClient, position
from kasmina.bus.commands import CommandHandler, Request
from kasmina.bus.errors import BusError
from kasmina.bus.events import EventPublisher
from kasmina.bus.limiter import RateLimiter
from kasmina.bus.names import HEARTBEATS, streams_of
from kasmina.bus.signing import Verifier
from kasmina.bus.stamping import Stamp
from kasmina.bus.telemetry import TelemetryConfig, TelemetryPublisher
from kasmina.errors import KasminaError
from kasmina.growth.controller import Observation
from kasmina.growth.gardener import Gardener
from kasmina.growth.orders import Orders
from kasmina.growth.telling import frames_of, observed_of
from kasmina.observe.log import EventLog
from kasmina_generated.messages import types, wire
from kasmina_generated.messages.types import Refused

if TYPE_CHECKING:
    from kasmina.growth.saving import Keeper

logger = logging.getLogger(__name__)

Prove = Callable[[Mapping[str, float]], "Broken | None"]
PAUSED_S = 0.02  # between two looks for commands while the run is held
LOOK_S = 0.2  # between two looks for observations, and for checkpoints on the disk
OBSERVATIONS = 64  # that the stream keeps


@dataclass(frozen=True, slots=True)
class Broken:
    """A property that limits would break: what it says, and the path that shows it."""

    what: str
    witness: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutsideConfig:
    """How often a run tells what.

    Attributes:
        telemetry_s: seconds from one frame of every site's health to the next; 0 sends none.
        heartbeat_s: seconds between two signs of life.
        telemetry: how frames are packed and how many entries are kept.
        commands_a_second: that are read at most; those of a flood wait in their stream.
        events_keep: entries that the stream of events keeps; None keeps all.
        start_s: how long the bus may take to answer first, seconds.
        drain_s: how long the end waits for what was not sent yet, seconds.
    """

    telemetry_s: float = 2.0
    heartbeat_s: float = 1.0
    telemetry: TelemetryConfig = field(default_factory=lambda: TelemetryConfig(keep=600))
    commands_a_second: int = 5000
    events_keep: int | None = 1_000_000
    start_s: float = 10.0
    drain_s: float = 10.0


class Outside:
    """One run on a bus.

    `start` once the run stands as it shall go on, then `after_step` between each two steps.

    Args:
        run: its name.
        bus: opens a client; called twice, so that commands never wait behind telemetry.
        log: whose events are published.
        cursor: where is kept how far they are; beside the log by default.
        verify: takes signed commands only.
        prove: says what a change of limits would break; takes all limits by name, runs in a thread
            of its own. None lets every legal value pass.
        config: see `OutsideConfig`.

    Raises:
        BadBusUrl: `bus` opened none.
    """

    def __init__(
        self,
        run: str,
        bus: Callable[[], MessageBusClient],
        *,
        log: EventLog | None = None,
        cursor: Path | None = None,
        verify: Verifier | None = None,
        prove: Prove | None = None,
        config: OutsideConfig | None = None,
    ) -> None:
        self.run, self.streams = run, streams_of(run)
        self.config = config or OutsideConfig()
        self.fault: BaseException | None = None  # what ended the bus for this run
        self._commands, self._health = bus(), bus()
        self._stamp = Stamp(run)
        self.handler = CommandHandler(
            self._commands,
            self.streams.commands,
            self.streams.replies,
            self._stamp,
            run=run,
            check=lambda command: None,
            verify=verify,
            limiter=RateLimiter(self.config.commands_a_second, self.config.commands_a_second),
        )
        self.telemetry = TelemetryPublisher(
            self._health,
            self.streams.health,
            self._stamp,
            config=self.config.telemetry,
            breaker=CircuitBreaker("telemetry"),
        )
        self.events = None if log is None else self._publisher(log, cursor)
        self._prove, self._provers = prove, ThreadPoolExecutor(1, "kasmina-proofs")
        self._gardener: Gardener | None = None
        self._keeper: Keeper | None = None
        self._orders: Orders | None = None
        self._kept: Mapping[str, Any] | None = None  # of a checkpoint, until `start`
        self._proved: deque[tuple[Request, Broken | None]] = deque()
        self._positions: dict[str, str] = {}  # of commands, by the checkpoint that holds them
        self._saving: deque[tuple[Request, str]] = (
            deque()
        )  # answered when their checkpoint is there
        self._seen: deque[tuple[Observation, NDArray[np.bool_]]] = deque(
            maxlen=16
        )  # the newest count
        self._newest = ""  # checkpoint that was not seen on the disk yet
        self._trimmed = FIRST
        self._due = 0.0
        self._thread: Thread | None = None
        self._stopping = False

    def _publisher(self, log: EventLog, cursor: Path | None) -> EventPublisher:
        publisher = EventPublisher(
            self._health,
            self.streams.events,
            log.path,
            cursor or log.path.with_suffix(".published"),
            self._stamp,
            keep=self.config.events_keep,
        )
        log.subscribe(publisher.notify)
        return publisher

    # ------------------------------------------------------------------ the training thread

    def start(self, gardener: Gardener, keeper: Keeper | None = None, *, fresh: bool) -> None:
        """Connect, and begin to obey.

        Args:
            gardener: of the run, as it goes on.
            keeper: saves its checkpoints.
            fresh: the run begins: what was asked of an earlier one of its name is left alone.

        Raises:
            BusError: nobody answers, wants a password, or cannot do what is needed.
        """
        self._gardener, self._keeper = gardener, keeper
        keeps = keeper is not None and keeper.keeps
        self._orders = Orders(gardener, self.run, keeps=keeps)
        if self._kept is not None:
            self._orders.load_state_dict(self._kept["orders"])
        self.handler.check = self._orders.check
        ready: Future[None] = Future()
        self._thread = Thread(
            target=self._main, args=(ready, fresh), name="kasmina-bus", daemon=True
        )
        self._thread.start()
        ready.result()

    def after_step(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Carry out what was asked, and hand over what is due; call between two steps.

        Args:
            stop: asked while the run is held; True goes on.
        """
        if self.handler.waiting or self._proved:
            self._obey()
        if time.monotonic() >= self._due:
            self._tell()
        orders = self._orders
        while orders is not None and orders.paused and not stop() and self.fault is None:
            time.sleep(PAUSED_S)
            self._obey()

    def observed(self, seen: Observation, mask: NDArray[np.bool_]) -> None:
        """Hand over what a controller outside decides by; neither may change any more."""
        self._seen.append((seen, mask))

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Hold commands while a checkpoint restores: they are carried out after it."""
        self.handler.held = True
        try:
            yield
        finally:
            self.handler.held = False

    def state_dict(self) -> dict[str, Any]:
        """What was done, and from where commands are read on; for a checkpoint."""
        orders = {} if self._orders is None else self._orders.state_dict()
        return {"commands": self.handler.state_dict(), "orders": orders}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.handler.load_state_dict(state["commands"])
        self._kept = state
        if self._orders is not None:
            self._orders.load_state_dict(state["orders"])

    def saved(self, checkpoint: str, state: Mapping[str, Any]) -> None:
        """A checkpoint with this `state_dict` is on its way to the disk."""
        self._positions[checkpoint] = state["commands"]["position"]
        self._newest = checkpoint

    def close(self, *, finished: bool = False) -> None:
        """Send what waits, within a bounded time, and let go of the bus.

        Args:
            finished: the run is over: commands that still wait are refused. Otherwise they stay in
                their stream, for the run that goes on from here.
        """
        if self._thread is None:
            return
        if finished:
            self._refuse_all()
        self._stopping = True
        self._provers.shutdown(wait=False, cancel_futures=True)
        self.telemetry.stop()
        if self.events is not None:
            self.events.stop()
        self.handler.stop()
        self._thread.join(self.config.drain_s + 5)
        self._thread = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refuse_all(self) -> None:
        for request in self.handler.take():
            self._refuse(request, "expired", "the run has ended")

    def _obey(self) -> None:
        """One by one, so that a checkpoint never holds half of what was asked."""
        assert self._orders is not None
        while self._proved:
            request, broken = self._proved.popleft()
            if broken is None:
                self.handler.settle(request, self._carried_out(request))
            else:
                self._refuse(request, "property", broken.what, witness=broken.witness[:256])
        for request in self.handler.take():
            if isinstance(request.command, types.SetLimit) and self._prove is not None:
                self._ask_for_proof(request, request.command)
            elif isinstance(request.command, types.Checkpoint):
                self._save(request)
            else:
                self.handler.settle(request, self._carried_out(request))
        self._orders.look()

    def _carried_out(self, request: Request) -> types.Applied | Refused | types.Status:
        assert self._orders is not None
        command = request.command
        if isinstance(command, types.Query) and command.what == "checkpoints":
            status = self._orders.carry_out(command)
            assert self._keeper is not None or isinstance(status, types.Status | Refused)
            if isinstance(status, types.Status) and self._keeper is not None:
                names = json.dumps(self._keeper.names())
                return types.Status(
                    run=status.run, epoch=status.epoch, step=status.step, paused=status.paused,
                    sites=status.sites, detail=names,
                )  # fmt: skip
            return status
        return self._orders.carry_out(command)

    def _refuse(self, request: Request, reason: Any, detail: str, **fields: Any) -> None:
        refused = Refused(run=self.run, reason=reason, detail=detail[:8192], **fields)
        self.handler.settle(request, refused)

    def _ask_for_proof(self, request: Request, command: types.SetLimit) -> None:
        assert self._gardener is not None and self._orders is not None
        if (refused := self._orders.check(command)) is not None:
            self.handler.settle(request, refused)
            return
        prove = self._prove
        assert prove is not None
        limits = {**self._gardener.limits.as_dict(), command.name: command.value}

        def work() -> None:
            try:
                found = prove(limits)
            except KasminaError as error:
                found = Broken(f"it cannot be proved: {error}")
            self._proved.append((request, found))

        self._provers.submit(work)

    def _save(self, request: Request) -> None:
        """Save in the background; it is answered when the checkpoint is on the disk."""
        if self._keeper is None or not self._keeper.keeps:
            self.handler.settle(request, self._carried_out(request))
            return
        self._saving.append((request, self._keeper.save("high")))

    def _tell(self) -> None:
        """Hand over a frame of every site."""
        gardener, every = self._gardener, self.config.telemetry_s
        if gardener is None or not every:
            self._due = float("inf")
            return
        self._due = time.monotonic() + every
        for frame in frames_of(gardener, self.run):
            self.telemetry.offer(frame)

    # ------------------------------------------------------------------ the bus's thread

    def _main(self, ready: Future[None], fresh: bool) -> None:
        try:
            asyncio.run(self._serve(ready, fresh))
        except BaseException as error:  # noqa: BLE001  the run goes on without a bus
            if ready.done():
                self.fault = error
                logger.error("run %s goes on without its bus: %s", self.run, _told(error))
            else:
                ready.set_exception(error)

    async def _serve(self, ready: Future[None], fresh: bool) -> None:
        async with AsyncExitStack() as clients:
            for client in (self._commands, self._health):
                await clients.enter_async_context(client)
            async with asyncio.timeout(self.config.start_s):
                await self._connect(fresh)
            ready.set_result(None)
            beside = [asyncio.create_task(work) for work in (self._beat(), self._look_after())]
            serving = [self.handler.run(), self.telemetry.run()]
            if self.events is not None:
                serving.append(self.events.run())
            tasks = [asyncio.create_task(work) for work in serving]
            try:
                await self._until_stopped(tasks, beside)
            finally:
                for task in (*tasks, *beside):
                    task.cancel()
                await asyncio.gather(*tasks, *beside, return_exceptions=True)
            await self._trim()

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

    async def _connect(self, fresh: bool) -> None:
        """Find the bus; a fresh run takes away what an earlier one was asked."""
        info = await self._commands.info(self.streams.commands)
        if fresh and position(info.last) > (0, 0):
            milliseconds, number = position(info.last)
            await self._commands.trim(self.streams.commands, before=f"{milliseconds}-{number + 1}")
            self.handler.load_state_dict({"position": info.last, "done": []})

    async def _beat(self) -> None:
        gardener, orders = self._gardener, self._orders
        assert gardener is not None and orders is not None
        while not self._stopping:
            beat = types.Heartbeat(
                run=self.run,
                epoch=gardener.clock.epoch,
                step=gardener.clock.step,
                every=self.config.heartbeat_s,
                paused=orders.paused,
                waiting=self.handler.waiting,
            )
            await self._try(self._health, HEARTBEATS, wire.encode(self._stamp(beat)), keep=1000)
            await asyncio.sleep(self.config.heartbeat_s)

    async def _look_after(self) -> None:
        """Send observations, answer for checkpoints that are on the disk, and trim behind them."""
        claims = ClaimStore(self._health)
        while not self._stopping:
            while self._seen:
                seen, mask = self._seen.popleft()
                message = await asyncio.to_thread(observed_of, self.run, seen, mask)
                with suppress(BadClaim, BusError):
                    payload = await claims.fit(self._stamp(message), self._stamp)
                    await self._try(self._health, self.streams.observed, payload, keep=OBSERVATIONS)
            if self._saving or self._newest or self._keeper is None:
                await self._trim()
            await asyncio.sleep(LOOK_S)

    async def _try(
        self, client: MessageBusClient, stream: str, payload: bytes, *, keep: int
    ) -> None:
        """Send what is worth nothing later; an outage is for others to wait out."""
        with suppress(BusError):
            await client.publish(stream, payload, keep=keep)

    async def _trim(self) -> None:
        """Let go of commands that every checkpoint on the disk has done."""
        keeper, before = self._keeper, None
        if keeper is None or not keeper.keeps:
            before = self.handler.position  # nothing can go on from anything earlier
        else:
            names = await asyncio.to_thread(keeper.names)
            self._answer_saved(names)
            self._newest = "" if self._newest in names else self._newest
            before = self._oldest(names)
        if before is not None and before not in (FIRST, self._trimmed):
            with suppress(BusError):
                await self._commands.trim(self.streams.commands, before=before)
                self._trimmed = before

    def _oldest(self, names: list[str]) -> str | None:
        """The position up to which all checkpoints on the disk have done; None: not known of one."""
        there = set(names)
        newest = max(there, default="")
        for gone in [name for name in self._positions if name not in there and name < newest]:
            del self._positions[gone]
        if not there or not there <= self._positions.keys():
            return None
        return min((self._positions[name] for name in there), key=position)

    def _answer_saved(self, names: list[str]) -> None:
        orders = self._orders
        assert orders is not None
        while self._saving and self._saving[0][1] in names:
            request, checkpoint = self._saving.popleft()
            self.handler.settle(request, orders.done(detail=f"checkpoint {checkpoint}"))


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
