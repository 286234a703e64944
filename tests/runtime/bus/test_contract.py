"""One suite for every client: what `MessageBusClient` promises, they all keep."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Iterator

import pytest

from kasmina.bus.client import (
    LARGEST_PAYLOAD,
    LONGEST_NAME,
    NEWEST,
    Delivery,
    Loss,
    MessageBusClient,
    position,
)
from kasmina.bus.errors import BadName, BusClosed, NoSuchGroup, PayloadTooLarge
from tests.runtime.bus.buses import BUSES, Bus, run

S, G = "stream", "group"


@pytest.fixture(params=BUSES)
def bus(request: pytest.FixtureRequest) -> Iterator[Bus]:
    """An empty bus of each kind."""
    with BUSES[request.param]() as bus:
        yield bus


def payloads(deliveries: list[Delivery]) -> list[bytes]:
    """What was delivered."""
    return [delivery.payload for delivery in deliveries]


def ids(deliveries: list[Delivery]) -> list[str]:
    """As what it was delivered."""
    return [delivery.id for delivery in deliveries]


async def all_of(client: MessageBusClient, consumer: str = "c") -> list[bytes]:
    """Consume and acknowledge everything that is new."""
    found: list[bytes] = []
    while new := await client.consume([S], G, consumer, count=100):
        await client.acknowledge(S, G, ids(new))
        found += payloads(new)
    return found


def test_entries_keep_their_bytes_and_their_order(bus: Bus) -> None:
    """Any bytes, none too; ids grow, and are those that the publisher got."""
    sent = [b"", b"\x00\xff\r\n", os.urandom(70_000), "ü".encode(), b"$3\r\nabc\r\n"]

    async def script() -> None:
        async with bus.client() as one, bus.client() as other:
            await one.create_group(S, G)
            given = await one.publish_many(S, sent)
            given.append(await one.publish(S, b"last"))
            assert [position(each) for each in given] == sorted(position(each) for each in given)
            assert len(set(given)) == len(given)
            found = await other.consume([S], G, "c")
            assert payloads(found) == [*sent, b"last"]
            assert ids(found) == given
            assert {(each.stream, each.attempt) for each in found} == {(S, 1)}
            assert await one.publish_many(S, []) == []

    run(script())


def test_of_a_group_each_entry_goes_to_one_consumer_and_of_two_groups_to_both(bus: Bus) -> None:
    """While both consume at once, in small pieces."""

    async def script() -> None:
        async with bus.client() as one, bus.client() as two:
            await one.create_group(S, G)
            await one.create_group(S, "audit")
            sent = [b"%d" % number for number in range(300)]
            await one.publish_many(S, sent)

            async def consumer(client: MessageBusClient, name: str) -> list[bytes]:
                found: list[bytes] = []
                while new := await client.consume([S], G, name, count=7):
                    found += payloads(new)
                    await client.acknowledge(S, G, ids(new))
                return found

            shares = await asyncio.gather(consumer(one, "a"), consumer(two, "b"))
            assert Counter(shares[0] + shares[1]) == Counter(sent)
            assert payloads(await two.consume([S], "audit", "c", count=1000)) == sent

    run(script())


def test_a_group_begins_where_it_is_told_and_is_made_once(bus: Bus) -> None:
    """At the first entry, behind the newest, or behind an id."""

    async def script() -> None:
        async with bus.client() as client:
            first = await client.publish(S, b"a")
            await client.publish(S, b"b")
            assert await client.create_group(S, "all")
            assert not await client.create_group(S, "all", start=NEWEST)
            await client.create_group(S, "new", start=NEWEST)
            await client.create_group(S, "behind", start=first)
            await client.publish(S, b"c")
            found = [
                payloads(await client.consume([S], group, "c"))
                for group in ("all", "new", "behind")
            ]
            assert found == [[b"a", b"b", b"c"], [b"c"], [b"b", b"c"]]
            assert await client.create_group("fresh", G)
            assert (await client.info("fresh")).length == 0

    run(script())


def test_what_is_not_acknowledged_is_pending_and_is_claimed_when_it_is_idle(bus: Bus) -> None:
    """With the number of attempts; what was acknowledged is not given again."""

    async def script() -> None:
        async with bus.client() as one, bus.client() as two:
            await one.create_group(S, G)
            await one.publish_many(S, [b"a", b"b", b"c"])
            first, second, third = await one.consume([S], G, "one")
            assert await one.acknowledge(S, G, [second.id, "1-1"]) == 1
            assert await one.acknowledge(S, G, [second.id]) == 0
            assert await one.acknowledge(S, G, []) == 0
            held = await two.pending(S, G)
            assert [(each.id, each.consumer, each.attempt) for each in held] == [
                (first.id, "one", 1),
                (third.id, "one", 1),
            ]
            assert await two.claim(S, G, "two", idle_s=60) == []
            await asyncio.sleep(0.06)
            (old,) = await two.claim(S, G, "two", idle_s=0.05, count=1)
            assert (old.id, old.payload, old.attempt) == (first.id, b"a", 2)
            assert all(each.idle_s < 5 for each in await two.pending(S, G))
            again = await two.claim(S, G, "three", idle_s=0)
            assert [(each.payload, each.attempt) for each in again] == [(b"a", 3), (b"c", 2)]
            assert len(await two.pending(S, G, count=1)) == 1
            assert await two.acknowledge(S, G, ids(again)) == 2
            assert await two.pending(S, G) == await two.pending(S, "nobody") == []

    run(script())


def test_more_is_claimed_than_one_look_of_the_server_finds(bus: Bus) -> None:
    """Entries of another that are not idle stand before those that are."""

    async def script() -> None:
        async with bus.client() as client:
            await client.create_group(S, G)
            await client.publish_many(S, [b"%d" % number for number in range(900)])
            await client.consume([S], G, "gone", count=900)
            await asyncio.sleep(1.0)  # much longer than all of the claims take
            taken: list[bytes] = []
            while new := await client.claim(S, G, "heir", idle_s=1.0, count=70):
                taken += payloads(new)
            assert taken == [b"%d" % number for number in range(900)]

    run(script())


def test_of_four_that_claim_at_once_one_gets_each_entry(bus: Bus) -> None:
    """Nothing twice, nothing left."""

    async def script() -> None:
        clients = [bus.client() for _ in range(4)]
        await clients[0].create_group(S, G)
        sent = [b"%d" % number for number in range(400)]
        await clients[0].publish_many(S, sent)
        await clients[0].consume([S], G, "dead", count=400)
        await asyncio.sleep(1.1)

        async def heir(client: MessageBusClient, name: str) -> list[bytes]:
            found: list[bytes] = []
            while new := await client.claim(S, G, name, idle_s=1.0, count=9):
                found += payloads(new)
                await client.acknowledge(S, G, [each.id for each in new])
            return found

        shares = await asyncio.gather(*(heir(each, f"h{n}") for n, each in enumerate(clients)))
        assert Counter(itertools.chain(*shares)) == Counter(sent)
        for client in clients:
            await client.close()

    run(script())


def test_who_waits_gets_an_entry_at_once_and_otherwise_nothing_in_time(bus: Bus) -> None:
    """In a group and outside of one; several wait on several streams."""

    async def script() -> None:
        async with bus.client() as one, bus.client() as two:
            for stream in (S, "other"):
                await one.create_group(stream, G)
            loop = asyncio.get_running_loop()
            begun = loop.time()
            assert await one.consume([S, "other"], G, "c", wait_s=0.15) == []
            assert await one.read(S, wait_s=0.05) == []
            assert 0.19 < loop.time() - begun < 3
            reading = asyncio.create_task(one.read("other", after=NEWEST, wait_s=10))
            waiting = asyncio.create_task(one.consume([S, "other"], G, "c", wait_s=10))
            await asyncio.sleep(0.1)
            assert not waiting.done() and not reading.done()
            begun = loop.time()
            await two.publish("other", b"x")
            assert payloads(await waiting) == payloads(await reading) == [b"x"]
            assert loop.time() - begun < 1

    run(script())


def test_reading_leaves_nothing_pending_and_goes_on_behind_an_id(bus: Bus) -> None:
    """Page by page, to the end; of a stream that is not there nothing."""

    async def script() -> None:
        async with bus.client() as client:
            await client.create_group(S, G)
            sent = [b"%d" % number for number in range(25)]
            await client.publish_many(S, sent)
            found: list[Delivery] = []
            while page := await client.read(S, after=found[-1].id if found else "0", count=10):
                found += page
            assert payloads(found) == sent
            assert await client.pending(S, G) == []
            assert await client.read("nowhere") == await client.read(S, after=NEWEST) == []

            last = await client.read_back(S, count=10)
            assert last == found[-10:]
            assert await client.read_back(S, before=last[0].id, count=10) == found[5:15]
            assert await client.read_back(S, before=found[2].id) == found[:2]
            assert await client.read_back(S, before=found[0].id) == []
            assert await client.read_back("nowhere") == []

            other = await client.publish("other", b"o")
            behind = {S: found[19].id, "other": "0", "nowhere": "0"}
            mixed = await client.read_many(behind, count=3)
            assert mixed == [*found[20:23], Delivery("other", other, b"o")]
            assert await client.read_many({S: found[-1].id, "other": other}) == []
            assert await client.read_many({}) == []
            made = position(other)[0] / 1000  # ids go by the bus's clock
            assert made - 0.001 <= await client.time() < made + 600

    run(script())


def test_a_stream_tells_where_it_and_its_groups_stand(bus: Bus) -> None:
    """Length, first and last, what is pending, and the lag where the server counts it."""

    async def script() -> None:
        async with bus.client() as client:
            assert (await client.info(S)) == (0, None, "0-0", {})
            await client.create_group(S, G)
            given = await client.publish_many(S, [b"a", b"b", b"c"])
            await client.consume([S], G, "c", count=2)
            info = await client.info(S)
            assert (info.length, info.first, info.last) == (3, given[0], given[2])
            group = info.groups[G]
            assert (group.delivered, group.pending, group.consumers) == (given[1], 2, 1)
            assert group.lag in (1, None)
            await client.consume([S], G, "c")
            assert (await client.info(S)).groups[G].lag == 0

    run(script())


def test_trimming_takes_the_old_ones_and_removing_single_ones(bus: Bus) -> None:
    """Up to an id, which stays; the newest id is remembered."""

    async def script() -> None:
        async with bus.client() as client:
            given = await client.publish_many(S, [b"a", b"b", b"c", b"d"])
            assert await client.trim(S, before=given[2]) == 2
            assert (
                await client.trim(S, before=given[2]) == await client.trim("none", before="9") == 0
            )
            assert await client.remove(S, [given[3], given[0]]) == 1
            assert payloads(await client.read(S)) == [b"c"]
            info = await client.info(S)
            assert (info.length, info.last) == (1, given[3])
            assert position(await client.publish(S, b"e")) > position(given[3])

    run(script())


def test_a_stream_that_keeps_so_many_is_bounded_and_never_keeps_fewer(bus: Bus) -> None:
    """However they come."""

    async def script() -> None:
        async with bus.client() as client:
            for number in range(30):
                await client.publish_many(S, [b"%d" % number] * 100, keep=500)
            length = (await client.info(S)).length
            assert 500 <= length <= 700
            assert payloads(await client.read(S, count=10_000))[-500:][0] == b"25"

    run(script())


def test_what_was_trimmed_while_it_was_pending_is_found_named_and_done_with(bus: Bus) -> None:
    """The rest is claimed; the loss is told once."""

    async def script() -> None:
        losses: list[Loss] = []
        async with bus.client() as client:
            client.on_loss(losses.append)
            await client.create_group(S, G)
            given = await client.publish_many(S, [b"a", b"b", b"c"])
            await client.consume([S], G, "dead")
            await client.trim(S, before=given[2])
            found = await client.claim(S, G, "heir", idle_s=0)
            assert payloads(found) == [b"c"]
            (loss,) = losses
            assert (loss.kind, loss.stream, loss.group, loss.entries) == ("trimmed", S, G, 2)
            assert given[0] in loss.detail
            assert [each.id for each in await client.pending(S, G)] == [given[2]]
            assert await client.claim(S, G, "heir", idle_s=60) == []
            assert len(losses) == 1
            assert client.counters["lost: trimmed"] == 1
            assert client.counters["entries lost"] == 2

    run(script())


def test_a_bus_that_was_emptied_is_noticed_and_goes_on(bus: Bus) -> None:
    """The consumer's group is made again from the first entry; nothing that came since is missed."""

    async def script() -> None:
        losses: list[Loss] = []
        async with bus.client() as consumer, bus.client() as producer:
            consumer.on_loss(losses.append)
            await consumer.create_group(S, G)
            await producer.publish(S, b"before")
            assert await all_of(consumer) == [b"before"]
            bus.wipe()
            await producer.publish(S, b"since")
            assert await all_of(consumer) == [b"since"]
            ours = [loss for loss in losses if loss.stream == S]
            (loss,) = ours
            assert (loss.kind, loss.group) == ("group gone", G)  # the producer has made the stream
            bus.wipe()
            assert await consumer.claim(S, G, "c", idle_s=0) == []
            assert [loss.kind for loss in losses if loss.stream == S] == ["group gone", "wiped"]
            await producer.publish(S, b"more")
            assert await all_of(consumer) == [b"more"]

    run(script())


def test_a_group_that_nobody_has_made_is_an_error(bus: Bus) -> None:
    """With its name and its stream's, and what to do."""

    async def script() -> None:
        async with bus.client() as client:
            await client.publish(S, b"a")
            for call in (client.consume([S], G, "c"), client.claim(S, G, "c", idle_s=0)):
                with pytest.raises(NoSuchGroup) as caught:
                    await call
                assert str(caught.value) == (
                    f"stream {S!r} has no group {G!r}; make it with `create_group` before it is "
                    "read"
                )

    run(script())


def test_values_are_kept_for_a_time(bus: Bus) -> None:
    """Also many, and large ones; the last to be put stays."""

    async def script() -> None:
        async with bus.client() as client:
            many = {f"k{number}": bytes([number]) * 3000 for number in range(50)}
            await client.put_many(many, expires_s=60)
            await client.put_many({"k1": b"new"}, expires_s=60)
            await client.put_many({"soon": b"x"}, expires_s=0.05)
            await client.put_many({}, expires_s=1)
            assert await client.get_many(["soon"]) == [b"x"]
            found = await client.get_many([*many, "never"])
            assert found == [*(many | {"k1": b"new"}).values(), None]
            await asyncio.sleep(0.08)
            assert await client.get_many(["soon"]) == [None]
            assert await client.get_many([]) == []

    run(script())


@pytest.mark.parametrize("name", ["", "a\nb", "x" * (LONGEST_NAME + 1), "\x00"])
def test_names_that_no_bus_takes_are_refused(bus: Bus, name: str) -> None:
    """Before anything is sent."""

    async def script() -> None:
        async with bus.client() as client:
            calls = [
                client.publish(name, b""),
                client.create_group(S, name),
                client.consume([S], G, name),
                client.claim(S, G, name, idle_s=0),
                client.read(name),
                client.read_many({name: "0"}),
                client.read_back(name),
                client.put_many({name: b""}, expires_s=1),
            ]
            for call in calls:
                with pytest.raises(BadName, match=f"take 1 to {LONGEST_NAME} printable"):
                    await call

    run(script())


def test_a_payload_that_is_too_large_is_refused_whole(bus: Bus) -> None:
    """Nothing of the call is sent; one of exactly the bound passes."""

    async def script() -> None:
        async with bus.client() as client:
            with pytest.raises(PayloadTooLarge, match=f"{LARGEST_PAYLOAD + 1} bytes"):
                await client.publish_many(S, [b"a", bytes(LARGEST_PAYLOAD + 1)])
            assert (await client.info(S)).length == 0
            await client.publish(S, bytes(LARGEST_PAYLOAD))
            (found,) = await client.read(S)
            assert found.payload == bytes(LARGEST_PAYLOAD)

    run(script())


def test_a_closed_client_answers_so_and_whoever_waits_is_told(bus: Bus) -> None:
    """Closing twice is fine; others of the same bus go on."""

    async def script() -> None:
        async with bus.client() as other:
            client = bus.client()
            await client.create_group(S, G)
            waiting = asyncio.create_task(client.consume([S], G, "c", wait_s=20))
            await asyncio.sleep(0.1)
            await client.close()
            await client.close()
            with pytest.raises(BusClosed):
                await waiting
            for call in (client.publish(S, b""), client.consume([S], G, "c", wait_s=1)):
                with pytest.raises(BusClosed, match="was closed; open another one"):
                    await call
            await other.publish(S, b"x")

    run(script())


def test_a_call_that_is_cancelled_leaves_the_client_whole(bus: Bus) -> None:
    """What was given to it is pending, and can be claimed."""

    async def script() -> None:
        async with bus.client() as client:
            await client.create_group(S, G)
            for _ in range(20):
                waiting = asyncio.create_task(client.consume([S], G, "c", wait_s=20))
                await asyncio.sleep(0.005)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
            publishing = [asyncio.create_task(client.publish(S, b"%d" % n)) for n in range(50)]
            await asyncio.sleep(0)
            for task in publishing[::2]:
                task.cancel()
            done = await asyncio.gather(*publishing, return_exceptions=True)
            await client.drain()
            sure = [b"%d" % n for n, result in enumerate(done) if isinstance(result, str)]
            assert len(sure) >= 25
            found = payloads(await client.consume([S], G, "c", count=100, wait_s=1))
            found += payloads(await client.claim(S, G, "c", idle_s=0))
            assert set(sure) <= set(found)

    run(script())


def test_what_many_publish_at_once_all_arrives_in_the_order_of_each(bus: Bus) -> None:
    """Calls that pile up go out together, and each gets its own answer."""

    async def script() -> None:
        async with bus.client() as client, bus.client() as reader:

            async def producer(name: int) -> list[str]:
                return [await client.publish(S, b"%d %d" % (name, n)) for n in range(40)]

            given = await asyncio.gather(*(producer(name) for name in range(25)))
            found = await reader.read(S, count=2000)
            assert sorted(itertools.chain(*given)) == sorted(ids(found))
            for name, own in enumerate(given):
                mine = [each for each in found if each.payload.startswith(b"%d " % name)]
                assert ids(mine) == own
                assert payloads(mine) == [b"%d %d" % (name, n) for n in range(40)]

    run(script())
