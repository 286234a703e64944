"""Sends again what nobody has said is done: after a loss at once, and otherwise from time to time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from kasmina.bus.client import Loss, MessageBusClient
from kasmina.bus.errors import BusError, BusFull


@dataclass(slots=True)
class _Sent:
    payload: bytes
    at: float  # when it was last published, by the loop's clock


class Outbox:
    """Keeps messages until they are done; for one event loop.

    A message may so be published many times; who receives it knows copies by the message's id.

    Args:
        client: the bus; each loss that it finds makes everything be sent again.
        stream: where messages go.
        resend_s: how long a message is waited for before it is sent again, seconds.
        capacity: messages that are kept at a time.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        *,
        resend_s: float = 30.0,
        capacity: int = 4096,
    ) -> None:
        self.resent = 0
        self._client, self._stream = client, stream
        self._resend_s, self._capacity = resend_s, capacity
        self._waiting: OrderedDict[str, _Sent] = OrderedDict()
        self._lost = asyncio.Event()
        client.on_loss(self._on_loss)

    def __len__(self) -> int:
        """Messages that are not done."""
        return len(self._waiting)

    async def send(self, message_id: str, payload: bytes) -> None:
        """Publish a message and keep it until `done`; one that the bus does not take now, too.

        Raises:
            BusFull: too many messages are not done.
            BusError: the bus will never take it; it is not kept.
        """
        if len(self._waiting) >= self._capacity and message_id not in self._waiting:
            raise BusFull(
                f"{len(self._waiting)} messages for {self._stream!r} are not done; wait for them"
            )
        now = asyncio.get_running_loop().time()
        self._waiting[message_id] = _Sent(payload, now)
        try:
            await self._client.publish(self._stream, payload)
        except BusError as error:
            if not error.transient:
                del self._waiting[message_id]
                raise
            self._lost.set()

    def done(self, message_id: str) -> bool:
        """Forget a message; returns whether it was kept."""
        return self._waiting.pop(message_id, None) is not None

    async def run(self) -> None:
        """Send again what is due, until cancelled."""
        while True:
            try:
                await asyncio.wait_for(self._lost.wait(), self._resend_s / 4)
                age = 0.0
            except TimeoutError:
                age = self._resend_s
            self._lost.clear()
            if not await self._resend(age):
                self._lost.set()  # the bus is away: all of it again
                await asyncio.sleep(min(0.1, self._resend_s))

    def _on_loss(self, loss: Loss) -> None:
        if loss.stream in (None, self._stream):
            self._lost.set()

    async def _resend(self, age: float) -> bool:
        """Publish what was last sent `age` ago or earlier; says whether the bus took it."""
        now = asyncio.get_running_loop().time()
        due = [sent for sent in self._waiting.values() if now - sent.at >= age]
        for start in range(0, len(due), 256):
            some = due[start : start + 256]
            try:
                await self._client.publish_many(self._stream, [sent.payload for sent in some])
            except BusError as error:
                if not error.transient:
                    raise
                return False
            for sent in some:
                sent.at = now
            self.resent += len(some)
        return True
