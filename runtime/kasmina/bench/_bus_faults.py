"""What is lost where servers and clients are killed or emptied under a stream."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from kasmina.bench import Row, require
from kasmina.bench._bus_server import AOF, Server
from kasmina.bus.errors import BusError
from kasmina.bus.outbox import Outbox
from kasmina.bus.redis_client import RedisStreamClient

STREAM, GROUP = "work", "workers"
MESSAGES = 600  # in three parts, a fault after the first and the second
WITHIN_S = 60.0

Fault = Callable[["Story"], Awaitable[None]]


class Story:
    """A sender that keeps what was not done, and a receiver that does it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.losses: Counter[str] = Counter()
        self.deliveries = 0
        self.done: set[str] = set()
        self.working = asyncio.Event()
        self.working.set()

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Run sender and receiver meanwhile."""
        async with self._client() as self.sender:
            self.outbox = Outbox(self.sender, STREAM, resend_s=5.0)
            again = asyncio.create_task(self.outbox.run())
            self.receiver = asyncio.create_task(self._receive("first"))
            try:
                yield
            finally:
                await _ended(again)
                await _ended(self.receiver)

    async def send(self, names: range) -> None:
        """Hand messages over."""
        for number in names:
            await self.outbox.send(str(number), b"%d" % number)

    async def kill_server(self) -> None:
        """With kill -9, and start it again."""
        self.server.kill()
        await asyncio.to_thread(self.server.start)

    async def kill_receiver(self) -> None:
        """While it holds entries; another one takes them over."""
        await _ended(self.receiver)
        self.receiver = asyncio.create_task(self._receive("second"))

    async def _receive(self, name: str) -> None:
        async with self._client() as client:
            while True:
                with suppress(BusError):
                    await client.create_group(STREAM, GROUP)
                    new = await client.consume([STREAM], GROUP, name, wait_s=0.05)
                    new += await client.claim(STREAM, GROUP, name, idle_s=0.3)
                    await self.working.wait()
                    self._do([each.payload.decode() for each in new])
                    ids = [each.id for each in new]
                    await client.acknowledge(STREAM, GROUP, ids)

    def _do(self, names: list[str]) -> None:
        self.deliveries += len(names)
        self.done.update(names)
        for name in names:
            self.outbox.done(name)

    def _client(self) -> RedisStreamClient:
        client = RedisStreamClient(self.server.url, watch_s=0.05)
        client.on_loss(lambda loss: self.losses.update([loss.kind]))
        return client


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _through(server: Server, *faults: Fault) -> Story:
    """Tell a story in which each fault strikes while entries are pending; waits for its end."""
    story = Story(server)
    part = MESSAGES // 3
    async with story.told(), asyncio.timeout(WITHIN_S):
        await story.send(range(part))
        for number, fault in enumerate(faults, start=1):
            story.working.clear()
            await story.send(range(number * part, (number + 1) * part))
            await fault(story)
            story.working.set()
        while len(story.outbox):
            await asyncio.sleep(0.01)
        if not story.losses:  # the last fault may be found a moment later
            await asyncio.sleep(0.3)
    return story


async def _flush(story: Story) -> None:
    await asyncio.to_thread(story.server.ask, "FLUSHALL")


async def _trim_pending(story: Story) -> None:
    while not await story.sender.pending(STREAM, GROUP):
        await asyncio.sleep(0.01)
    await story.kill_receiver()  # what it held is claimed by the next one
    await story.sender.trim(STREAM, before=(await story.sender.info(STREAM)).last)


def fault_rows() -> list[Row]:
    """Kills that must lose nothing, and destructive faults that must be found and told."""
    with Server(*AOF).running() as server:
        killed = asyncio.run(_through(server, Story.kill_server, Story.kill_receiver))
    destructive: dict[str, Story] = {}
    for name, kind, fault in (
        ("FLUSHALL", "wiped", _flush),
        ("entries trimmed while pending", "trimmed", _trim_pending),
        ("killed without persistence", "wiped", Story.kill_server),
    ):
        with Server().running() as server:
            destructive[name] = asyncio.run(_through(server, fault))
        require(destructive[name].deliveries > 0, f"messages came before and after: {name}")
        destructive[name].losses["found"] = int(destructive[name].losses[kind] > 0)
    found = sum(story.losses["found"] for story in destructive.values())
    missing = sum(2 * MESSAGES // 3 - len(story.done) for story in destructive.values())
    return [
        Row(
            "messages lost, server (AOF everysec) and receiver killed",
            MESSAGES - len(killed.done), "messages", 0.0, "<=",
            {"sent": MESSAGES, "sent again": killed.outbox.resent, "delivered": killed.deliveries},
        ),
        Row("destructive faults found and told, of 3", found, "faults", 3.0, ">=",
            {name: each.losses["found"] for name, each in destructive.items()}),
        Row("messages missing in the end after destructive faults", missing, "messages", 0.0,
            "<=", {"sent again": sum(each.outbox.resent for each in destructive.values())}),
    ]  # fmt: skip
