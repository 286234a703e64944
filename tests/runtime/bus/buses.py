"""A bus of each kind, empty, for the contract that they all keep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from kasmina.bus.client import MessageBusClient
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.mock import MockMessageBusClient
from kasmina.bus.redis_client import RedisStreamClient
from tests.redis_servers import redis_server

T = TypeVar("T")


class Bus:
    """A bus that can be opened by many clients and be emptied behind their backs."""

    def __init__(self, client: Callable[[], MessageBusClient], wipe: Callable[[], object]) -> None:
        self.client, self.wipe = client, wipe


@contextmanager
def in_process(kind: type[InProcessBus] = InProcessBus) -> Iterator[Bus]:
    """A bus of this process; each client is a peer of the first."""
    first = kind()
    yield Bus(
        lambda: kind(broker=first.broker),
        lambda: asyncio.run(first.wipe()) if not _running() else first.broker.wipe(),
    )


def _running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def on_redis(version: str) -> Iterator[Bus]:
    """A bus on a server of its own."""
    with redis_server(version) as server:
        yield Bus(
            lambda: RedisStreamClient(server.url, watch_s=0.05), lambda: server.ask("FLUSHALL")
        )


BUSES: dict[str, Callable[[], AbstractContextManager[Bus]]] = {
    "in process": in_process,
    "mock": lambda: in_process(MockMessageBusClient),
    "redis 7": lambda: on_redis("7"),
    "redis 6.2": lambda: on_redis("6.2"),
}


def run(script: Awaitable[T], *, within_s: float = 30.0) -> T:
    """Run what a test does on a loop of its own, for a bounded time."""

    async def bounded() -> T:
        return await asyncio.wait_for(script, within_s)

    return asyncio.run(bounded())


async def until(holds: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait until something holds; fail where it does not in time."""
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)
