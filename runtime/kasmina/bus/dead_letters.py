"""Messages that could not be handled, kept with the reasons until somebody decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kasmina.bus.claims import ClaimStore
from kasmina.bus.client import FIRST, Delivery, MessageBusClient, position
from kasmina.bus.errors import BusError
from kasmina.bus.names import DEAD_LETTERS
from kasmina.bus.retry import BadSetting
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages.types import Body, DeadLetter
from kasmina_generated.messages.wire import MessageRefused

_LONGEST_CAUSE, _LONGEST_TRACEBACK = 1024, 65_536  # characters, as the message has room for
_PAGE = 256
_KEPT_S = 30 * 86_400.0  # a letter that is too large for one entry


class Failure(NamedTuple):
    """One attempt that failed: when (seconds since 1970), why, and where in the code."""

    time: float
    cause: str
    traceback: str


class Entry(NamedTuple):
    """A dead letter and its id in the queue; no letter where the entry cannot be read as one.

    `size` is that of what stands in the queue, bytes; 0 for an entry that is larger than any may be.
    """

    id: str
    letter: DeadLetter | None
    size: int


class BadDeadLetter(BusError, LookupError):
    """An id that the queue does not have, or whose entry is no dead letter."""


class NotDeadLetters(BusError, ValueError):
    """A stream that holds other messages than dead letters."""


class DeadLetterQueue:
    """Dead letters in a stream of their own, so that every process sees them.

    Args:
        client: where they are kept.
        stream: the name of the queue.
        reader: the group whose handler gives messages up.
        capacity: letters; of more the oldest go, and `dropped` counts them.
        clock: seconds since 1970.

    Raises:
        BadSetting: the capacity is less than 1.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        *,
        reader: str = "operator",
        capacity: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if capacity < 1:
            raise BadSetting("DeadLetterQueue", "capacity", capacity, "1 letter or more")
        self.stream, self.reader, self.capacity, self.dropped = stream, reader, capacity, 0
        self._client, self._clock = client, clock
        self._claims = ClaimStore(client, expires_s=_KEPT_S, clock=clock)
        self._stamp = Stamp(reader, clock=clock)

    async def put(self, delivery: Delivery, attempts: int, failures: Sequence[Failure]) -> str:
        """Keep a message that was given up after so many attempts; returns its id in the queue.

        `failures` are those that this process has seen, one or more; the letter tells the last.
        """
        last = failures[-1]
        letter = DeadLetter(
            stream=delivery.stream,
            reader=self.reader,
            entry=delivery.id,
            attempts=max(1, attempts),
            first=failures[0].time,
            last=last.time,
            cause=last.cause[:_LONGEST_CAUSE] or "unknown",
            traceback=last.traceback[-_LONGEST_TRACEBACK:],
            payload=delivery.payload,
        )
        payload = await self._claims.fit(self._stamp(letter), self._stamp)
        entry = await self._client.publish(self.stream, payload)
        await self._keep_to_capacity()
        return entry

    async def list(self, *, after: str = FIRST, count: int = 100) -> list[Entry]:
        """Return letters behind an id, the oldest first."""
        found = await self._client.read(self.stream, after=after, count=count)
        return [
            Entry(each.id, await self._letter(each.payload), len(each.payload)) for each in found
        ]

    async def replay(self, entry_id: str) -> str:
        """Send a message again, to the stream it came from, and take its letter away.

        A process that dies in between leaves the letter, so that the message may come twice and is
        never lost. Returns the id of the new entry.

        Raises:
            BadDeadLetter: the queue has no such letter.
        """
        return await self._send_again(await self._find(entry_id))

    async def replay_all(self) -> int:
        """Replay what is in the queue now and can be read; returns how many letters that were."""
        last, after, replayed = (await self._client.info(self.stream)).last, FIRST, 0
        while page := await self.list(after=after, count=_PAGE):
            for entry in page:
                if position(entry.id) > position(last):
                    return replayed
                if entry.letter is not None:
                    await self._send_again(entry)
                    replayed += 1
            after = page[-1].id
        return replayed

    async def purge(self, ids: Sequence[str] | None = None) -> int:
        """Throw letters away, all of them or those named; returns how many.

        What cannot be read goes as well, all of it only from a stream that holds letters.

        Raises:
            NotDeadLetters: the stream holds other messages; nothing was thrown away.
        """
        there, letters = await self._entries()
        if ids is None and there and not letters and self.stream != DEAD_LETTERS:
            raise NotDeadLetters(self._other("what is no message at all"))
        chosen = there if ids is None else list(ids)
        purged = 0
        for start in range(0, len(chosen), _PAGE):
            purged += await self._client.remove(self.stream, chosen[start : start + _PAGE])
        return purged

    async def _entries(self) -> tuple[Sequence[str], int]:
        """The ids of all entries, and how many are letters; raises where one is another message."""
        ids: list[str] = []
        letters = 0
        while page := await self._client.read(
            self.stream, after=ids[-1] if ids else FIRST, count=_PAGE
        ):
            for each in page:
                ids.append(each.id)
                found = await self._body(each.payload)
                letters += isinstance(found, DeadLetter)
                if found is not None and not isinstance(found, DeadLetter):
                    raise NotDeadLetters(self._other(f"{type(found).__name__} messages"))
        return ids, letters

    def _other(self, what: str) -> str:
        return f"{self.stream!r} holds {what} and not dead letters; nothing was thrown away"

    async def _letter(self, payload: bytes) -> DeadLetter | None:
        body = await self._body(payload)
        return body if isinstance(body, DeadLetter) else None

    async def _body(self, payload: bytes) -> Body | None:
        try:
            return (await self._claims.read(payload)).body
        except (MessageRefused, ValueError):
            return None

    async def _send_again(self, entry: Entry) -> str:
        if entry.letter is None:
            raise BadDeadLetter(
                f"entry {entry.id} of {self.stream!r} cannot be read as a dead letter; purge it"
            )
        sent = await self._client.publish(entry.letter.stream, entry.letter.payload)
        await self._client.remove(self.stream, [entry.id])
        return sent

    async def _find(self, entry_id: str) -> Entry:
        after = FIRST
        while page := await self.list(after=after, count=_PAGE):
            for entry in page:
                if entry.id == entry_id:
                    return entry
            after = page[-1].id
        raise BadDeadLetter(f"{self.stream!r} has no letter {entry_id!r}; list them first")

    async def _keep_to_capacity(self) -> None:
        surplus = (await self._client.info(self.stream)).length - self.capacity
        if surplus > 0:
            oldest = await self._client.read(self.stream, count=surplus)
            self.dropped += await self._client.remove(self.stream, [each.id for each in oldest])
