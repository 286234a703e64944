"""Consumers on virtual time: what happens to a delivery, and to what a killed process had."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from kasmina.bus.attempts import Attempts, Rejected
from kasmina.bus.client import Delivery
from kasmina.bus.consumer import Consumer, ConsumerConfig, Label
from kasmina.bus.dead_letters import DeadLetterQueue
from kasmina.bus.deduplication import MessageDeduplicator, MessageKey
from kasmina.bus.errors import BusUnavailable, NoSuchGroup
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.ordering import Order
from kasmina.bus.retry import Backoff
from kasmina.bus.sequencing import Gap
from tests.runtime.bus.virtual import now, run

Handler = Callable[[Delivery], Awaitable[None]]
BACKOFF = Backoff(attempts=3, base_s=0.1, jitter=0.0)


def clock() -> float:
    """Virtual seconds since 1970."""
    return 1e9 + now()


def label(delivery: Delivery) -> Label:
    """Payloads read `key number`."""
    key, number = delivery.payload.decode().split()
    return Label(key, MessageKey(key, number), int(number))


def consumer(bus: InProcessBus, handler: Handler, **settings: Any) -> Consumer:
    """A consumer of the stream "work"; three attempts."""
    dead = DeadLetterQueue(bus, "dead", clock=clock)
    attempts = Attempts(handler, dead, backoff=BACKOFF, clock=clock, rng=Random(0), timeout_s=5.0)
    settings = {"label": label, "backoff": BACKOFF, "rng": Random(0), **settings}
    return Consumer(bus, ["work"], "group", "me", attempts, **settings)


async def settle(bus: InProcessBus) -> None:
    """Wait until nothing lags or is pending."""
    for _ in range(10_000):
        group = (await bus.info("work")).groups["group"]
        if not group.lag and not group.pending:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the group never came to rest")


def payloads(*texts: str) -> list[bytes]:
    """Payloads of a stream."""
    return [text.encode() for text in texts]


def test_poison_does_not_block_its_key() -> None:
    """After exactly three attempts the next message of the key is handled."""

    async def main() -> None:
        bus, seen = InProcessBus(clock=clock), list[str]()

        async def handler(delivery: Delivery) -> None:
            seen.append(delivery.payload.decode())
            if delivery.payload == b"a 1":
                raise ValueError("poison")

        await bus.publish_many("work", payloads("a 0", "a 1", "a 2", "b 0"))
        each = consumer(bus, handler)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(0.01)
        await settle(bus)
        each.stop()
        await task
        assert [text for text in seen if text[0] == "a"] == ["a 0", "a 1", "a 1", "a 1", "a 2"]
        assert "b 0" in seen
        (letter,) = await DeadLetterQueue(bus, "dead").list()
        assert letter.letter is not None
        assert (letter.letter.payload, letter.letter.attempts) == (b"a 1", 3)
        assert (each.handled, each.duplicates) == (3, 0)

    run(main())


def test_a_message_that_kills_whoever_has_it_uses_up_its_own_attempts_only() -> None:
    """Four processes: three die of it, the fourth gives it up untouched; all others are handled."""

    async def main() -> None:
        bus, tries, handled = InProcessBus(clock=clock), Counter[bytes](), list[bytes]()
        done = MessageDeduplicator[None]()
        lives, killed = 0, asyncio.Event()

        async def handler(delivery: Delivery) -> None:
            tries[delivery.payload] += 1
            if delivery.payload == b"c 0":
                killed.set()
                await asyncio.sleep(1e9)  # the process is gone
            await asyncio.sleep(0.001)
            handled.append(delivery.payload)

        sent = payloads(*(f"{key} {n}" for n in range(5) for key in "abcdef"))
        await bus.publish_many("work", sent)
        while lives < 10:
            lives += 1
            killed.clear()
            each = consumer(bus, handler, done=done)
            task = asyncio.create_task(each.run())
            resting = asyncio.create_task(_rest(bus))
            dying = asyncio.create_task(killed.wait())
            await asyncio.wait({resting, dying}, return_when=asyncio.FIRST_COMPLETED)
            resting.cancel()
            dying.cancel()
            if not killed.is_set():
                each.stop()
                await task
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert lives == 4
        assert tries[b"c 0"] == 3
        assert sorted(handled) == sorted(set(sent) - {b"c 0"})
        for key in b"abcdef":
            mine = [payload for payload in handled if payload[0] == key]
            assert mine == sorted(mine)
        (entry,) = await DeadLetterQueue(bus, "dead").list()
        assert entry.letter is not None
        assert entry.letter.payload == b"c 0"
        assert entry.letter.attempts == 3
        assert entry.letter.cause == "given out 3 times, and whoever had it never came back"

    async def _rest(bus: InProcessBus) -> None:
        await asyncio.sleep(0.05)
        await settle(bus)

    run(main())


def test_copies_of_a_message_are_acknowledged_and_not_handled() -> None:
    """Also where both wait at the same time."""

    async def main() -> None:
        bus, seen = InProcessBus(clock=clock), list[bytes]()

        async def handler(delivery: Delivery) -> None:
            await asyncio.sleep(0.01)
            seen.append(delivery.payload)

        await bus.publish_many("work", payloads("a 0", "a 0", "b 0", "a 0"))
        each = consumer(bus, handler)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(1)
        await bus.publish_many("work", payloads("a 0"))
        await settle(bus)
        each.stop()
        await task
        assert sorted(seen) == [b"a 0", b"b 0"]
        assert each.duplicates == 3

    run(main())


def test_what_cannot_be_read_is_a_dead_letter() -> None:
    """It goes around the order, to its own end."""

    async def main() -> None:
        bus, seen = InProcessBus(clock=clock), list[bytes]()

        async def handler(delivery: Delivery) -> None:
            try:
                label(delivery)
            except ValueError as error:
                raise Rejected(str(error)) from error
            seen.append(delivery.payload)

        await bus.publish_many("work", [b"\xff\xfe", b"a 0", b"only", b"a 1"])
        each = consumer(bus, handler)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(0.5)
        await settle(bus)
        each.stop()
        await task
        assert seen == [b"a 0", b"a 1"]
        letters = await DeadLetterQueue(bus, "dead").list()
        assert [e.letter.payload for e in letters if e.letter] == [b"\xff\xfe", b"only"]
        assert [e.letter.attempts for e in letters if e.letter] == [1, 1]

    run(main())


def test_stopping_finishes_and_acknowledges_what_is_held() -> None:
    """And takes nothing more."""

    async def main() -> None:
        bus, seen = InProcessBus(clock=clock), list[bytes]()

        async def handler(delivery: Delivery) -> None:
            await asyncio.sleep(1)
            seen.append(delivery.payload)

        await bus.publish_many("work", payloads(*(f"a {n}" for n in range(5))))
        each = consumer(bus, handler)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(0.5)
        each.stop()
        await asyncio.sleep(0.6)
        await bus.publish("work", b"a 5")
        await task
        assert len(seen) == 5
        group = (await bus.info("work")).groups["group"]
        assert (group.pending, group.lag) == (0, 1)

    run(main())


def test_cancelling_lets_go_at_once_and_loses_nothing() -> None:
    """What was held is pending, and the next consumer has it before anything new."""

    async def main() -> None:
        bus, seen = InProcessBus(clock=clock), list[bytes]()

        async def hang(delivery: Delivery) -> None:
            await asyncio.sleep(1e9)

        async def handler(delivery: Delivery) -> None:
            seen.append(delivery.payload)

        await bus.publish_many("work", payloads("a 0", "a 1", "b 0"))
        task = asyncio.create_task(consumer(bus, hang).run())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert now() < 2
        assert (await bus.info("work")).groups["group"].pending == 3
        await bus.publish("work", b"a 2")
        each = consumer(bus, handler)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(1)
        await settle(bus)
        each.stop()
        await task
        assert seen == [b"a 0", b"a 1", b"b 0", b"a 2"]

    run(main())


def test_memory_is_bounded_where_handlers_are_slow() -> None:
    """A flood of 5,000 entries: the consumer holds its capacity and a batch at most."""

    async def main() -> None:
        bus, most = InProcessBus(clock=clock), 0

        async def slow(delivery: Delivery) -> None:
            await asyncio.sleep(0.5)

        await bus.publish_many("work", payloads(*(f"{n % 50} {n}" for n in range(5000))))
        config = ConsumerConfig(batch=64, capacity=100, concurrency=20)
        each = consumer(bus, slow, config=config)
        task = asyncio.create_task(each.run())
        while each.handled < 2000:
            most = max(most, len(each._held), each.processor.pending)
            await asyncio.sleep(0.1)
        each.stop()
        await task
        assert 100 <= most <= 100 + 64

    run(main())


def test_an_outage_of_the_bus_ends_nothing() -> None:
    """The consumer goes on where it was; after `stop` it gives up after so many tries."""

    async def main() -> None:
        bus, seen = InProcessBus(clock=clock), list[bytes]()
        consume, away = bus.consume, False

        async def unreliable(*arguments: Any, **settings: Any) -> list[Delivery]:
            if away:
                raise BusUnavailable("away")
            return await consume(*arguments, **settings)

        async def handler(delivery: Delivery) -> None:
            seen.append(delivery.payload)

        bus.consume = unreliable  # type: ignore[method-assign]
        await bus.publish("work", b"a 0")
        each = consumer(bus, handler)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(1)
        away = True
        await bus.publish("work", b"a 1")
        await asyncio.sleep(60)
        assert each.outages.count > 10
        away = False
        await asyncio.sleep(10)
        assert seen == [b"a 0", b"a 1"]
        away = True
        await asyncio.sleep(1)
        each.stop()
        with pytest.raises(BusUnavailable):
            await task

    run(main())


def test_an_error_that_no_waiting_mends_ends_the_run() -> None:
    """A group that somebody destroyed, on a bus whose client did not make it."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)

        async def handler(delivery: Delivery) -> None:
            raise NoSuchGroup("gone")

        async def broken(*arguments: Any, **settings: Any) -> int:
            raise NoSuchGroup("gone")

        each = consumer(bus, handler)
        bus.acknowledge = broken  # type: ignore[method-assign]
        await bus.publish("work", b"a 0")
        with pytest.raises(NoSuchGroup):
            await asyncio.wait_for(each.run(), 60)

    run(main())


def test_strict_order_takes_over_behind_a_gap() -> None:
    """Pending entries that came out of order are put into order by the next process."""

    async def main() -> None:
        bus, seen, gaps = InProcessBus(clock=clock), list[bytes](), list[Gap]()

        async def handler(delivery: Delivery) -> None:
            seen.append(delivery.payload)

        await bus.create_group("work", "group")
        await bus.publish_many("work", payloads("a 2", "a 1", "a 0", "a 4"))
        await bus.consume(["work"], "group", "me")  # by a process that died
        each = consumer(bus, handler, order=Order.STRICT, on_gap=gaps.append)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(5)
        assert seen == [b"a 0", b"a 1", b"a 2"]
        assert gaps[-1] == Gap("a", 3, 3)
        await bus.publish("work", b"a 3")
        await asyncio.sleep(1)
        assert seen[3:] == [b"a 3", b"a 4"]
        each.stop()
        await task
        assert (await bus.info("work")).groups["group"].pending == 0

    run(main())


def test_two_consumers_share_and_take_over() -> None:
    """Not exclusive: what one had when it died goes to the other after the idle time."""

    async def main() -> None:
        bus, seen = InProcessBus(clock=clock), list[bytes]()

        async def hang(delivery: Delivery) -> None:
            await asyncio.sleep(1e9)

        async def handler(delivery: Delivery) -> None:
            seen.append(delivery.payload)

        config = ConsumerConfig(exclusive=False, claim_idle_s=20.0, claim_every_s=5.0, batch=3)
        first = consumer(bus, hang, config=config)
        task = asyncio.create_task(first.run())
        await bus.publish_many("work", payloads("a 0", "b 0", "c 0"))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        second = consumer(bus, handler, config=config)
        second.name = "other"
        task = asyncio.create_task(second.run())
        await asyncio.sleep(10)
        assert seen == []
        await asyncio.sleep(20)
        assert seen == [b"a 0", b"b 0", b"c 0"]
        second.stop()
        await task

    run(main())
