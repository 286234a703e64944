"""Entries of somebody's that are larger than any of ours: read past, named, and never held."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import partial

import pytest

from kasmina.bus.claims import CHUNK
from kasmina.bus.client import LARGEST_PAYLOAD
from kasmina.bus.connecting import open_bus
from kasmina.bus.errors import AnswerTooLarge
from kasmina.bus.names import DEAD_LETTERS, streams_of
from kasmina.bus.operator_thread import OperatorThread
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.redis_skim import LARGEST_REPLY, first_of, skim, whole
from kasmina.growth.outside import Outside
from kasmina_generated.messages import types
from tests.helpers import run_python
from tests.redis_servers import RedisServer, redis_server
from tests.runtime.bus.buses import run
from tests.runtime.growth.gardens import Bed

S, G = "s", "g"
HUGE = 48 << 20
SIZES = [5, HUGE, 6, 2 << 20, 7, HUGE, HUGE, HUGE, 8]  # bytes of entries
READ = [size if size < LARGEST_PAYLOAD else 0 for size in SIZES]  # as they are read


@pytest.fixture(params=["7", "6.2"], scope="module")
def large(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """With a stream that holds small entries and huge ones."""
    with redis_server(request.param) as found:
        found.ask("XGROUP", "CREATE", S, G, "0", "MKSTREAM")
        for size in SIZES:
            found.ask("XADD", S, "*", "p", b"x" * size)
        yield found


WAYS = """
import asyncio
from pathlib import Path
from kasmina.bus.redis_client import RedisStreamClient

def peak():  # KiB; of rusage an interpreter inherits that of who has started it
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

async def forwards(client):
    after = "0"
    while page := await client.read("s", after=after, wait_s=WAIT):
        after = page[-1].id
        yield page
        if after == (await client.info("s")).last:
            return

async def several(client):
    after = {"s": "0", "none": "0"}
    while page := await client.read_many(after):
        after["s"] = page[-1].id
        yield page

async def backwards(client):
    before = None
    while page := await client.read_back("s", before=before):
        before = page[0].id
        yield page[::-1]

async def claimed(client):
    while page := await client.claim("s", "g", "c", idle_s=0.05):
        await client.acknowledge("s", "g", [each.id for each in page])
        yield page

async def group(client):
    left = {each.id async for page in forwards(client) for each in page}
    client._entries._sizes.clear()
    while page := await client.consume(["s"], "g", "c", wait_s=WAIT):
        yield page
        left -= {each.id for each in page}
        await client.acknowledge("s", "g", [each.id for each in page])
    while left:
        await asyncio.sleep(0.06)
        async for page in claimed(client):
            left -= {each.id for each in page}
            yield page

async def main():
    async with RedisStreamClient(URL) as client:
        await client.read("none")
        before = peak()
        sizes = [len(each.payload) async for page in WAY(client) for each in page]
        print(peak() - before)
        print(client.counters["too large"], *sizes)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("way", "wait_s"),
    [("forwards", 0.0), ("forwards", 0.1), ("several", 0), ("backwards", 0), ("group", 0.1)],
)
def test_entries_that_are_too_large_are_read_past_in_little_memory(
    large: RedisServer, way: str, wait_s: float
) -> None:
    """In a process of its own: each entry once, huge ones without payload, and in 112 MiB."""
    code = WAYS.replace("WAY(", f"{way}(").replace("WAIT", str(wait_s))
    done = run_python(code.replace("URL", repr(large.url)), timeout_s=60)
    assert (done.returncode, done.stderr) == (0, "")
    grown, counted = (line.split() for line in done.stdout.splitlines())
    skipped, *sizes = map(int, counted)
    expected = READ[::-1] if way == "backwards" else READ
    assert (sorted(sizes) if way == "group" else sizes) == (
        sorted(expected) if way == "group" else expected
    )
    assert skipped >= READ.count(0)
    assert int(grown[0]) < 112 << 10  # KiB; the huge ones are 192 MiB, and 80 is what it takes


def test_a_stream_of_large_entries_is_read_in_parts_that_fit() -> None:
    """All of ours are legal and none is missing; after the first reply none has to be cut."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url) as client:
            sent = [os.urandom(LARGEST_PAYLOAD) for _ in range(24)]
            for each in sent:
                await client.publish(S, each)
            found: list[bytes] = []
            after, pages = "0", 0
            while page := await client.read(S, after=after):
                after, pages = page[-1].id, pages + 1
                found += [each.payload for each in page]
            assert found == sent
            assert pages <= 8
            assert client.counters["too large"] == 0
            assert len(await client.read(S, count=2)) == 2

    with redis_server() as server:
        run(script(server))


def test_values_that_are_too_large_are_not_there() -> None:
    """Nobody's chunks are larger than an entry; the client can be used as before."""

    async def script(server: RedisServer) -> None:
        async with RedisStreamClient(server.url) as client:
            values = {f"k{number}": os.urandom(LARGEST_PAYLOAD) for number in range(9)}
            await client.put_many(values, expires_s=60)
            assert await client.get_many(list(values)) == list(values.values())
            server.ask("SET", "k3", b"x" * HUGE)
            found = await client.get_many(["k3"])
            assert found == [None]
            await client.put_many({"k": b"x" * CHUNK}, expires_s=60)
            assert await client.get_many(["k"]) == [b"x" * CHUNK]
            with pytest.raises(AnswerTooLarge, match="to GET: its answer has more than"):
                await client._asker.call(b"*2\r\n$3\r\nGET\r\n$2\r\nk3\r\n", name="GET")

    with redis_server() as server:
        run(script(server))


REPLY = b"*1\r\n*2\r\n$1\r\ns\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\np\r\n$3\r\nabc\r\n" + (
    b"*2\r\n$3\r\n2-0\r\n*2\r\n$1\r\np\r\n$-1\r\n:7\r\n"
)


def test_a_reply_that_is_cut_anywhere_says_what_it_says() -> None:
    """No list that lacks something is taken for a whole one; nothing of the rest is misread."""
    one, two = [b"1-0", [b"p", b"abc"]], [b"2-0", [b"p", None]]
    end = len(REPLY) - len(b":7\r\n")
    assert skim(REPLY) == [[b"s", [one, two]]]
    first = REPLY.index(b"abc\r\n") + len(b"abc\r\n")
    for at in range(4, end):
        reply = skim(REPLY[:at])
        assert isinstance(reply, list)
        entries = reply[0][1] if reply and len(reply[0]) == 2 else []
        assert whole(entries) == ([one] if at >= first else [])
        known = at >= REPLY.index(b"1-0\r\n") + len(b"1-0\r\n")
        assert first_of(entries) == ([[b"1-0", []]] if known and at < first else [])
    assert LARGEST_REPLY > 8 * LARGEST_PAYLOAD


def test_a_run_goes_on_behind_commands_that_are_too_large() -> None:
    """They are dead letters without their bytes; what was asked behind them is done."""
    with redis_server() as server:
        outside = Outside("test", partial(open_bus, server.url))
        with outside, OperatorThread(open_bus(server.url)) as operator:
            outside.start(Bed().gardener, fresh=True)
            for _ in range(3):
                server.ask("XADD", streams_of("test").commands, "*", "p", b"x" * HUGE)
            asked = operator.ask(types.Query(run="test"))
            end = time.monotonic() + 60
            while not asked.done() or outside.handler.unreadable < 3:
                assert time.monotonic() < end
                outside.after_step()
            assert isinstance(asked.result(), types.Status)
            while server.ask("XLEN", DEAD_LETTERS) != 3:
                assert time.monotonic() < end
                outside.after_step()
            assert outside.fault is None
