"""Poison: exactly so many attempts, then a dead letter that tells why."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from kasmina.bus.attempts import Attempts, Rejected
from kasmina.bus.client import LARGEST_PAYLOAD, Delivery
from kasmina.bus.dead_letters import BadDeadLetter, DeadLetterQueue, Failure
from kasmina.bus.errors import BusFull, BusUnavailable
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.retry import Backoff, BadSetting
from kasmina_generated.messages.types import DeadLetter
from tests.runtime.bus.virtual import now, run

BACKOFF = Backoff(attempts=3, base_s=1.0, factor=2.0, jitter=0.0)
Handler = Callable[[Delivery], Awaitable[None]]


def clock() -> float:
    """Virtual seconds since 1970."""
    return 1e9 + now()


def queue(bus: InProcessBus | None = None, **settings: Any) -> DeadLetterQueue:
    """A queue on a bus of its own."""
    bus = bus or InProcessBus(clock=clock)
    return DeadLetterQueue(bus, "dead", reader="handlers", clock=clock, **settings)


def attempts(handler: Handler, dead: DeadLetterQueue, **settings: Any) -> Attempts:
    """Three attempts, waits of 1 and 2 seconds."""
    settings = {"timeout_s": 5.0, "backoff": BACKOFF, **settings}
    return Attempts(handler, dead, clock=clock, rng=Random(0), **settings)


async def letters(dead: DeadLetterQueue) -> list[DeadLetter]:
    """What can be read in the queue."""
    return [entry.letter for entry in await dead.list() if entry.letter is not None]


DELIVERY = Delivery("work", "7-0", b"payload")


async def raises(delivery: Delivery) -> None:
    """A handler."""
    raise ValueError("poison")


async def hangs(delivery: Delivery) -> None:
    """A handler."""
    await asyncio.sleep(1e9)


async def exits(delivery: Delivery) -> None:
    """A handler."""
    sys.exit("goodbye")


async def cancels(delivery: Delivery) -> None:
    """A handler."""
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("handler", "cause", "where", "ended"),
    [
        (raises, "ValueError: poison", 'raise ValueError("poison")', 3.0),
        (hangs, "the handler took longer than 5 s", "HandlerTimedOut", 18.0),
        (exits, "SystemExit: goodbye", 'sys.exit("goodbye")', 3.0),
        (cancels, "CancelledError", "raise asyncio.CancelledError", 3.0),
    ],
)
def test_poison_is_a_dead_letter_after_exactly_the_attempts(
    handler: Handler, cause: str, where: str, ended: float
) -> None:
    """Raise, hang, exit, cancel: three times, with the waits in between, and the cause told."""

    async def main() -> None:
        calls = []

        async def counted(delivery: Delivery) -> None:
            calls.append(now())
            await handler(delivery)

        dead = queue()
        each = attempts(counted, dead)
        assert not await each(DELIVERY)
        assert len(calls) == each.failures == 3
        assert now() == pytest.approx(ended, abs=0.5)
        (letter,) = await letters(dead)
        assert (letter.stream, letter.entry, letter.payload) == ("work", "7-0", b"payload")
        assert (letter.reader, letter.attempts) == ("handlers", 3)
        assert cause in letter.cause
        assert where in letter.traceback
        assert 0 <= letter.first - 1e9 < letter.last - 1e9 <= ended + 0.5

    run(main())


def test_what_succeeds_at_last_is_no_dead_letter() -> None:
    """Two failures, one success."""

    async def main() -> None:
        calls = []

        async def third(delivery: Delivery) -> None:
            calls.append(1)
            if len(calls) < 3:
                raise OSError

        dead = queue()
        assert await attempts(third, dead)(DELIVERY)
        assert len(calls) == 3
        assert await letters(dead) == []

    run(main())


def test_what_is_rejected_is_tried_once() -> None:
    """The handler knows that no attempt will help."""

    async def main() -> None:
        async def rejects(delivery: Delivery) -> None:
            raise Rejected("no such run")

        dead = queue()
        each = attempts(rejects, dead)
        assert not await each(DELIVERY)
        (letter,) = await letters(dead)
        assert (letter.attempts, letter.cause) == (1, "kasmina.bus.attempts.Rejected: no such run")
        assert now() == 0

    run(main())


@pytest.mark.parametrize(("given_out", "tried"), [(1, 3), (3, 1), (4, 0), (99, 0)])
def test_earlier_deliveries_count_as_attempts(given_out: int, tried: int) -> None:
    """Whoever had it before died of it; past the attempts it is not touched any more."""

    async def main() -> None:
        calls = []

        async def poison(delivery: Delivery) -> None:
            calls.append(1)
            raise ValueError("poison")

        dead = queue()
        await attempts(poison, dead)(DELIVERY._replace(attempt=given_out))
        assert len(calls) == tried
        (letter,) = await letters(dead)
        assert letter.attempts == max(3, given_out - 1)
        told = f"given out {given_out - 1} times, and whoever had it never came back"
        assert letter.cause == ("ValueError: poison" if tried else told)

    run(main())


def test_an_outage_of_the_bus_is_no_attempt() -> None:
    """Neither in the handler nor in putting the letter away."""

    async def main() -> None:
        outages = iter([BusUnavailable("gone")] * 20)

        async def away(delivery: Delivery) -> None:
            for error in outages:
                raise error
            raise ValueError("poison")

        bus = InProcessBus(clock=clock, limit_bytes=10_000)
        await bus.publish("full", bytes(9_000))
        dead = queue(bus)
        each = attempts(away, dead)
        task = asyncio.create_task(each(DELIVERY))
        await asyncio.sleep(200)
        assert not task.done()
        assert (each.failures, each.given_up) == (3, 0)
        assert each.outages > 20
        await bus.trim("full", before="9999999999999-0")
        assert not await task
        assert each.given_up == 1

    run(main())


def test_a_handler_that_does_not_obey_is_left_behind() -> None:
    """And counted; the key goes on."""

    async def main() -> None:
        async def stubborn(delivery: Delivery) -> None:
            while True:
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    if now() > 1000:
                        raise

        dead = queue()
        each = attempts(stubborn, dead)
        assert not await each(DELIVERY)
        assert each.abandoned == 3
        await asyncio.sleep(1000)
        for task in each._left:
            task.cancel()
        await asyncio.sleep(1)
        assert not each._left

    run(main())


def test_cancelling_the_attempts_cancels_the_handler() -> None:
    """And makes no letter."""

    async def main() -> None:
        seen = []

        async def handler(delivery: Delivery) -> None:
            try:
                await asyncio.sleep(1e9)
            finally:
                seen.append("cancelled")

        dead = queue()
        task = asyncio.create_task(attempts(handler, dead)(DELIVERY))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == ["cancelled"]
        assert await letters(dead) == []

    run(main())


def test_a_time_out_must_be_one() -> None:
    """The message names setting, value and range."""
    with pytest.raises(BadSetting, match="Attempts: timeout_s is 0; it is more than 0 seconds"):
        Attempts(raises, DeadLetterQueue(InProcessBus(), "dead"), timeout_s=0)


FAILURE = Failure(5.0, "ValueError: no", "Traceback")


def test_letters_are_replayed_one_or_all_and_purged() -> None:
    """A replayed message is in its stream again, and its letter gone."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        dead = queue(bus)
        ids = [
            await dead.put(Delivery(f"s{n % 2}", f"{n}-0", bytes([n])), 3, [FAILURE])
            for n in range(6)
        ]
        assert [entry.id for entry in await dead.list()] == ids
        await dead.replay(ids[3])
        assert [each.payload for each in await bus.read("s1")] == [b"\x03"]
        with pytest.raises(BadDeadLetter, match=f"'dead' has no letter '{ids[3]}'; list them"):
            await dead.replay(ids[3])
        assert await dead.purge([ids[0], ids[0], "1-1"]) == 1
        assert await dead.replay_all() == 4
        again = [*await bus.read("s0"), *await bus.read("s1")]
        assert sorted(each.payload for each in again) == [bytes([n]) for n in range(1, 6)]
        assert await dead.list() == []
        await dead.put(DELIVERY, 1, [FAILURE])
        assert await dead.purge() == 1

    run(main())


def test_replaying_all_ends_though_messages_die_again() -> None:
    """What dies while it replays is for the next time."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        dead = queue(bus)
        for _ in range(300):
            await dead.put(DELIVERY, 3, [FAILURE])
        publish = bus.publish

        async def dies_at_once(stream: str, payload: bytes, *, keep: int | None = None) -> str:
            if stream == "work":
                await dead.put(DELIVERY, 3, [FAILURE])
            return await publish(stream, payload, keep=keep)

        bus.publish = dies_at_once  # type: ignore[method-assign]
        assert await dead.replay_all() == 300
        assert (await bus.info("dead")).length == 300

    run(main())


def test_the_queue_is_bounded_and_says_how_many_went() -> None:
    """The oldest go."""

    async def main() -> None:
        dead = queue(capacity=3)
        for n in range(5):
            await dead.put(Delivery("s", f"{n}-0", b""), 1, [FAILURE])
        assert [letter.entry for letter in await letters(dead)] == ["2-0", "3-0", "4-0"]
        assert dead.dropped == 2

    run(main())


def test_a_letter_that_is_too_large_for_an_entry_goes_by_claim_check() -> None:
    """The largest payload with the longest traceback; it is replayed whole."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        dead, payload = queue(bus), os.urandom(LARGEST_PAYLOAD)
        failure = Failure(1.0, "c" * 10_000, "t" * 200_000)
        entry = await dead.put(Delivery("s", "1-0", payload), 3, [failure])
        (letter,) = await letters(dead)
        assert (letter.payload, len(letter.cause), len(letter.traceback)) == (payload, 1024, 65_536)
        await dead.replay(entry)
        assert (await bus.read("s"))[0].payload == payload

    run(main())


def test_what_is_no_letter_is_listed_as_none_and_never_replayed() -> None:
    """Hostile bytes in the queue stop nobody."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        dead = queue(bus)
        bad = await bus.publish("dead", b"\xdd\xff\xff\xff\xff")
        good = await dead.put(DELIVERY, 1, [FAILURE])
        assert [(entry.id, entry.letter is None) for entry in await dead.list()] == [
            (bad, True),
            (good, False),
        ]
        with pytest.raises(BadDeadLetter, match="cannot be read as a dead letter; purge it"):
            await dead.replay(bad)
        assert await dead.replay_all() == 1
        assert await dead.purge([bad]) == 1

    run(main())


def test_the_capacity_is_at_least_one() -> None:
    """The message names setting, value and range."""
    with pytest.raises(BadSetting, match="capacity is 0; it is 1 letter or more"):
        DeadLetterQueue(InProcessBus(), "dead", capacity=0)


def test_a_full_bus_is_an_error_to_whoever_puts() -> None:
    """The queue itself does not retry."""

    async def main() -> None:
        with pytest.raises(BusFull):
            await queue(InProcessBus(clock=clock, limit_bytes=10)).put(DELIVERY, 1, [FAILURE])

    run(main())
