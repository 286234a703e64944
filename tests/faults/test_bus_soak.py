"""A client that works for long holds no more at the end than at the beginning."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kasmina.bus.client import MessageBusClient
from kasmina.bus.errors import BusError
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.redis_client import RedisStreamClient
from tests.redis_servers import RedisServer, redis_server
from tests.runtime.bus.buses import run

S, G = "stream", "group"
MORE_KIB = 8 * 1024  # that the allocator may keep; a leak of one entry a round is 30 times as much


def memory_kib() -> int:
    """Resident memory of this process."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


def descriptors() -> int:
    """Open files and sockets of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def work(client: MessageBusClient, until: float) -> int:
    """Publish, consume, acknowledge, wait in vain, be cancelled; returns how many rounds."""
    rounds = 0
    while time.monotonic() < until:
        rounds += 1
        with suppress(BusError):
            await client.publish_many(S, [bytes(1000)] * 20, keep=1000)
            found = await client.consume([S], G, "c", count=20, wait_s=0.01)
            await client.acknowledge(S, G, [delivery.id for delivery in found])
            await client.put_many({"claim": bytes(10_000)}, expires_s=0.1)
            await client.claim(S, G, "c", idle_s=1)
        waiting = asyncio.create_task(client.consume([S], G, "c", wait_s=5))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError, BusError):
            await waiting
    return rounds


async def soak(client: MessageBusClient, seconds: float, server: RedisServer | None) -> int:
    """Work, warm up first, with the server emptied and killed in between; hold what is held."""
    async with client:
        await client.create_group(S, G)
        await work(client, time.monotonic() + seconds / 4)
        memory, files, tasks = memory_kib(), descriptors(), len(asyncio.all_tasks())
        rounds = 0
        for part in range(3):
            rounds += await work(client, time.monotonic() + seconds / 4)
            if server is not None and part == 0:
                server.ask("FLUSHALL")
            elif server is not None and part == 1:
                server.kill()
                server.start()
        await client.drain()
        await asyncio.sleep(0.1)
        assert memory_kib() - memory < MORE_KIB
        assert descriptors() <= files + 2
        assert len(asyncio.all_tasks()) <= tasks
        return rounds


@pytest.mark.parametrize("seconds", [4.0, pytest.param(600.0, marks=pytest.mark.long)])
def test_a_client_of_a_server_stays_as_small_as_it_was(seconds: float) -> None:
    """Memory, descriptors and tasks; through cancelled calls, a wipe and a kill."""
    with redis_server() as server:
        client = RedisStreamClient(server.url, watch_s=0.05)
        rounds = run(soak(client, seconds, server), within_s=2 * seconds + 60)
        assert rounds > 20 * seconds
        assert client.counters["reconnects"] >= 1
        assert client.counters["lost: wiped"] >= 2


@pytest.mark.parametrize("seconds", [2.0, pytest.param(600.0, marks=pytest.mark.long)])
def test_a_bus_in_the_process_stays_as_small_as_it_was(seconds: float) -> None:
    """What is kept is bounded, and so is what has expired."""
    bus = InProcessBus(limit_bytes=4 << 20)
    rounds = run(soak(bus, seconds, None), within_s=2 * seconds + 60)
    assert rounds > 20 * seconds
