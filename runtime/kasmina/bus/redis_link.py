"""One connection to a server that many tasks share: what piles up goes out together."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from kasmina.bus.errors import BusClosed, BusError, BusUnavailable
from kasmina.bus.redis_skim import ReplyTooLarge, reply_of
from kasmina.bus.redis_wire import refusal

MOST_BYTES_AT_ONCE = 4 << 20  # of a round trip; more waits for the next
SWEEPS = 20  # in the time that a call may take, to find those whose time is out
FIRST_DELAY_S, LONGEST_DELAY_S = 0.02, 1.0  # between tries to connect
READS = frozenset(  # commands that may be sent in vain without any effect
    {"EXISTS", "MGET", "PING", "TIME", "XINFO", "XPENDING", "XRANGE", "XREAD", "XREVRANGE"}
)
BROKEN = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError, TimeoutError)

Reply = Any  # what the parser gives; a `ResponseError` stands for itself


@dataclass(slots=True, eq=False)
class _Request:
    """Commands whose replies somebody waits for."""

    packed: bytes
    count: int
    name: str  # of the command, for messages
    done: asyncio.Future[list[Reply]]
    deadline: float  # of the loop's clock
    sent: bool = False


@dataclass(slots=True)
class Limits:
    """How long is waited, and how much may wait."""

    timeout_s: float = 5.0
    queue_bytes: int = 64 << 20
    rng: random.Random = field(default_factory=random.Random)


class Link:
    """Sends commands in the order in which they were handed over, and connects again when needed.

    While a batch is on its way, what comes meanwhile waits and goes out as the next one. A batch
    whose replies did not all come is sent again on the next connection, until the time of whoever
    waits for it is out; so a command may be applied twice.

    Args:
        connect: gives a connection that is not open yet.
        server: how the server is called in messages.
        limits: how long is waited, and how much may wait.
        counters: counts "reconnects", "resent" and "round trips".
        prepare: called with `ask` for each new connection, before anything else is sent on it.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        server: str,
        limits: Limits,
        counters: Counter[str],
        prepare: Callable[[Link], Awaitable[None]],
    ) -> None:
        self.server = server
        self._connect, self._limits, self._counters = connect, limits, counters
        self._prepare = prepare
        self._connection: AbstractConnection | None = None
        self._waiting: deque[_Request] = deque()
        self._unanswered: deque[_Request] = deque()  # in the order of their deadlines
        self._sweeper: asyncio.TimerHandle | None = None
        self._bytes = 0  # that wait
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._trouble: BusError | None = None  # why nothing comes, for those who wait in vain
        self._connected_before = self._closed = False

    async def ask(self, packed: bytes, count: int, name: str) -> list[Reply]:
        """Send commands and return their replies, errors among them as they are.

        Raises:
            BusUnavailable: no answer in time; the commands may have been applied.
            BusRefused: the server lets nobody in by this name.
            BusTooOld: the server lacks what is needed.
        """
        if self._closed:
            raise closed(self.server)
        if self._bytes + len(packed) > self._limits.queue_bytes:
            raise BusUnavailable(
                f"{self._bytes} bytes wait for {self.server}, which does not keep up; send less"
            )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.timeout_s
        request = _Request(packed, count, name, loop.create_future(), deadline)
        self._waiting.append(request)
        self._unanswered.append(request)
        self._bytes += len(packed)
        self._idle.clear()
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._pump())
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._limits.timeout_s / SWEEPS, self._sweep)
        return await request.done

    async def drain(self) -> None:
        """Wait until nothing waits."""
        await self._idle.wait()

    async def close(self) -> None:
        """Let go of the connection; who still waits gets `BusClosed`."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._fail(list(self._waiting), closed(self.server))
        self._waiting.clear()
        await self._disconnect()

    async def talk(self, packed: bytes, count: int) -> list[Reply]:
        """Send on the open connection, around all that waits; for `prepare`."""
        connection = self._connection
        assert connection is not None
        await connection.send_packed_command([packed], check_health=False)
        return [await reply_of(connection) for _ in range(count)]

    def _sweep(self) -> None:
        """Tell those whose time is out; one timer for all costs less than one for each."""
        loop = asyncio.get_running_loop()
        while self._unanswered:
            request = self._unanswered[0]
            if not request.done.done():
                if request.deadline > loop.time():
                    break
                request.done.set_exception(self._in_vain(request))
            self._unanswered.popleft()
        self._sweeper = None
        if self._unanswered:
            self._sweeper = loop.call_later(self._limits.timeout_s / SWEEPS, self._sweep)

    def _in_vain(self, request: _Request) -> BusError:
        why = f": {self._trouble}" if self._trouble else ""
        done = "; it may have been applied" if request.sent and request.name not in READS else ""
        return BusUnavailable(
            f"{self.server} did not answer to {request.name} within {self._limits.timeout_s:g} s"
            f"{why}{done}"
        )

    async def _pump(self) -> None:
        """Send what waits, batch by batch, for as long as the link is open."""
        delay = FIRST_DELAY_S
        while True:
            await self._wake.wait()
            batch = self._take()
            if not batch:
                self._wake.clear()
                self._idle.set()
                continue
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    await self._open()
                    await self._exchange(batch)
                delay, self._trouble = FIRST_DELAY_S, None
            except BusError as error:
                await self._disconnect()
                self._fail(batch, error)  # no use in trying again
            except asyncio.CancelledError:
                self._give_back(batch)
                raise
            except Exception as error:  # noqa: BLE001  whatever broke the connection
                await self._disconnect()
                self._trouble = refusal(error, "", self.server)
                self._counters["resent"] += sum(request.sent for request in batch)
                self._give_back(batch)
                await asyncio.sleep(delay * self._limits.rng.uniform(0.5, 1.0))
                delay = min(2 * delay, LONGEST_DELAY_S)

    def _take(self) -> list[_Request]:
        """Return what goes out next; those whose callers have gone are left out."""
        batch: list[_Request] = []
        size = 0
        while self._waiting and size < MOST_BYTES_AT_ONCE:
            request = self._waiting.popleft()
            self._bytes -= len(request.packed)
            if not request.done.done():
                batch.append(request)
                size += len(request.packed)
        return batch

    def _give_back(self, batch: list[_Request]) -> None:
        """Let what was not answered wait again, before all else."""
        left = [request for request in batch if not request.done.done()]
        self._waiting.extendleft(reversed(left))
        self._bytes += sum(len(request.packed) for request in left)

    def _fail(self, batch: list[_Request], error: BusError) -> None:
        for request in batch:
            if not request.done.done():
                request.done.set_exception(error)

    async def _open(self) -> None:
        if self._connection is not None and self._connection.is_connected:
            return
        self._connection = self._connect()
        try:
            await opened(self._connection)
        except redis_errors.RedisError as error:
            known = refusal(error, "", self.server)
            if known.transient:
                raise
            raise known from None
        if self._connected_before:
            self._counters["reconnects"] += 1
        await self._prepare(self)
        self._connected_before = True

    async def _exchange(self, batch: list[_Request]) -> None:
        connection = self._connection
        assert connection is not None
        for request in batch:
            request.sent = True
        self._counters["round trips"] += 1
        packed = [request.packed for request in batch]
        await connection.send_packed_command(packed, check_health=False)
        demoted = False
        for request in batch:
            replies = await self._replies(connection, request)
            if not request.done.done():
                request.done.set_result(replies)
                request.packed = b""
            demoted |= any(isinstance(reply, redis_errors.ReadOnlyError) for reply in replies)
        if demoted:  # the name may stand for another server by now
            await self._disconnect()

    async def _replies(self, connection: AbstractConnection, request: _Request) -> list[Reply]:
        try:
            return [await reply_of(connection) for _ in range(request.count)]
        except ReplyTooLarge as error:  # the others of the batch are asked again
            self._fail([request], refusal(error, request.name, self.server))
            raise

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await shut(connection)


async def opened(connection: AbstractConnection) -> None:
    """Open a connection, if it is not open."""
    if not connection.is_connected:
        await connection.connect()  # type: ignore[no-untyped-call]


async def shut(connection: AbstractConnection) -> None:
    """Close a connection without asking the other side."""
    with suppress(*BROKEN):
        await connection.disconnect(nowait=True)


def closed(server: str) -> BusClosed:
    """Return the error of whoever uses a client that was closed."""
    return BusClosed(f"this client of {server} was closed; open another one")
