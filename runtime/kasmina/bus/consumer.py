"""Reads streams as one consumer of a group: in order, each message once in effect, none lost.

    consume -> known already? -> order by key -> attempts -> remember -> acknowledge

A delivery is acknowledged after its handler has returned or it is among the dead letters, never
before. What a killed process had is taken over one entry at a time, so that an entry which kills
whoever touches it uses up its own attempts and nobody else's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import NamedTuple

from kasmina.bus.attempts import Attempts
from kasmina.bus.client import Delivery, MessageBusClient
from kasmina.bus.deduplication import MessageDeduplicator, MessageKey
from kasmina.bus.ordering import Order, OrderedMessageProcessor, SequenceGap
from kasmina.bus.outages import Outages
from kasmina.bus.retry import DEFAULT_BACKOFF, Backoff
from kasmina.bus.sequencing import Gap

Tag = tuple[str, str]  # a stream and an entry of it


class Label(NamedTuple):
    """What a consumer must know of a delivery to keep order and to know copies."""

    key: str  # deliveries of one key are handled in order, one at a time
    identity: MessageKey | None = None  # equal in two deliveries of one message; None: no copies
    sequence: int = 0  # within its key, for orders that go by numbers


Labelled = tuple[Delivery, Label]


@dataclass(frozen=True, slots=True)
class ConsumerConfig:
    """Settings of a consumer.

    Attributes:
        exclusive: no other consumer of the group lives, so what is pending is taken over at once
            and before anything new; otherwise only what was idle for `claim_idle_s`, and order
            holds for what one consumer gets.
        batch: entries that are asked for at a time.
        wait_s: how long an empty stream is waited for, seconds; `stop` takes as long at most.
        claim_idle_s: after which another consumer's entries are taken over, seconds. Longer than
            all attempts of one message take.
        claim_every_s: how often that is looked for, seconds.
        capacity: deliveries that are held at a time.
        concurrency: handlers that run at a time.
        window: deliveries of a key that may wait behind a gap.
        gap_s: how long a gap is waited for, seconds.
    """

    exclusive: bool = True
    batch: int = 256
    wait_s: float = 0.5
    claim_idle_s: float = 300.0
    claim_every_s: float = 15.0
    capacity: int = 1024
    concurrency: int = 64
    window: int = 64
    gap_s: float = 1.0


class Consumer:
    """Reads until it is stopped; for one event loop, and for one `run`.

    Args:
        client: the bus.
        streams: what is read.
        group: made, at the first entry, where it does not exist.
        name: of this consumer; no other process uses it at the same time.
        attempts: handles a delivery, or gives it up.
        label: reads what must be known of a delivery. Where it raises, the delivery goes to
            `attempts` at once and out of order, to end as a dead letter.
        done: what was handled; known messages are acknowledged and not handled again.
        order: what is promised.
        on_gap: hears of gaps.
        config: see `ConsumerConfig`.
        backoff: waits while the bus cannot be reached; its attempts count after `stop` only.
        rng: draws the waits.
    """

    def __init__(
        self,
        client: MessageBusClient,
        streams: Sequence[str],
        group: str,
        name: str,
        attempts: Attempts,
        *,
        label: Callable[[Delivery], Label],
        done: MessageDeduplicator[None] | None = None,
        order: Order = Order.PER_KEY,
        on_gap: Callable[[Gap], None] = lambda gap: None,
        config: ConsumerConfig | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        rng: Random | None = None,
    ) -> None:
        self.client, self.streams, self.group, self.name = client, list(streams), group, name
        self.handled = self.duplicates = self.refused = 0
        self.outages = Outages(backoff, rng)
        self.done = MessageDeduplicator[None]() if done is None else done
        self._config = config or ConsumerConfig()
        self._attempts, self._label = attempts, label
        self.processor: OrderedMessageProcessor[Labelled] = OrderedMessageProcessor(
            self._handle,
            key=lambda labelled: labelled[1].key,
            sequence=lambda labelled: labelled[1].sequence,
            order=order,
            on_gap=on_gap,
            capacity=self._config.capacity,
            concurrency=self._config.concurrency,
            window=self._config.window,
            gap_s=self._config.gap_s,
        )
        self._held: set[Tag] = set()  # taken and not acknowledged yet
        self._ready: dict[str, list[str]] = {}  # to be acknowledged, by stream
        self._wake, self._settled = asyncio.Event(), asyncio.Event()  # settled: all acknowledged
        self._settled.set()
        self._stopping = self._finished = False

    async def run(self) -> None:
        """Read until `stop`; then finish what is held and acknowledge it.

        Cancelled, it lets go at once: what is held stays pending, and is handled by the next run.

        Raises:
            BusError: the bus answered what no waiting mends, or is away and `stop` was called. What
                was not acknowledged stays pending.
        """
        acknowledging = asyncio.create_task(self._acknowledge_all())
        acknowledging.add_done_callback(self._acknowledged)
        try:
            await self.outages.through(self._begin)
            if self._config.exclusive:
                await self._take_over(0.0)
            await self._read()
            await self.processor.close()
            self._finished = True
            self._wake.set()
            await acknowledging
        finally:
            acknowledging.cancel()
            await self.processor.close(drain=False)
            await asyncio.gather(acknowledging, return_exceptions=True)

    def stop(self) -> None:
        """Take nothing more; `run` returns when what is held is handled and acknowledged."""
        self._stopping = self.outages.ending = True

    def _acknowledged(self, task: asyncio.Task[None]) -> None:
        """Nothing is acknowledged any more, so nothing more is taken."""
        self._stopping = self.outages.ending = True
        self._settled.set()

    async def _begin(self) -> None:
        for stream in self.streams:
            await self.client.create_group(stream, self.group)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        look_again = loop.time() + self._config.claim_every_s
        while not self._stopping:
            if loop.time() >= look_again:
                await self._take_over(self._config.claim_idle_s)
                look_again = loop.time() + self._config.claim_every_s
            outages = self.outages.count
            deliveries = await self.outages.through(self._next)
            if (
                outages < self.outages.count
                and self._config.exclusive
                and await self._missed(deliveries)
            ):
                await self._take_over(0.0)  # of an answer that got lost, and then these
                continue
            for delivery in deliveries:
                await self._submit(delivery)

    async def _next(self) -> list[Delivery]:
        return await self.client.consume(
            self.streams,
            self.group,
            self.name,
            count=self._config.batch,
            wait_s=self._config.wait_s,
        )

    async def _missed(self, deliveries: list[Delivery]) -> bool:
        """Whether the group has given this consumer what it never got."""
        had = self._held | {(each.stream, each.id) for each in deliveries}
        for stream in self.streams:
            ask = partial(self.client.pending, stream, self.group, count=len(had) + 1)
            pending = await self.outages.through(ask)
            if any((stream, each.id) not in had for each in pending):
                return True
        return False

    async def _take_over(self, idle_s: float) -> None:
        """Take over pending entries, each one after all before it are done."""
        await self.processor.drain()
        await self._settled.wait()
        for stream in self.streams:
            while not self._stopping:
                claim = partial(self._claim, stream, idle_s)
                taken = await self.outages.through(claim)
                fresh = [each for each in taken if (each.stream, each.id) not in self._held]
                if not fresh:
                    break
                await self._submit(fresh[0])
                await self.processor.drain()
                await self._settled.wait()

    async def _claim(self, stream: str, idle_s: float) -> list[Delivery]:
        count = len(self._held) + 1  # those behind a gap are pending too, and older
        return await self.client.claim(stream, self.group, self.name, idle_s=idle_s, count=count)

    async def _submit(self, delivery: Delivery) -> None:
        tag = (delivery.stream, delivery.id)
        if tag in self._held:
            return
        self._held.add(tag)
        try:
            label = self._label(delivery)
        except Exception:  # noqa: BLE001  the attempts tell of it
            await self._handle((delivery, Label("")))
            return
        try:
            if not await self.processor.submit((delivery, label)):
                self._finish(delivery)
        except SequenceGap:
            self.refused += 1  # stays pending, and is taken over when it was idle long enough
            self._held.discard(tag)

    async def _handle(self, labelled: Labelled) -> None:
        delivery, label = labelled
        if not self._is_done(label):
            handled = await self._attempts(delivery)
            self.handled += handled
            if handled and label.identity is not None:
                self.done.remember(label.identity, None)
        self._finish(delivery)

    def _is_done(self, label: Label) -> bool:
        known = label.identity is not None and label.identity in self.done
        self.duplicates += known
        return known

    def _finish(self, delivery: Delivery) -> None:
        self._ready.setdefault(delivery.stream, []).append(delivery.id)
        self._settled.clear()
        self._wake.set()

    async def _acknowledge_all(self) -> None:
        while not self._finished or self._ready:
            await self._wake.wait()
            self._wake.clear()
            while self._ready:
                stream = next(iter(self._ready))
                ids = self._ready.pop(stream)
                await self.outages.through(
                    partial(self.client.acknowledge, stream, self.group, ids)
                )
                self._held.difference_update((stream, each) for each in ids)
            self._settled.set()
