"""Consumers of a bus against a model, on virtual time, with faults drawn by a seed.

Two producers send numbered messages of four keys and send again where an answer got lost. Consumers
handle them and are killed at any moment; calls fail before or after they were applied, and stall;
some messages are poison. Whatever the seed: nothing that was acknowledged to a producer is lost,
every message has its effect once, in order by key, or is a dead letter after its attempts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from kasmina.bus.attempts import Attempts
from kasmina.bus.client import Delivery, Loss
from kasmina.bus.consumer import Consumer, ConsumerConfig, Label
from kasmina.bus.dead_letters import DeadLetterQueue
from kasmina.bus.deduplication import MessageDeduplicator, MessageKey
from kasmina.bus.errors import BusUnavailable
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.ordering import Order
from kasmina.bus.retry import Backoff, retry
from tests.faults.simulating import Unreliable, check_fired, finds, simulate
from tests.runtime.bus.virtual import now

ATTEMPTS = 12  # more than an innocent message loses to the kills of one simulation
MESSAGES = 8  # of a producer
KILLS = 3
FAILING = ("publish_many", "consume", "acknowledge", "claim", "create_group")


class World:
    """One simulation; everything in it follows from the seed."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.fired: Counter[str] = Counter()
        self.bus = InProcessBus(clock=lambda: 1e9 + now())
        self.losses: list[Loss] = []
        self.bus.on_loss(self.losses.append)
        self.acknowledged: list[bytes] = []  # that a producer was told are stored
        self.effects: list[bytes] = []
        self.tries: Counter[bytes] = Counter()
        self.done = MessageDeduplicator[None]()  # saved with the effects, so it survives a kill
        self.numbers: dict[str, int] = {}  # saved like these, for strict order
        self.poison = {
            b"%d %d" % (producer, number)
            for producer in range(2)
            for number in range(MESSAGES)
            if self.rng.random() < 0.06
        }
        self.order = self.rng.choice((Order.PER_KEY, Order.BEST_EFFORT, Order.STRICT))

    def client(self) -> Any:
        """A client of its own faults."""
        return Unreliable(self.bus.peer(), self.rng, FAILING, self.fired)

    def label(self, delivery: Delivery) -> Label:
        """Strict and best effort: by producer, whose numbers have no gaps. Else by four keys."""
        producer, number = delivery.payload.split()
        key = producer if self.order is not Order.PER_KEY else b"%d" % (int(number) % 4)
        return Label(key.decode(), MessageKey(producer.decode(), number.decode()), int(number))

    async def produce(self, producer: int) -> None:
        """Send each message until it is acknowledged, then the next one."""
        client, backoff = self.client(), Backoff(attempts=1000, base_s=0.05, ceiling_s=0.5)
        for number in range(MESSAGES):
            payload = b"%d %d" % (producer, number)
            await retry(
                lambda payload=payload: client.publish("work", payload),  # type: ignore[misc]
                on=(BusUnavailable,),
                backoff=backoff,
                clock=now,
                rng=self.rng,
            )
            self.acknowledged.append(payload)
            await asyncio.sleep(self.rng.choice((0, 0, 0.1)))

    async def handle(self, delivery: Delivery) -> None:
        """Take a while, and have the effect at once with what is remembered of it."""
        self.tries[delivery.payload] += 1
        if delivery.payload in self.poison:
            self.fired["poison"] += 1
            raise ValueError("poison")
        await asyncio.sleep(self.rng.choice((0, 0.01, 0.1)))
        label = self.label(delivery)
        assert label.identity is not None
        if label.identity not in self.done:
            self.effects.append(delivery.payload)
            self.done.remember(label.identity, None)

    def consumer(self) -> Consumer:
        """A new life of the consumer."""
        client, backoff = self.client(), Backoff(attempts=ATTEMPTS, base_s=0.01, ceiling_s=0.1)
        dead = DeadLetterQueue(self.bus, "dead", clock=lambda: 1e9 + now())
        attempts = Attempts(
            self.handle, dead, backoff=backoff, clock=lambda: 1e9 + now(), rng=self.rng
        )
        each = Consumer(
            client,
            ["work"],
            "group",
            "me",
            attempts,
            label=self.label,
            done=self.done,
            order=self.order,
            config=ConsumerConfig(batch=self.rng.choice((1, 4, 64)), gap_s=0.5),
            backoff=backoff,
            rng=self.rng,
        )
        each.processor.load_state_dict(self.numbers)
        return each

    async def consume(self) -> None:
        """Live, be killed, live again; the last life stops when all came to rest."""
        for _ in range(self.rng.randrange(KILLS + 1)):
            each = self.consumer()
            task = asyncio.create_task(each.run())
            await asyncio.sleep(self.rng.random())
            self.fired["killed"] += not task.done()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.numbers = each.processor.state_dict()
        last = self.consumer()
        task = asyncio.create_task(last.run())
        while not await self._rests():
            await asyncio.sleep(0.2)
            assert now() < 600, "it never came to rest"
        last.stop()
        await asyncio.gather(task, return_exceptions=True)

    async def _rests(self) -> bool:
        group = (await self.bus.info("work")).groups.get("group")
        sent = len(self.acknowledged) == 2 * MESSAGES
        return sent and group is not None and not group.pending and not group.lag

    async def live(self) -> None:
        """Run it all, and hold it against the model."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.produce(0))
            tasks.create_task(self.produce(1))
            tasks.create_task(self.consume())
        sent = {b"%d %d" % (p, n) for p in range(2) for n in range(MESSAGES)}
        assert set(self.acknowledged) == sent
        assert Counter(self.effects) == Counter(sent - self.poison), "lost, or done twice"
        await self._check_order()
        await self._check_letters()
        assert not self.losses

    async def _check_order(self) -> None:
        keys: dict[str, list[tuple[bytes, int]]] = {}
        for payload in self.effects:
            producer, number = payload.split()
            label = self.label(Delivery("work", "0-1", payload))
            keys.setdefault(f"{label.key} of {producer!r}", []).append((producer, int(number)))
        for handled in keys.values():
            assert handled == sorted(handled)

    async def _check_letters(self) -> None:
        entries = await DeadLetterQueue(self.bus, "dead").list(count=1000)
        letters: dict[bytes, list[int]] = {}
        for entry in entries:
            assert entry.letter is not None
            letters.setdefault(entry.letter.payload, []).append(entry.letter.attempts)
        assert set(letters) == self.poison
        for payload, attempts in letters.items():
            assert min(attempts) >= ATTEMPTS
            copies = len(attempts)
            # a life that was killed had tries that nobody counts, and an answer that got lost
            # counts as a try that was none; without either they are exact
            killed = self.fired["killed"]
            lost = self.fired["consume after"] + self.fired["claim after"]
            assert copies * (ATTEMPTS - killed - lost) <= self.tries[payload]
            assert self.tries[payload] <= (copies + killed) * ATTEMPTS
            if not killed and not lost:
                assert self.tries[payload] == copies * ATTEMPTS == sum(attempts)


def test_no_seed_loses_or_doubles_anything(record_property: Callable[[str, object], None]) -> None:
    """1,000 simulations."""
    fired = simulate(World, range(1000))
    check_fired(fired, FAILING, "poison", "killed")
    record_property("counted", f"1,000 simulations, {fired.total():,} faults")


@pytest.mark.long
def test_no_seed_of_many_loses_or_doubles_anything() -> None:
    """10,000 simulations more."""
    check_fired(simulate(World, range(1000, 11_000)), FAILING, "poison", "killed")


def test_the_simulation_finds_a_planted_fault() -> None:
    """A consumer that acknowledges before it handles loses messages, and the model says so."""

    class Hasty(World):
        def consumer(self) -> Consumer:
            each = super().consumer()
            submit = each._submit

            async def hasty(delivery: Delivery) -> None:
                each._finish(delivery)
                await asyncio.sleep(0.05)
                await submit(delivery)

            each._submit = hasty  # type: ignore[method-assign]
            return each

    assert finds(Hasty, range(60))
