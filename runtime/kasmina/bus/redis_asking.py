"""Commands and their replies: over the shared link, and on connections of those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from kasmina.bus.errors import BusUnavailable
from kasmina.bus.losses import Ledger
from kasmina.bus.redis_link import BROKEN, Link, closed, opened, shut
from kasmina.bus.redis_wire import is_no_group, refusal

MOST_WAITING = 64  # connections on which somebody waits for entries


class Asker:
    """Sends commands; replies that are errors are counted.

    Args:
        link: that many tasks share.
        ledger: counts "oom", "readonly" and "nogroup".
    """

    def __init__(self, link: Link, ledger: Ledger) -> None:
        self.link, self._ledger = link, ledger

    async def ask(self, packed: bytes, count: int, name: str) -> list[Any]:
        """Return the replies; those that are errors stand for themselves."""
        replies = await self.link.ask(packed, count, name)
        for reply in replies:
            self.count(reply)
        return replies

    async def call(self, *commands: bytes, name: str) -> list[Any]:
        """Return the replies; raises the first that is an error."""
        replies = await self.ask(b"".join(commands), len(commands), name)
        self.raise_first(replies, name)
        return replies

    def raise_first(self, replies: Sequence[Any], name: str) -> None:
        """Raise the first reply that is an error, as an error of ours."""
        for reply in replies:
            if isinstance(reply, Exception):
                raise refusal(reply, name, self.link.server)

    def count(self, reply: Any) -> None:
        """Count a reply that is an error of a kind of its own."""
        if isinstance(reply, redis_errors.OutOfMemoryError):
            self._ledger.counters["oom"] += 1
        elif isinstance(reply, redis_errors.ReadOnlyError):
            self._ledger.counters["readonly"] += 1
        elif isinstance(reply, Exception) and is_no_group(reply):
            self._ledger.counters["nogroup"] += 1


class Waiters:
    """Connections on which calls wait for entries, one each; kept for the next ones.

    Args:
        connect: gives a connection that is not open yet.
        server: how the server is called in messages.
        timeout_s: how much longer than it waits a call may take.
        known: finds out first whether the server can be used, so that nobody waits in vain.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        server: str,
        timeout_s: float,
        known: Callable[[], Awaitable[object]],
    ) -> None:
        self._connect, self._server, self._timeout_s = connect, server, timeout_s
        self._known = known
        self._spare: list[AbstractConnection] = []  # open, nobody waits on them
        self._busy: set[AbstractConnection] = set()
        self._closed = False

    async def ask(self, packed: bytes, wait_s: float) -> Any:
        """Send a command that waits; returns its reply, an error too."""
        async with self._one() as connection, asyncio.timeout(wait_s + self._timeout_s):
            await connection.send_packed_command([packed], False)
            try:
                return await connection.read_response()
            except redis_errors.ResponseError as error:
                return error

    async def close(self) -> None:
        """Let go of all connections; who waits gets `BusClosed`."""
        self._closed = True
        for connection in [*self._spare, *self._busy]:
            await shut(connection)

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[AbstractConnection]:
        if self._closed:
            raise closed(self._server)
        if len(self._busy) >= MOST_WAITING:
            raise BusUnavailable(
                f"{MOST_WAITING} calls wait for entries of {self._server} already; let fewer wait"
            )
        await self._known()
        connection = self._spare.pop() if self._spare else self._connect()
        self._busy.add(connection)
        try:
            await opened(connection)
            yield connection
            if not self._closed:
                self._spare.append(connection)
        except BROKEN as error:
            await shut(connection)
            if self._closed:
                raise closed(self._server) from None
            raise refusal(error, "", self._server) from None
        except BaseException:
            await shut(connection)
            raise
        finally:
            self._busy.discard(connection)
