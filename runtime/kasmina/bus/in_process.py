"""The bus of one process, and the default: the semantics of a server without a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from kasmina.bus.broker import Broker, cost_of
from kasmina.bus.client import (
    FIRST,
    NEWEST,
    Delivery,
    Loss,
    Pending,
    StreamInfo,
    check_names,
    check_payloads,
    position,
)
from kasmina.bus.errors import BusClosed
from kasmina.bus.losses import Ledger, no_such_group, vanished
from kasmina.bus.streams import NO_STREAM, Group, Stream, acknowledge, text

LIMIT_BYTES = 256 << 20


class InProcessBus:
    """A client of a bus that lives in this process, as `MessageBusClient` says.

    Safe for many threads, each with a loop of its own. `peer` gives further clients of the same
    bus. What it holds is lost with the process.

    Args:
        limit_bytes: payloads and what they cost besides; more raises `BusFull`.
        clock: seconds, never going back; ids, idle times and expiry go by it.
    """

    def __init__(
        self,
        *,
        limit_bytes: int = LIMIT_BYTES,
        clock: Callable[[], float] = time.time,
        broker: Broker | None = None,
    ) -> None:
        self.broker = broker or Broker(limit_bytes, clock)
        self._ledger = Ledger()
        self._groups: set[tuple[str, str]] = set()  # that this client has made
        self._closed = False

    def peer(self) -> InProcessBus:
        """Another client of the same bus."""
        return type(self)(broker=self.broker)

    @property
    def counters(self) -> Mapping[str, int]:
        """How often what has happened since the client was made, by name."""
        return self._ledger.counters

    def on_loss(self, callback: Callable[[Loss], None]) -> None:
        """Call back for every loss that this client finds."""
        self._ledger.on_loss(callback)

    async def publish(self, stream: str, payload: bytes, *, keep: int | None = None) -> str:
        """Append one entry and return its id."""
        return (await self.publish_many(stream, [payload], keep=keep))[0]

    async def publish_many(
        self, stream: str, payloads: Sequence[bytes], *, keep: int | None = None
    ) -> list[str]:
        """Append entries in their order and return their ids."""
        check_names(stream=stream)
        check_payloads(payloads)
        with self._open() as broker:
            broker.make_room(sum(map(cost_of, payloads)))
            found = self._stream(stream)
            now = int(broker.clock() * 1000)
            ids = [text(found.append(payload, now)) for payload in payloads]
            if keep is not None:
                found.drop(max(0, len(found) - keep))
            broker.wake()
            self._ledger.counters["published"] += len(ids)
        await asyncio.sleep(0)  # a caller in a loop lets others run, as it would over a socket
        return ids

    async def create_group(self, stream: str, group: str, *, start: str = FIRST) -> bool:
        """Make a group, and its stream, where they do not exist; say whether the group is new."""
        check_names(stream=stream, group=group)
        with self._open():
            self._groups.add((stream, group))
            return self._create_group(stream, group, start)

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

        def give() -> list[Delivery]:
            taken: list[Delivery] = []
            for name in streams:
                stream, found = self._group_or_again(name, group)
                taken += stream.give(found, consumer, count, self.broker.clock())
            self._ledger.counters["delivered"] += len(taken)
            return taken

        return await self._wait_for(give, wait_s)

    async def acknowledge(self, stream: str, group: str, ids: Sequence[str]) -> int:
        """Say that entries are done; returns how many of them were pending until now."""
        with self._open():
            found = self._find_group(stream, group)
            done = acknowledge(found, ids) if found else 0
            self._ledger.counters["acknowledged"] += done
            return done

    async def claim(
        self, stream: str, group: str, consumer: str, *, idle_s: float, count: int = 512
    ) -> list[Delivery]:
        """Take over the oldest entries that have been pending for at least `idle_s`."""
        check_names(consumer=consumer)
        with self._open() as broker:
            held, found = self._group_or_again(stream, group)
            taken, gone = held.take_over(found, consumer, idle_s, count, broker.clock())
            self._ledger.counters["claimed"] += len(taken)
        if gone:
            ids = ", ".join(map(text, gone[:5]))
            detail = f"entries were trimmed from {stream!r} while they were pending: {ids}"
            self._ledger.lost(Loss("trimmed", stream, group, len(gone), detail))
        await asyncio.sleep(0)
        return taken

    async def pending(self, stream: str, group: str, *, count: int = 512) -> list[Pending]:
        """Return the oldest pending entries; none where there is no such group."""
        with self._open() as broker:
            found = self._find_group(stream, group)
            return broker.streams[stream].pending(found, count, broker.clock()) if found else []

    async def read(
        self, stream: str, *, after: str = FIRST, count: int = 512, wait_s: float = 0.0
    ) -> list[Delivery]:
        """Return entries behind an id, for nobody in particular."""
        check_names(stream=stream)
        if after == NEWEST:
            after = (await self.info(stream)).last
        return await self._wait_for(lambda: self._behind(stream, after, count), wait_s)

    async def read_many(self, after: Mapping[str, str], *, count: int = 512) -> list[Delivery]:
        """Return what several streams hold behind an id each; it does not wait."""
        for stream in after:
            check_names(stream=stream)
        with self._open():
            found = [each for name, at in after.items() for each in self._behind(name, at, count)]
        await asyncio.sleep(0)
        return found

    async def read_back(
        self, stream: str, *, before: str | None = None, count: int = 512
    ) -> list[Delivery]:
        """Return the last entries, in the order of their ids."""
        check_names(stream=stream)
        with self._open() as broker:
            found = broker.streams.get(stream)
            end = None if before is None else position(before)
            entries = () if found is None else found.last_ones(end, count)
            return [Delivery(stream, text(at), payload) for at, payload in entries]

    async def remove(self, stream: str, ids: Sequence[str]) -> int:
        """Take single entries away; returns how many there were."""
        with self._open() as broker:
            found = broker.streams.get(stream)
            return 0 if found is None else found.remove(ids)

    async def trim(self, stream: str, *, before: str) -> int:
        """Take away all entries older than the id `before`; returns how many there were."""
        with self._open() as broker:
            found = broker.streams.get(stream)
            return 0 if found is None else found.drop(found.older(found.start(before)))

    async def info(self, stream: str) -> StreamInfo:
        """Return where a stream and its groups stand."""
        with self._open() as broker:
            found = broker.streams.get(stream)
            return NO_STREAM if found is None else found.info()

    async def time(self) -> float:
        """Seconds by the bus's clock."""
        with self._open() as broker:
            return broker.clock()

    async def put_many(self, values: Mapping[str, bytes], *, expires_s: float) -> None:
        """Keep values beside the streams, by key, for a time."""
        check_payloads(list(values.values()))
        for key in values:
            check_names(key=key)
        with self._open() as broker:
            broker.make_room(sum(map(cost_of, values.values())))
            for key, value in values.items():
                broker.put(key, value, broker.clock() + expires_s)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return values by their keys; None for one that is not there, or not any more."""
        with self._open() as broker:
            return [broker.get(key) for key in keys]

    async def wipe(self) -> None:
        """Lose everything, as a server does by FLUSHALL; for tests."""
        with self._open() as broker:
            broker.wipe()

    async def drain(self) -> None:
        """Return at once: every call has been answered when it returns."""

    async def close(self, *, within_s: float | None = None) -> None:
        """Let go of the bus; what waits raises `BusClosed`."""
        with self.broker.lock:
            self._closed = True
            self.broker.wake()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @contextmanager
    def _open(self) -> Iterator[Broker]:
        """Hold the lock of a bus that this client has not closed."""
        with self.broker.lock:
            if self._closed:
                raise BusClosed("this client of the in-process bus was closed; open another one")
            yield self.broker

    async def _wait_for(self, look: Callable[[], list[Delivery]], wait_s: float) -> list[Delivery]:
        """Look, and look again after every change, until there is something or time is out."""
        with self._open():
            found = look()
        if found or wait_s <= 0:
            await asyncio.sleep(0)
            return found
        with suppress(TimeoutError), self.broker.waiting() as changed:
            async with asyncio.timeout(wait_s):
                while True:
                    with self._open():
                        found = look()
                    if found:
                        return found
                    await changed.wait()
                    changed.clear()
        return found

    def _behind(self, stream: str, after: str, count: int) -> list[Delivery]:
        found = self.broker.streams.get(stream)
        entries = () if found is None else found.behind(found.start(after), count)
        return [Delivery(stream, text(at), payload) for at, payload in entries]

    def _stream(self, name: str) -> Stream:
        return self.broker.streams.setdefault(name, Stream(name))

    def _find_group(self, stream: str, group: str) -> Group | None:
        found = self.broker.streams.get(stream)
        return None if found is None else found.groups.get(group)

    def _create_group(self, stream: str, group: str, start: str) -> bool:
        found = self._stream(stream)
        new = group not in found.groups
        if new:
            found.groups[group] = Group(found.start(start))
        return new

    def _group_or_again(self, stream: str, group: str) -> tuple[Stream, Group]:
        """Return a group; one of ours that has vanished begins anew."""
        found = self._find_group(stream, group)
        if found is None:
            if (stream, group) not in self._groups:
                raise no_such_group(stream, group)
            wiped = stream not in self.broker.streams
            self._create_group(stream, group, FIRST)
            self._ledger.lost(vanished(stream, group, wiped=wiped))
            found = self.broker.streams[stream].groups[group]
        return self.broker.streams[stream], found
