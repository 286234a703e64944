"""Reading entries: on connections of their own, and no more at once than is good for memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from kasmina.bus.client import LARGEST_PAYLOAD, Delivery
from kasmina.bus.errors import BusUnavailable
from kasmina.bus.redis_link import BROKEN, FIRST_DELAY_S, LONGEST_DELAY_S, closed, opened, shut
from kasmina.bus.redis_skim import (
    LARGEST_REPLY,
    Cut,
    ReplyTooLarge,
    first_of,
    reply_of,
    skim,
    whole,
)
from kasmina.bus.redis_wire import deliveries, payload_of, refusal
from kasmina.bus.retry import Backoff

MOST_WAITING = 64  # connections on which somebody waits for entries
AT_ONCE = 8  # connections on which nobody waits
GOOD_SIZE = LARGEST_REPLY // 2  # that a reply should have at most
REMEMBERED = 1024  # streams whose entries' size is


class Lines:
    """Connections for one command at a time each; kept for the next ones.

    Args:
        connect: gives a connection that is not open yet.
        server: how the server is called in messages.
        timeout_s: how much longer than it waits a call may take.
        known: finds out first whether the server can be used, so that nobody waits in vain.
        rng: for the jitter of delays.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        server: str,
        timeout_s: float,
        known: Callable[[], Awaitable[object]],
        rng: Random,
    ) -> None:
        self._connect, self._server, self._timeout_s = connect, server, timeout_s
        self._known, self._rng = known, rng
        self._backoff = Backoff(base_s=FIRST_DELAY_S, ceiling_s=LONGEST_DELAY_S, jitter=0.5)
        self._spare: list[AbstractConnection] = []  # open, nobody uses them
        self._busy: set[AbstractConnection] = set()
        self._waiting = 0
        self._some = asyncio.Semaphore(AT_ONCE)
        self._closed = False

    async def wait(self, packed: bytes, wait_s: float) -> Any:
        """Send a command that waits; returns its reply, an error too.

        A reply that is too large is returned as far as it had come, as `Cut`.
        """
        if self._waiting >= MOST_WAITING:
            raise BusUnavailable(
                f"{MOST_WAITING} calls wait for entries of {self._server} already; let fewer wait"
            )
        self._waiting += 1
        try:
            await self._known()
            return await self._once(packed, wait_s + self._timeout_s)
        finally:
            self._waiting -= 1

    async def ask(self, packed: bytes, name: str) -> Any:
        """Send a command that does not wait, again where the connection breaks; see `wait`."""
        await self._known()  # which has tried for as long
        loop, attempt = asyncio.get_running_loop(), 0
        end = loop.time() + self._timeout_s
        async with self._some:
            while True:
                attempt += 1
                try:
                    return await self._once(packed, max(0.0, end - loop.time()))
                except BusUnavailable as error:
                    if loop.time() >= end:
                        raise BusUnavailable(
                            f"{self._server} did not answer to {name} within {self._timeout_s:g} s:"
                            f" {error}"
                        ) from None
                await asyncio.sleep(self._backoff.wait(min(attempt, 32), self._rng))

    async def close(self) -> None:
        """Let go of all connections; who waits gets `BusClosed`."""
        self._closed = True
        for connection in [*self._spare, *self._busy]:
            await shut(connection)

    async def _once(self, packed: bytes, within_s: float) -> Any:
        async with self._one() as connection, asyncio.timeout(within_s):
            await opened(connection)
            await connection.send_packed_command([packed], False)
            try:
                return await reply_of(connection)
            except ReplyTooLarge as error:
                await shut(connection)
                return skim(error.head)

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[AbstractConnection]:
        if self._closed:
            raise closed(self._server)
        connection = self._spare.pop() if self._spare else self._connect()
        self._busy.add(connection)
        try:
            yield connection
            if not self._closed and connection.is_connected:
                self._spare.append(connection)
        except BROKEN as error:
            await shut(connection)
            if self._closed:
                raise closed(self._server) from None
            raise refusal(error, "", self._server) from None
        except redis_errors.RedisError as error:  # it let the link in, but not this one
            await shut(connection)
            raise refusal(error, "", self._server) from None
        except BaseException:
            await shut(connection)
            raise
        finally:
            self._busy.discard(connection)


class Entries:
    """Takes entries out of replies, and says how many to ask for.

    One that is larger than an entry may be comes without its payload, so that whoever reads goes on
    behind it; nothing of ours is empty, so it is refused, and kept as a dead letter, as any other
    that cannot be read. They are counted as "too large".
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._sizes: dict[str, float] = {}  # of an entry of a stream, as it was of late

    def at_once(self, streams: Sequence[str], count: int) -> int:
        """How many of each stream to ask for, of `count` that are wanted."""
        one_of_each = sum(self._sizes.get(stream, 0.0) for stream in streams)
        return max(1, min(count, int(GOOD_SIZE / max(1.0, one_of_each))))

    def by_stream(self, reply: Any) -> list[Delivery]:
        """What XREAD and XREADGROUP give, `[[stream, entries], ...]` or nothing."""
        parts = [(part[0].decode(), part[1]) for part in reply or () if len(part) == 2]
        found: list[Delivery] = []
        for stream, entries in parts:
            found += deliveries(stream, self.of(stream, entries))
        if not found and parts:
            stream, entries = parts[0]
            found = deliveries(stream, self.too_large(entries))
        return found

    def of(self, stream: str, entries: Sequence[Any]) -> list[Any]:
        """The entries that came whole; None stands for those that are there no more."""
        came = whole(entries)
        sizes = [len(payload_of(each[1])) if each and each[1] else 0 for each in came]
        self._note(stream, sizes, isinstance(entries, Cut) or len(came) < len(entries))
        if not sizes or max(sizes) <= LARGEST_PAYLOAD:
            return list(came)
        large = [size > LARGEST_PAYLOAD for size in sizes]
        self._counters["too large"] += sum(large)
        return [[each[0], []] if is_ else each for each, is_ in zip(came, large, strict=True)]

    def too_large(self, entries: Sequence[Any]) -> list[Any]:
        """The first entry, where a reply had no room for it."""
        first = first_of(entries)
        self._counters["too large"] += len(first)
        return first

    def _note(self, stream: str, sizes: list[int], cut: bool) -> None:
        if sizes or cut:
            size = LARGEST_REPLY / (len(sizes) + 1) if cut else sum(sizes) / len(sizes)
            before = self._sizes.pop(stream, 0.0)
            self._sizes[stream] = max(size, before / 2)
            if len(self._sizes) > REMEMBERED:
                del self._sizes[next(iter(self._sizes))]
