"""The bus on Redis Streams."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from kasmina.bus.client import (
    FIRST,
    NEWEST,
    Delivery,
    Loss,
    Pending,
    StreamInfo,
    check_names,
    check_payloads,
)
from kasmina.bus.errors import AnswerTooLarge, BusError, BusRefused
from kasmina.bus.losses import Ledger
from kasmina.bus.redis_asking import Asker
from kasmina.bus.redis_claims import Claims
from kasmina.bus.redis_groups import Groups
from kasmina.bus.redis_link import Limits, Link
from kasmina.bus.redis_reading import Entries, Lines
from kasmina.bus.redis_server import Features, connector, features, probe_commands
from kasmina.bus.redis_skim import SkimmingParser
from kasmina.bus.redis_watch import Watch
from kasmina.bus.redis_wire import (
    deliveries,
    pack,
    pack_publish,
    pending_of,
)

VALUES_AT_ONCE = 8  # of `get_many`: with the largest values, what a reply may have


class RedisStreamClient:
    """A client of a Redis server (6.2 or newer), as `MessageBusClient` says; for one event loop.

    All that does not wait shares one connection, on which calls of many tasks go out together;
    each call that waits for entries has one of its own meanwhile. Lost connections are opened again
    with growing delays, and what was not answered is sent again.

    Args:
        url: `redis://USER:PASSWORD@HOST:PORT/DATABASE`, `rediss://` for TLS (`?ssl_ca_certs=FILE`),
            or `unix:///path`.
        timeout_s: how long a call may take altogether, new connections included.
        connect_s: how long opening a connection may take.
        queue_bytes: how much may wait to be sent; more raises `BusUnavailable`.
        watch_s: how often it is looked whether the server still has its data; 0 never does, but
            after a new connection.
        rng: for the jitter of delays.

    Raises:
        BadBusUrl: the URL names no server.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        connect_s: float = 2.0,
        queue_bytes: int = 64 << 20,
        watch_s: float = 1.0,
        rng: random.Random | None = None,
    ) -> None:
        connect, self.server = connector(url, connect_s=connect_s)
        read, _ = connector(url, connect_s=connect_s, parser=SkimmingParser)
        self._ledger = Ledger()
        self._limits = Limits(timeout_s, queue_bytes, rng or random.Random())
        self._watch, self._watch_s = Watch(self._ledger), watch_s
        counters = self._ledger.counters
        self._link = Link(connect, self.server, self._limits, counters, self._prepare)
        self._lines = Lines(read, self.server, timeout_s, self.features, self._limits.rng)
        self._asker = Asker(self._link, self._lines, self._ledger)
        self._entries = Entries(counters)
        self._groups = Groups(self._asker, self._entries, self._ledger)
        self._claims = Claims(self._asker, self._entries, self._ledger, self._groups.make_again)
        self._features: Features | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def counters(self) -> Mapping[str, int]:
        """How often what has happened since the client was made, by name."""
        return self._ledger.counters

    def on_loss(self, callback: Callable[[Loss], None]) -> None:
        """Call back for every loss that this client finds."""
        self._ledger.on_loss(callback)

    async def features(self) -> Features:
        """Return what the server is and lacks; connects where nothing was asked before."""
        if self._features is None:
            await self._asker.call(pack("PING"), name="PING")
        assert self._features is not None
        return self._features

    async def publish(self, stream: str, payload: bytes, *, keep: int | None = None) -> str:
        """Append one entry and return its id."""
        return (await self.publish_many(stream, [payload], keep=keep))[0]

    async def publish_many(
        self, stream: str, payloads: Sequence[bytes], *, keep: int | None = None
    ) -> list[str]:
        """Append entries in their order and return their ids."""
        check_names(stream=stream)
        check_payloads(payloads)
        if not payloads:
            return []
        replies = await self._asker.ask(pack_publish(stream, payloads, keep), len(payloads), "XADD")
        ids = [reply.decode() for reply in replies if isinstance(reply, bytes)]
        self._watch.published(stream, ids)
        self._ledger.counters["published"] += len(ids)
        self._asker.raise_first(replies, "XADD", stream)
        return ids

    async def create_group(self, stream: str, group: str, *, start: str = FIRST) -> bool:
        """Make a group, and its stream, where they do not exist; say whether the group is new."""
        check_names(stream=stream, group=group)
        return await self._groups.create(stream, group, start)

    async def consume(
        self,
        streams: Sequence[str],
        group: str,
        consumer: str,
        *,
        count: int = 512,
        wait_s: float = 0.0,
    ) -> list[Delivery]:
        """Give this consumer entries that the group has given to nobody yet."""
        check_names(group=group, consumer=consumer)
        return await self._groups.consume(streams, group, consumer, count, wait_s)

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> int:
        """Say that entries are done; returns how many of them were pending until now."""
        if not ids:
            return 0
        command = pack("XACK", stream, group, *ids)
        done = int((await self._asker.call(command, name="XACK", keys=[stream]))[0])
        self._ledger.counters["acknowledged"] += done
        return done

    async def claim(
        self, stream: str, group: str, consumer: str, *, idle_s: float, count: int = 512
    ) -> list[Delivery]:
        """Take over the oldest entries that have been pending for at least `idle_s`."""
        check_names(consumer=consumer)
        return await self._claims.take_over(stream, group, consumer, idle_s, count)

    async def pending(self, stream: str, group: str, *, count: int = 512) -> list[Pending]:
        """Return the oldest pending entries; none where there is no such group."""
        return pending_of(await self._claims.pending(stream, group, "-", "+", count))

    async def read(
        self, stream: str, *, after: str = FIRST, count: int = 512, wait_s: float = 0.0
    ) -> list[Delivery]:
        """Return entries behind an id, for nobody in particular."""
        check_names(stream=stream)
        if after == NEWEST and wait_s <= 0:
            return []
        count = self._entries.at_once([stream], count)
        reply = await self._asker.read(
            ["XREAD", "COUNT", count], ["STREAMS", stream, after], wait_s
        )
        self._asker.raise_first([reply], "XREAD", stream)
        return self._entries.by_stream(reply)

    async def read_many(self, after: Mapping[str, str], *, count: int = 512) -> list[Delivery]:
        """Return what several streams hold behind an id each; it does not wait."""
        for stream in after:
            check_names(stream=stream)
        if not after:
            return []
        count = self._entries.at_once(list(after), count)
        command = pack("XREAD", "COUNT", count, "STREAMS", *after, *after.values())
        reply = await self._lines.ask(command, "XREAD")
        self._asker.raise_first([reply], "XREAD", *after)
        return self._entries.by_stream(reply)

    async def read_back(
        self, stream: str, *, before: str | None = None, count: int = 512
    ) -> list[Delivery]:
        """Return the last entries, in the order of their ids."""
        check_names(stream=stream)
        last = "+" if before is None else f"({before}"
        count = self._entries.at_once([stream], count)
        command = pack("XREVRANGE", stream, last, "-", "COUNT", count)
        reply = await self._lines.ask(command, "XREVRANGE")
        self._asker.raise_first([reply], "XREVRANGE", stream)
        found = self._entries.of(stream, reply) or self._entries.too_large(reply)
        return deliveries(stream, reversed(found))

    async def remove(self, stream: str, ids: Sequence[str]) -> int:
        """Take single entries away; returns how many there were."""
        if not ids:
            return 0
        command = pack("XDEL", stream, *ids)
        return int((await self._asker.call(command, name="XDEL", keys=[stream]))[0])

    async def trim(self, stream: str, *, before: str) -> int:
        """Take away all entries older than the id `before`; returns how many there were."""
        if before == NEWEST:
            before = (await self.info(stream)).last
        command = pack("XTRIM", stream, "MINID", before)
        return int((await self._asker.call(command, name="XTRIM", keys=[stream]))[0])

    async def info(self, stream: str) -> StreamInfo:
        """Return where a stream and its groups stand."""
        return await self._groups.info(stream)

    async def time(self) -> float:
        """Seconds since 1970 by the server's clock; where it may not be asked, by this machine's."""
        try:
            (found,) = await self._asker.call(pack("TIME"), name="TIME")
        except BusRefused:
            return time.time()
        return int(found[0]) + int(found[1]) / 1e6

    async def put_many(self, values: Mapping[str, bytes], *, expires_s: float) -> None:
        """Keep values beside the streams, by key, for a time."""
        check_payloads(list(values.values()))
        for key in values:
            check_names(key=key)
        until = max(1, round(expires_s * 1000))
        commands = [pack("SET", key, value, "PX", until) for key, value in values.items()]
        if commands:
            await self._asker.call(*commands, name="SET")

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return values by their keys; None for one that is not there, or not any more."""
        found: list[bytes | None] = []
        for start in range(0, len(keys), VALUES_AT_ONCE):
            some = keys[start : start + VALUES_AT_ONCE]
            try:
                found += (await self._asker.call(pack("MGET", *some), name="MGET"))[0]
            except AnswerTooLarge:  # values of somebody else
                found += [None] * len(some)
        return found

    async def drain(self) -> None:
        """Wait until everything that was handed over before has been answered."""
        await self._link.drain()

    async def close(self, *, within_s: float | None = None) -> None:
        """Drain for a bounded time, then let go of all connections; closing twice is fine."""
        if self._closed:
            return
        with suppress(TimeoutError):
            drain_s = self._limits.timeout_s if within_s is None else within_s
            await asyncio.wait_for(self._link.drain(), drain_s)
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
        await self._link.close()
        await self._lines.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _prepare(self, link: Link) -> None:
        """See whom the link has reached, before anything else is said."""
        if self._features is None or self._features.version == "":
            self._features = features(await link.talk(*probe_commands()), self.server)
        await self._watch.after_connecting(link)
        if self._watcher is None and self._watch_s > 0:
            self._watcher = asyncio.get_running_loop().create_task(self._keep_watch())

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_s)
            with suppress(BusError):
                await self._watch.look(self._link)
