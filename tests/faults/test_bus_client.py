"""The bus on a real server that is killed, emptied, full, held, or reached over a bad line."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Self

import pytest
import redis

from kasmina.bus.client import Loss
from kasmina.bus.errors import BusFull, BusLoading, BusReadOnly, BusUnavailable
from kasmina.bus.outbox import Outbox
from kasmina.bus.redis_client import RedisStreamClient
from tests.faults.proxies import Proxy
from tests.helpers import run_python
from tests.redis_servers import RedisServer, redis_server
from tests.runtime.bus.buses import run, until

S, G = "commands", "run"


class Story:
    """A producer that sends numbers until they are done, and a consumer that does each once.

    The consumer writes down every delivery, and every effect: a number that it had not done before.
    """

    def __init__(self, url: str, *, resend_s: float = 60.0, timeout_s: float = 5.0) -> None:
        self.losses: list[Loss] = []
        self.deliveries: Counter[int] = Counter()
        self.effects: Counter[int] = Counter()
        self._sent = itertools.count()
        self._url, self._timeout_s, self._resend_s = url, timeout_s, resend_s
        self._stack = AsyncExitStack()
        self.may_handle = asyncio.Event()
        self.may_handle.set()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        self.producer, self.consumer = [
            await self._stack.enter_async_context(
                RedisStreamClient(self._url, timeout_s=self._timeout_s, watch_s=0.05)
            )
            for _ in range(2)
        ]
        self.producer.on_loss(self.losses.append)
        self.consumer.on_loss(self.losses.append)
        self.outbox = Outbox(self.producer, S, resend_s=self._resend_s)
        await self.consumer.create_group(S, G)
        self._tasks = [asyncio.create_task(self.outbox.run()), asyncio.create_task(self._consume())]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def send(self, count: int) -> None:
        """Send so many numbers more."""
        for _ in range(count):
            number = next(self._sent)
            await self.outbox.send(str(number), b"%d" % number)

    async def _consume(self) -> None:
        while True:
            with suppress(BusUnavailable, BusReadOnly, BusFull):
                new = await self.consumer.consume([S], G, "c", wait_s=0.1)
                new += await self.consumer.claim(S, G, "c", idle_s=0.2)
                await self.may_handle.wait()
                for delivery in new:
                    number = int(delivery.payload)
                    self.deliveries[number] += 1
                    if self.deliveries[number] == 1:
                        self.effects[number] += 1
                    self.outbox.done(str(number))
                await self.consumer.acknowledge(S, G, [delivery.id for delivery in new])

    async def all_done(self, count: int) -> None:
        """Wait until the producer has heard of every number; each was done exactly once."""
        await until(lambda: len(self.outbox) == 0 and len(self.effects) == count, within_s=25)
        assert self.effects == Counter(range(count))

    def kinds(self) -> set[str]:
        """Of the losses that were found."""
        return {loss.kind for loss in self.losses}


def test_a_server_without_persistence_that_is_killed_loses_nothing_in_effect() -> None:
    """The loss is found, named and counted; what was not done is sent again."""

    async def script(server: RedisServer) -> None:
        async with Story(server.url) as story:
            await story.send(50)
            await story.all_done(50)
            story.may_handle.clear()
            await story.send(50)
            server.kill()
            server.start()
            story.may_handle.set()
            await story.send(50)
            await story.all_done(150)
            assert "wiped" in story.kinds()
            assert story.outbox.resent >= 50
            assert story.producer.counters["reconnects"] >= 1
            (loss,) = [each for each in story.losses if each.stream is None and each.entries]
            assert loss.entries == 100  # that the producer had published when it was killed
            assert story.producer.counters["lost: wiped"] == 1

    with redis_server() as server:
        run(script(server), within_s=60)


def test_a_server_with_an_append_only_file_that_is_killed_loses_nothing_in_effect() -> None:
    """Three times in the midst of it: what was done is not done again, and nothing is missing."""

    async def script(server: RedisServer) -> None:
        async with Story(server.url) as story:
            for killed in range(1, 4):
                story.may_handle.clear()
                await story.send(50)
                server.kill()
                server.start()
                story.may_handle.set()
                await story.send(50)
                await story.all_done(100 * killed)
            assert story.producer.counters["reconnects"] >= 3
            assert "wiped" not in story.kinds()

    with redis_server(appendonly="yes", appendfsync="everysec") as server:
        run(script(server), within_s=60)


def test_of_what_an_append_only_file_has_lost_no_entry_is_lost_in_silence() -> None:
    """A server that is killed while its disk is busy loses a moment; that is counted exactly."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url, watch_s=0.05) as client:
            losses: list[Loss] = []
            client.on_loss(losses.append)
            given: list[str] = []
            for round_ in range(4):
                for number in range(10):
                    payloads = [b"%d" % (round_ * 1000 + number)] * 100
                    given += await client.publish_many(S, payloads)
                server.kill()
                server.start()
                await client.info(S)
            found = {delivery.id for delivery in await client.read(S, count=5000)}
            missing = [entry_id for entry_id in given if entry_id not in found]
            assert len(missing) == sum(loss.entries or 0 for loss in losses)
            assert client.counters["reconnects"] >= 4

    with redis_server(appendonly="yes", appendfsync="everysec") as server:
        run(script(server), within_s=60)


def test_a_server_that_comes_back_without_its_newest_entries_is_found_out() -> None:
    """As after a power cut: the end of the append-only file is not there."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url, watch_s=0.05) as client:
            losses: list[Loss] = []
            client.on_loss(losses.append)
            outbox = Outbox(client, S)
            resending = asyncio.create_task(outbox.run())
            for number in range(100):
                await outbox.send(str(number), b"%03d" % number)
            server.kill()
            cut_last_entries(server.folder)
            server.start()
            await until(lambda: bool(losses))
            (loss,) = losses
            left = 100 - (loss.entries or 0)
            assert (loss.kind, loss.stream) == ("rolled back", S)
            assert 0 < left < 100
            await until(lambda: outbox.resent == 100)
            found = [delivery.payload for delivery in await client.read(S)]
            assert len(found) == left + 100
            assert set(found) == {b"%03d" % number for number in range(100)}
            assert client.counters["entries lost"] == loss.entries
            resending.cancel()

    with redis_server(appendonly="yes", appendfsync="always") as server:
        run(script(server), within_s=60)


def cut_last_entries(folder: Path) -> None:
    """Take the end off the append-only file, in the middle of an entry."""
    (path,) = folder.rglob("*.incr.aof")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def test_a_server_that_is_emptied_is_noticed_without_a_new_connection() -> None:
    """FLUSHALL while both sides are at work: counted, named, and all is done once."""

    async def script(server: RedisServer) -> None:
        async with Story(server.url) as story:
            await story.send(30)
            await story.all_done(30)
            story.may_handle.clear()
            await story.send(30)
            server.ask("FLUSHALL")
            await until(lambda: story.producer.counters["lost: wiped"] == 1)
            story.may_handle.set()
            await story.send(30)
            await story.all_done(90)
            assert story.producer.counters["reconnects"] == 0
            assert story.outbox.resent >= 30
            assert {(loss.stream, loss.group) for loss in story.losses} == {(None, None), (S, G)}

    with redis_server() as server:
        run(script(server), within_s=60)


@pytest.mark.parametrize("version", ["7", "6.2"])
def test_a_group_that_is_destroyed_begins_anew_and_nothing_is_done_twice(version: str) -> None:
    """NOGROUP is counted; everything that the stream holds comes again, and is known."""

    async def script(server: RedisServer) -> None:
        async with Story(server.url) as story:
            await story.send(40)
            await story.all_done(40)
            assert server.ask("XGROUP", "DESTROY", S, G) == 1
            await story.send(10)
            await story.all_done(50)
            await until(lambda: story.deliveries.total() >= 40 + 50)  # all of it again
            (loss,) = story.losses
            assert (loss.kind, loss.stream, loss.group) == ("group gone", S, G)
            assert story.consumer.counters["nogroup"] >= 1

    with redis_server(version) as server:
        run(script(server), within_s=60)


def test_a_server_that_became_a_replica_refuses_and_goes_on_when_it_is_primary_again() -> None:
    """READONLY: a typed, transient error; counted."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url) as client:
            await client.publish(S, b"before")
            server.ask("REPLICAOF", "127.0.0.1", 1)
            with pytest.raises(
                BusReadOnly, match=r"answered to XADD of .*: READONLY .* it is a replica"
            ):
                await client.publish(S, b"meanwhile")
            assert client.counters["readonly"] == 1
            server.ask("REPLICAOF", "NO", "ONE")
            await client.publish(S, b"after")
            payloads = [delivery.payload for delivery in await client.read(S)]
            assert payloads == [b"before", b"after"]
            assert client.counters["reconnects"] == 1  # the name might have meant another server
            assert BusReadOnly.transient

    with redis_server() as server:
        run(script(server))


def test_a_server_without_memory_refuses_and_goes_on_when_it_has_some() -> None:
    """OOM: a typed, transient error; counted; reading and acknowledging still work."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url) as client:
            await client.create_group(S, G)
            kept = await client.publish(S, b"kept")
            server.ask("CONFIG", "SET", "maxmemory", 1)
            with pytest.raises(
                BusFull, match=r"answered to XADD of .*: OOM .*raise its `maxmemory`"
            ):
                await client.publish_many(S, [b"a", b"b"])
            assert client.counters["oom"] == 2
            assert [each.payload for each in await client.consume([S], G, "c")] == [b"kept"]
            assert await client.acknowledge(S, G, [kept]) == 1
            server.ask("CONFIG", "SET", "maxmemory", 0)
            await client.publish(S, b"more")
            assert (await client.info(S)).length == 2

    with redis_server() as server:
        run(script(server))


def test_a_server_that_still_reads_its_data_is_waited_for() -> None:
    """LOADING, for about a second: the call takes as long, and passes."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url, timeout_s=20, watch_s=0) as client:
            await client.publish(S, b"before")
            await client.put_many({f"k{number}": b"x" for number in range(1000)}, expires_s=600)
            server.kill()
            server.configure(key_load_delay="1000", loading_process_events_interval_bytes="1024")
            starting = asyncio.create_task(asyncio.to_thread(server.start))
            begun = asyncio.get_running_loop().time()
            await client.publish(S, b"after")
            assert asyncio.get_running_loop().time() - begun > 0.5
            await starting
            payloads = [delivery.payload for delivery in await client.read(S)]
            assert payloads == [b"before", b"after"]

    with redis_server(appendonly="yes", appendfsync="always") as server:
        run(script(server), within_s=60)


def test_a_server_that_a_script_holds_up_is_told_and_goes_on() -> None:
    """BUSY: a typed, transient error."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url, watch_s=0) as client:
            await client.publish(S, b"before")
            server.ask("CONFIG", "SET", "lua-time-limit", 50)

            def endless() -> None:
                with suppress(redis.ResponseError):  # it is killed
                    server.ask("EVAL", "while true do end", 0)

            looping = asyncio.create_task(asyncio.to_thread(endless))
            await asyncio.sleep(0.5)
            with pytest.raises(
                BusLoading, match=r"to XADD of 'commands': BUSY .*end it by SCRIPT KILL"
            ):
                await client.publish(S, b"meanwhile")
            server.ask("SCRIPT", "KILL")
            await looping
            await client.publish(S, b"after")
            assert BusLoading.transient

    with redis_server() as server:
        run(script(server))


def test_an_answer_that_is_lost_after_the_server_did_it_has_no_second_effect() -> None:
    """The entry is stored twice, given twice, and done once: twenty times."""

    async def script(server: RedisServer) -> None:
        async with Proxy(server.port) as proxy, Story(proxy.url) as story:
            await story.send(1)
            await story.all_done(1)
            for number in range(1, 21):
                proxy.cut_reply(b"XADD")
                await story.send(1)
                await story.all_done(number + 1)
            await until(lambda: story.deliveries.total() >= 21 + 20)
            assert proxy.faults == 20
            assert story.producer.counters["resent"] >= 20
            assert story.losses == []

    with redis_server() as server:
        run(script(server), within_s=60)


def test_a_lost_answer_to_a_publish_makes_it_stored_twice() -> None:
    """That is what receivers know copies for; the publisher is told one id."""

    async def script(server: RedisServer) -> None:
        async with Proxy(server.port) as proxy, RedisStreamClient(proxy.url, watch_s=0) as client:
            await client.publish(S, b"a")
            proxy.cut_reply(b"XADD")
            given = await client.publish(S, b"b")
            found = await client.read(S)
            assert [delivery.payload for delivery in found] == [b"a", b"b", b"b"]
            assert given == found[-1].id
            assert (proxy.faults, client.counters["resent"]) == (1, 1)
            assert client.counters["published"] == 2

    with redis_server() as server:
        run(script(server))


@pytest.mark.parametrize("after", [0, 1, 3, 10, 21, 22, 50, 95])
def test_a_reply_that_is_cut_anywhere_is_asked_for_again(after: int) -> None:
    """No entry is missing, and none is taken for another."""

    async def script(server: RedisServer) -> None:
        async with Proxy(server.port) as proxy, RedisStreamClient(proxy.url, watch_s=0) as client:
            await client.publish_many(S, [b"%d" % number for number in range(5)])
            proxy.cut_reply(b"XADD", after)
            given = await client.publish_many(S, [b"x%d" % number for number in range(5)])
            found = await client.read(S)
            assert [each.payload for each in found][-5:] == [b"x0", b"x1", b"x2", b"x3", b"x4"]
            assert given == [each.id for each in found][-5:]
            assert proxy.faults == 1
            proxy.cut_reply(b"XREAD", after)
            assert await client.read(S) == found
            assert proxy.faults == 2

    with redis_server() as server:
        run(script(server))


def test_a_server_that_stands_still_is_given_up_in_time_and_used_when_it_goes_on() -> None:
    """Held by SIGSTOP: a call fails after its time, whoever waits for entries as well."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url, timeout_s=0.4, watch_s=0) as client:
            await client.create_group(S, G)
            loop = asyncio.get_running_loop()
            waiting = asyncio.create_task(client.consume([S], G, "c", wait_s=0.2))
            await asyncio.sleep(0.05)
            server.hold()
            begun = loop.time()
            with pytest.raises(BusUnavailable, match=r"did not answer to XADD within 0\.4 s"):
                await client.publish(S, b"held")
            with pytest.raises(BusUnavailable):
                await waiting
            assert 0.3 < loop.time() - begun < 3
            server.release()
            await client.publish(S, b"goes on")
            found = [each.payload for each in await client.consume([S], G, "c", wait_s=1)]
            assert found[-1] == b"goes on"

    with redis_server() as server:
        run(script(server))


def test_a_line_that_is_dead_though_it_is_open_is_replaced() -> None:
    """Half open: nothing comes, nothing says so; the watch notices without any call."""

    async def script(server: RedisServer) -> None:
        async with Proxy(server.port) as proxy:
            client = RedisStreamClient(proxy.url, timeout_s=0.4, watch_s=0.05)
            async with client:
                await client.publish(S, b"a")
                proxy.hold()
                await until(lambda: client.counters["reconnects"] >= 1)
                assert proxy.faults >= 1
                await client.publish(S, b"b")
                assert [each.payload for each in await client.read(S)] == [b"a", b"b"]

    with redis_server() as server:
        run(script(server))


CONSUMER = """
import asyncio, sys
from kasmina.bus.redis_client import RedisStreamClient
async def main():
    async with RedisStreamClient(sys.argv[1]) as client:
        found = await client.consume(["commands"], "run", "killed", count=5, wait_s=5)
        print(len(found), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own that runs `code`."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_consumer_had_is_taken_over_by_another() -> None:
    """With kill -9 between delivery and acknowledgement; the second attempt is told."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url) as client:
            await client.create_group(S, G)
            sent = [b"%d" % number for number in range(5)]
            await client.publish_many(S, sent)
            process = started(CONSUMER, server.url)
            assert process.stdout is not None
            assert process.stdout.readline() == "5\n"
            process.send_signal(signal.SIGKILL)
            process.stdout.close()
            assert process.wait() == -signal.SIGKILL
            assert await client.consume([S], G, "heir") == []
            found = await client.claim(S, G, "heir", idle_s=0)
            assert [(each.payload, each.attempt) for each in found] == [(each, 2) for each in sent]
            assert await client.acknowledge(S, G, [each.id for each in found]) == 5

    with redis_server() as server:
        run(script(server))


def test_four_that_claim_at_once_from_processes_of_their_own_share_without_overlap() -> None:
    """While a dead one's entries are 400."""
    heir = """
import asyncio, sys
from kasmina.bus.redis_client import RedisStreamClient
async def main():
    async with RedisStreamClient(sys.argv[1]) as client:
        while new := await client.claim("commands", "run", sys.argv[2], idle_s=2, count=7):
            print(*(each.payload.decode() for each in new), flush=True)
asyncio.run(main())
"""

    async def prepare(server: RedisServer) -> None:
        async with RedisStreamClient(server.url) as client:
            await client.create_group(S, G)
            await client.publish_many(S, [b"%d" % number for number in range(400)])
            await client.consume([S], G, "dead", count=400)
            await asyncio.sleep(2.1)

    with redis_server() as server:
        run(prepare(server))
        processes = [started(heir, server.url, f"h{number}") for number in range(4)]
        shares = [process.communicate(timeout=30)[0].split() for process in processes]
        assert [process.returncode for process in processes] == [0] * 4
        assert Counter(map(int, itertools.chain(*shares))) == Counter(range(400))


def test_closing_while_the_server_is_away_ends_in_time() -> None:
    """And leaves no task and no open connection behind: no warning is raised at the end."""
    with redis_server() as server:
        code = f"""
import asyncio, time
from kasmina.bus.errors import BusError
from kasmina.bus.redis_client import RedisStreamClient
async def main():
    client = RedisStreamClient("redis://127.0.0.1:{server.port}", timeout_s=0.5)
    await client.publish("s", b"a")
    import os, signal
    os.kill({server_pid(server)}, signal.SIGSTOP)
    task = asyncio.create_task(client.publish("s", b"b"))
    await asyncio.sleep(0.05)
    begun = time.monotonic()
    await client.close()
    assert time.monotonic() - begun < 3
    try:
        await task
    except BusError as error:
        print(type(error).__name__)
    left = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
    assert not left, left
asyncio.run(main())
"""
        result = run_python(code, timeout_s=30)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.strip() in ("BusUnavailable", "BusClosed")


def server_pid(server: RedisServer) -> int:
    """The process of the server."""
    text = server.ask("INFO", "server")
    assert isinstance(text, dict)
    return int(text["process_id"])
