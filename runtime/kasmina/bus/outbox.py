"""Sends again what nobody has said is done: after a loss at once, and otherwise from time to time."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kasmina.bus.client import Loss, MessageBusClient, just_before
from kasmina.bus.errors import BusClosed, BusError, BusFull

logger = logging.getLogger(__name__)

_NEVER = float("-inf")


@dataclass(slots=True)
class _Sent:
    stream: str
    payload: bytes
    at: float  # when it was last published, by the loop's clock; `_NEVER`: it is due now
    entry: str | None = None  # as which the bus took it last


class Outbox:
    """Keeps messages until they are done; for one event loop.

    A message may so be published many times; who receives it knows copies by the message's id.

    Args:
        client: the bus; each loss that it finds makes everything be sent again.
        stream: where messages go, if `send` does not say.
        resend_s: how long a message is waited for before it is sent again, seconds; infinity sends
            again what was lost, and nothing else.
        capacity: messages that are kept at a time.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str = "",
        *,
        resend_s: float = 30.0,
        capacity: int = 4096,
    ) -> None:
        self.resent = 0
        self.trouble: BusError | None = None  # why the bus takes nothing now
        self._client, self._stream = client, stream
        self._resend_s, self._capacity = resend_s, capacity
        self._waiting: OrderedDict[str, _Sent] = OrderedDict()
        self._wake = asyncio.Event()
        client.on_loss(self._on_loss)

    def __len__(self) -> int:
        """Messages that are not done."""
        return len(self._waiting)

    async def send(self, message_id: str, payload: bytes) -> None:
        """Publish a message and keep it until `done`; see `send_many`."""
        await self.send_many({message_id: payload})

    async def send_many(self, messages: Mapping[str, bytes], *, stream: str | None = None) -> None:
        """Publish messages and keep them until `done`; those that the bus does not take now, too.

        Args:
            messages: by their ids, in their order.
            stream: where they go; the outbox's own if not given.

        Raises:
            BusFull: too many messages are not done.
            BusError: the bus will never take them; they are not kept.
        """
        stream = self._stream if stream is None else stream
        if len(self._waiting.keys() | messages.keys()) > self._capacity:
            raise BusFull(
                f"{len(self._waiting)} messages are not done and {len(messages)} for {stream!r} are "
                f"too many beside them; {self._capacity} are kept: wait for those before"
            )
        sent = {id: _Sent(stream, payload, _NEVER) for id, payload in messages.items()}
        self._waiting.update(sent)
        try:
            await self._publish(stream, list(sent.values()))
        except BusError as error:
            if not error.transient:
                for message_id in sent:
                    self._waiting.pop(message_id, None)
                raise
            self._wake.set()

    def done(self, message_id: str) -> bool:
        """Forget a message; returns whether it was kept."""
        return self._waiting.pop(message_id, None) is not None

    async def holds(self, message_id: str) -> bool:
        """Whether the bus still has the entry as which it took a message that is not done.

        Raises:
            BusError: the bus is away.
        """
        sent = self._waiting.get(message_id)
        if sent is None or sent.entry is None:
            return False
        found = await self._client.read(sent.stream, after=just_before(sent.entry), count=1)
        return [(each.id, each.payload) for each in found] == [(sent.entry, sent.payload)]

    async def run(self) -> None:
        """Send again what is due, until cancelled.

        Raises:
            BusClosed: the client was closed.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._resend_s / 4):  # `wait_for` may lose a cancel
                    await self._wake.wait()
            self._wake.clear()
            if not await self._resend():
                self._wake.set()  # the bus is away: all of it again
                await asyncio.sleep(min(0.1, self._resend_s))

    def _on_loss(self, loss: Loss) -> None:
        for sent in self._waiting.values():
            if loss.stream in (None, sent.stream):
                sent.at, sent.entry = _NEVER, None
        self._wake.set()

    async def _resend(self) -> bool:
        """Publish what is due; says whether the bus took it."""
        due_at = asyncio.get_running_loop().time() - self._resend_s
        due: dict[str, list[_Sent]] = {}
        for sent in self._waiting.values():
            if sent.at <= due_at:
                due.setdefault(sent.stream, []).append(sent)
        for stream, all_of_it in due.items():
            for start in range(0, len(all_of_it), 256):
                some = all_of_it[start : start + 256]
                try:
                    await self._publish(stream, some)
                except BusClosed:
                    raise
                except BusError as error:
                    if error.transient:
                        return False
                    logger.warning("what waits for %r cannot be sent again: %s", stream, error)
                    break
                self.resent += len(some)
        return True

    async def _publish(self, stream: str, some: Sequence[_Sent]) -> None:
        """Publish; a loss that is found meanwhile makes it due again."""
        now = asyncio.get_running_loop().time()
        for sent in some:
            sent.at = now
        try:
            entries = await self._client.publish_many(stream, [sent.payload for sent in some])
        except BusError as error:
            if error.transient:
                self.trouble = error
                for sent in some:
                    sent.at = _NEVER
            raise
        self.trouble = None
        for sent, entry in zip(some, entries, strict=True):
            if sent.at == now:
                sent.entry = entry
