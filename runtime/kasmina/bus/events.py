"""Publishes a run's event log: a cursor over the file, so that nothing is lost while the bus is away.

The log on disk is the buffer. A line is published before the cursor moves past it, so a process that
dies in between publishes it twice, with the same producer and id, and never skips it.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec
from msgspec import structs

from kasmina.bus.claims import ClaimStore
from kasmina.bus.client import FIRST, Loss, MessageBusClient, just_before
from kasmina.bus.log_lines import BadEventLog, digest_of, last_lines, lines, payload_of
from kasmina.bus.outages import Outages
from kasmina.bus.retry import DEFAULT_BACKOFF, Backoff
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire

__all__ = ["BadEventLog", "Cursor", "EventPublisher"]

_SMALL = 1 << 19  # bytes of a message that surely fits into an entry


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a log was published: the last line's place, and what it is known by again."""

    start: int = 0  # bytes before the last line
    end: int = 0  # and before the next one
    digest: str = ""
    entry: str = ""  # its id on the bus


class _Batch(NamedTuple):
    payloads: list[bytes]
    cursor: Cursor


class EventPublisher:
    """Sends the events of one log, each at least once and in order.

    A log that was cut back, by a run that resumed from a checkpoint, is sent again from its
    beginning: lines that are the same have the same id, and receivers know them. So is one whose
    entries the server has lost, or that goes to another bus than before. Of a long log those lines
    are sent that the stream keeps.

    Args:
        client: the bus.
        stream: where events go.
        log: the event log; it need not exist yet.
        cursor: file that the cursor is kept in; its folder exists. None begins anew each time.
        stamp: of this process, for claim-checks.
        batch: events in one call of the client.
        poll_s: how often the log is looked at where nobody calls `notify`, seconds.
        gather_s: how long a new event waits for others, seconds.
        keep: entries that the stream keeps; None keeps all.
        backoff: waits while the bus is away.
        rng: draws them.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        log: Path,
        cursor: Path | None,
        stamp: Stamp,
        *,
        batch: int = 512,
        poll_s: float = 0.5,
        gather_s: float = 0.02,
        keep: int | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        rng: Random | None = None,
    ) -> None:
        self.sent = self.restarts = 0
        self.outages = Outages(backoff, rng)
        self._client, self._stream, self._stamp = client, stream, stamp
        self._log, self._path, self._claims = log, cursor, ClaimStore(client)
        self._batch, self._keep = batch, keep
        self._poll_s, self._gather_s = poll_s, gather_s
        self._cursor = _load(cursor)
        self._is_known = False  # whether the bus holds what the cursor says
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = self._lost = False
        client.on_loss(self._look_at)

    @property
    def lag_bytes(self) -> int:
        """Bytes of the log that were not published yet."""
        try:
            return max(0, self._log.stat().st_size - self._cursor.end)
        except FileNotFoundError:
            return 0

    async def pump(self) -> int:
        """Publish the next events, if there are any; returns how many.

        Raises:
            BusError: the bus did not take them; the cursor stays.
            BadEventLog: the log holds what is no event.
        """
        if not self._is_known:
            self._lost |= not await self._is_on_the_bus()
            self._is_known = True
        if self._lost:
            self._lost, self._cursor = False, Cursor()
            self.restarts += 1
        batch = await asyncio.to_thread(self._next)
        payloads = [await self._fit(payload) for payload in batch.payloads]
        if payloads:
            ids = await self._client.publish_many(self._stream, payloads, keep=self._keep)
            self._cursor = structs.replace(batch.cursor, entry=ids[-1])
            if self._path is not None:
                await asyncio.to_thread(_save, self._path, self._cursor)
            self.sent += len(payloads)
        return len(payloads)

    async def _is_on_the_bus(self) -> bool:
        """Whether the bus holds the entry that was published last."""
        entry = self._cursor.entry
        if self._cursor == Cursor():
            return True
        after = just_before(entry) if entry else FIRST
        found = await self._client.read(self._stream, after=after, count=1)
        return [each.id for each in found] == [entry]

    async def run(self) -> None:
        """Publish until `stop`; then what the log still holds, if the bus takes it within `backoff`."""
        self._loop = asyncio.get_running_loop()
        while True:
            stopping = self._stopping  # before the last look at the log
            while await self.outages.through(self.pump):
                pass
            if stopping:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()
                    if not self._stopping:
                        await asyncio.sleep(self._gather_s)
            self._wake.clear()

    def _look_at(self, loss: Loss) -> None:
        """Entries that the server has lost are sent again, with the ids that they had."""
        if loss.kind in ("wiped", "rolled back") and loss.stream in (None, self._stream):
            self._lost = True
            self.notify()

    def notify(self, *_: object) -> None:
        """Say that there is something new; from any thread. `EventLog.subscribe` takes it."""
        if self._loop is not None and not self._wake.is_set():
            with suppress(RuntimeError):  # the loop has ended; the cursor knows where to go on
                self._loop.call_soon_threadsafe(self._wake.set)

    def stop(self) -> None:
        """Let `run` publish what there is and return; from any thread."""
        self._stopping = self.outages.ending = True
        self.notify()

    async def _fit(self, payload: bytes) -> bytes:
        if len(payload) <= _SMALL:
            return payload
        return await self._claims.fit(wire.decode(payload), self._stamp)

    def _next(self) -> _Batch:
        """Read whole lines behind the cursor."""
        try:
            file = self._log.open("rb")
        except FileNotFoundError:
            return _Batch([], self._cursor)
        with file:
            number = file.fileno()
            cursor = self._cursor if _is_there(number, self._cursor) else Cursor()
            if cursor != self._cursor:
                self.restarts += 1
            if cursor == Cursor() and self._keep is not None:
                at = last_lines(number, self._keep)
                cursor = Cursor(at, at, digest_of(b"")) if at else cursor
            self._cursor = cursor
            payloads = list[bytes]()
            for line in lines(number, cursor.end, self._batch):
                end = cursor.end + len(line)
                payloads.append(payload_of(line, f"{self._log}, byte {cursor.end}"))
                cursor = Cursor(cursor.end, end, digest_of(line))
            return _Batch(payloads, cursor)


def _is_there(number: int, cursor: Cursor) -> bool:
    """Whether the log still holds the line that was published last, at its place."""
    return digest_of(
        os.pread(number, cursor.end - cursor.start, cursor.start)
    ) == cursor.digest or (cursor == Cursor())


def _load(path: Path | None) -> Cursor:
    """A cursor that cannot be read begins anew: what it knew is published twice."""
    if path is None:
        return Cursor()
    try:
        cursor = msgspec.json.decode(path.read_bytes(), type=Cursor)
    except (OSError, ValueError):
        return Cursor()
    return cursor if 0 <= cursor.start <= cursor.end else Cursor()


def _save(path: Path, cursor: Cursor) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(msgspec.json.encode(cursor))
    temporary.replace(path)
