"""How long a command and its acknowledgement take, by our client and by a bare one.

Each side is a process of its own, as an operator's and a run's are: the asker sends commands at a
steady rate and notes when their answers come; the answerer reads each and answers it.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any
from uuid import uuid4

import numpy as np
import redis.asyncio
from numpy.typing import NDArray

from kasmina.bus.claims import ClaimStore
from kasmina.bus.commands import CommandHandler
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import Accepted, Applied, Cancel, Target

RATE = 1000.0  # commands a second
WARM_UP = 200
LONGEST_START_S = 30.0
FLOOD_PAYLOAD, CLAIM = 1 << 14, 5_000_000
STEP_S = 0.01  # of the run that applies
SPAWN = multiprocessing.get_context("spawn")


def latencies(url: str, kind: str, seconds: float) -> NDArray[np.float64]:
    """Return the time from command to answer of each command, ms.

    Args:
        url: of the server.
        kind: "ours" or "bare".
        seconds: how long commands are sent.
    """
    answer, ask = (_answer_ours, _ask_ours) if kind == "ours" else (_answer_bare, _ask_bare)
    name, count = f"{kind}-{uuid4().hex}", int(seconds * RATE) + WARM_UP
    with _process(_run, answer, url, name), ProcessPoolExecutor(1, SPAWN) as another:
        found = another.submit(_asked, ask, url, name, count).result()
    return 1e3 * np.asarray(found[WARM_UP:])


def _asked(
    ask: Callable[[str, str, int], Coroutine[Any, Any, list[float]]],
    url: str,
    name: str,
    count: int,
) -> list[float]:
    """In a process of its own, as the benchmark's has a heap that takes long to look through."""
    return asyncio.run(ask(url, name, count))


@contextmanager
def flood(url: str) -> Iterator[None]:
    """Let another process publish telemetry, and a claim-check of 5 MB eighteen times a second."""
    with _process(_run, _flood, url, "flood"):
        time.sleep(0.5)
        yield


def _run(work: Callable[[str, str], Coroutine[Any, Any, None]], url: str, name: str) -> None:
    asyncio.run(work(url, name))


@contextmanager
def _process(run: Callable[..., None], *arguments: object) -> Iterator[BaseProcess]:
    process = SPAWN.Process(target=run, args=arguments, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join()


async def _answer_ours(url: str, name: str) -> None:
    """As a run does: accepted by the loop, and applied by another thread between its steps."""
    async with RedisStreamClient(url) as client:
        handler = CommandHandler(
            client,
            f"{name}/commands",
            f"{name}/answers",
            Stamp("run"),
            run="r",
            check=lambda command: None,
        )
        Thread(target=_apply, args=(handler,), daemon=True).start()
        await handler.run()


def _apply(handler: CommandHandler) -> None:
    while True:
        time.sleep(STEP_S)
        for request in handler.take():
            handler.settle(request, Applied(run="r", epoch=0, step=0))


async def _ask_ours(url: str, name: str, count: int) -> list[float]:
    stamp = Stamp("ctl")
    clock = _Clock(count)
    async with RedisStreamClient(url) as client:

        async def listen() -> None:
            after = "0"
            while not clock.over:
                for each in await client.read(f"{name}/answers", after=after, wait_s=5):
                    after = each.id
                    answer = wire.decode(each.payload)
                    if isinstance(answer.body, Accepted):
                        clock.stop(str(answer.correlation))

        async def send() -> None:
            command = stamp(Cancel(run="r", target=Target(site="block.0", slot=1)))
            clock.start(command.id)
            await client.publish(f"{name}/commands", wire.encode(command), keep=100_000)

        await _steadily(send, listen, clock)
    return clock.took


async def _answer_bare(url: str, name: str) -> None:
    client: Any = redis.asyncio.Redis.from_url(url, protocol=2, socket_timeout=None)
    after = b"0"
    while True:
        found = await client.xread({f"{name}/commands": after}, count=512, block=5000)
        for entry_id, fields in [entry for _, entries in found or () for entry in entries]:
            after = entry_id
            await client.xadd(f"{name}/answers", fields)


async def _ask_bare(url: str, name: str, count: int) -> list[float]:
    client: Any = redis.asyncio.Redis.from_url(url, protocol=2, socket_timeout=None)
    listener: Any = redis.asyncio.Redis.from_url(url, protocol=2, socket_timeout=None)
    clock = _Clock(count)
    numbers = itertools.count()

    async def listen() -> None:
        after = b"0"
        while not clock.over:
            found = await listener.xread({f"{name}/answers": after}, count=512, block=5000)
            for entry_id, fields in [entry for _, entries in found or () for entry in entries]:
                after = entry_id
                clock.stop(fields[b"p"].decode())

    async def send() -> None:
        number = str(next(numbers))
        clock.start(number)
        await client.xadd(f"{name}/commands", {"p": number})

    await _steadily(send, listen, clock)
    await client.aclose()
    await listener.aclose()
    return clock.took


class _Clock:
    """When each command was sent, and how long its answer took, s."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.took: list[float] = []
        self._sent: dict[str, float] = {}

    @property
    def over(self) -> bool:
        return len(self.took) >= self.count

    def start(self, name: str) -> None:
        self._sent[name] = time.perf_counter()

    def stop(self, name: str) -> None:
        self.took.append(time.perf_counter() - self._sent.pop(name))


async def _steadily(
    send: Callable[[], Coroutine[Any, Any, None]],
    listen: Callable[[], Coroutine[Any, Any, None]],
    clock: _Clock,
) -> None:
    """Send at a steady rate, from the first answer on, and wait until all answers have come."""
    loop = asyncio.get_running_loop()
    listener = loop.create_task(listen())
    await send()
    async with asyncio.timeout(LONGEST_START_S):
        while not clock.took:
            await asyncio.sleep(0.01)
    sending: set[asyncio.Task[None]] = set()
    begun = loop.time()
    for number in range(clock.count - 1):
        await asyncio.sleep(max(0.0, begun + number / RATE - loop.time()))
        task = loop.create_task(send())
        sending.add(task)
        task.add_done_callback(sending.discard)
    await asyncio.wait_for(listener, LONGEST_START_S)


async def _flood(url: str, kind: str) -> None:
    payload, large = bytes(FLOOD_PAYLOAD), os.urandom(CLAIM)

    async def telemetry(client: RedisStreamClient) -> None:
        while True:
            await client.publish_many(f"{kind}/telemetry", [payload] * 8, keep=1000)
            await asyncio.sleep(1 / 100)

    async def claims(store: ClaimStore) -> None:
        while True:
            begun = time.monotonic()
            await store.put(large)
            await asyncio.sleep(max(0.0, 1 / 18 - (time.monotonic() - begun)))

    async with RedisStreamClient(url) as one, RedisStreamClient(url) as other:
        await asyncio.gather(telemetry(one), claims(ClaimStore(other, expires_s=10)))
