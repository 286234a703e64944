"""Any sequence of calls has the same answers in the process and on a server: each is the other's model."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest

from kasmina.bus.client import Delivery, Loss, MessageBusClient
from kasmina.bus.errors import NoSuchGroup
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.redis_client import RedisStreamClient
from tests.redis_servers import RedisServer, redis_server
from tests.runtime.bus.buses import run

STEPS = 60
GROUPS, CONSUMERS = ("g", "h"), ("a", "b", "c")


class Side:
    """One bus; ids are told by their place among all that were given, so that two can be compared."""

    def __init__(self, client: MessageBusClient, stream: str) -> None:
        self.client, self.stream = client, stream
        self.ids: list[str] = []
        self.losses: list[Loss] = []
        client.on_loss(self.losses.append)

    def place(self, entry_id: str | None) -> int | None:
        """The number of an id; None where it is none of ours."""
        return self.ids.index(entry_id) if entry_id in self.ids else None

    def told(self, found: list[Delivery]) -> list[tuple[int | None, bytes, int]]:
        """Deliveries with the numbers of their ids."""
        return [(self.place(each.id), each.payload, each.attempt) for each in found]

    async def do(self, name: str, *arguments: Any) -> Any:
        """One step; what is compared."""
        try:
            return await getattr(self, name)(*arguments)
        except NoSuchGroup as error:
            return str(error)

    async def publish(self, payloads: list[bytes]) -> int:
        """Append."""
        self.ids += await self.client.publish_many(self.stream, payloads)
        return len(self.ids)

    async def group(self, group: str, start: int | None) -> bool:
        """Make a group behind an entry, at the first or behind the newest."""
        known = self.ids[start % len(self.ids)] if start and self.ids else ("0" if start else "$")
        return await self.client.create_group(self.stream, group, start=known)

    async def consume(self, group: str, consumer: str, count: int) -> Any:
        """Take new ones."""
        return self.told(await self.client.consume([self.stream], group, consumer, count=count))

    async def acknowledge(self, group: str, places: list[int]) -> int:
        """Say that some are done, also such as nobody has."""
        ids = [self.ids[place % len(self.ids)] for place in places] if self.ids else ["1-1"]
        return await self.client.acknowledge(self.stream, group, ids)

    async def claim(self, group: str, consumer: str, count: int) -> Any:
        """Take over."""
        before = len(self.losses)
        found = await self.client.claim(self.stream, group, consumer, idle_s=0, count=count)
        lost = [(loss.kind, loss.group, loss.entries) for loss in self.losses[before:]]
        return self.told(found), lost

    async def pending(self, group: str) -> Any:
        """What nobody has acknowledged."""
        found = await self.client.pending(self.stream, group, count=1000)
        return [(self.place(each.id), each.consumer, each.attempt) for each in found]

    async def read(self, after: int, count: int) -> Any:
        """Look."""
        known = self.ids[after % len(self.ids)] if after and self.ids else "0"
        return self.told(await self.client.read(self.stream, after=known, count=count))

    async def trim(self, before: int) -> int:
        """Take away old ones."""
        known = self.ids[before % len(self.ids)] if self.ids else "0"
        return await self.client.trim(self.stream, before=known)

    async def remove(self, places: list[int]) -> int:
        """Take away single ones."""
        ids = [self.ids[place % len(self.ids)] for place in places] if self.ids else ["1-1"]
        return await self.client.remove(self.stream, ids)

    async def info(self) -> Any:
        """Where all stands, but for what versions of the server count differently."""
        found = await self.client.info(self.stream)
        groups = {
            name: (self.place(group.delivered), group.pending)
            for name, group in found.groups.items()
        }
        return found.length, self.place(found.first), self.place(found.last), groups


def steps(rng: random.Random) -> Iterator[tuple[Any, ...]]:
    """Calls that depend on chance alone."""
    for number in range(STEPS):
        group, consumer = rng.choice(GROUPS), rng.choice(CONSUMERS)
        places = [rng.randrange(1000) for _ in range(rng.randrange(1, 5))]
        yield rng.choice(
            (
                ("publish", [b"%d %d" % (number, k) for k in range(rng.randrange(4))]),
                ("publish", [b"%d" % number]),
                ("group", group, rng.choice((None, 0, 1, 7))),
                ("consume", group, consumer, rng.randrange(1, 6)),
                ("consume", group, consumer, rng.randrange(1, 6)),
                ("acknowledge", group, places),
                ("claim", group, consumer, rng.randrange(1, 6)),
                ("pending", group),
                ("read", rng.randrange(20), rng.randrange(1, 9)),
                ("trim", rng.randrange(1000) if rng.random() < 0.3 else 1),
                ("remove", places[:2]),
                ("info",),
            )
        )


async def agree(server: RedisServer, seeds: range) -> int:
    """Take every sequence on both; returns how many answers were not empty."""
    told = 0
    async with RedisStreamClient(server.url, watch_s=0) as client:
        for seed in seeds:
            one, other = Side(InProcessBus(), f"s{seed}"), Side(client, f"s{seed}")
            done = []
            for step in steps(random.Random(seed)):
                done.append(step)
                answers = [await side.do(*step) for side in (one, other)]
                assert answers[0] == answers[1], (seed, done)
                told += answers[0] not in ([], 0, ([], []))
    return told


@pytest.mark.parametrize("version", ["7", "6.2"])
@pytest.mark.parametrize(
    "seeds", [range(150), pytest.param(range(150, 10_000), marks=pytest.mark.long)], ids=len
)
def test_both_answer_alike(version: str, seeds: range) -> None:
    """Whatever is published, consumed, claimed, trimmed and asked, in any order."""
    with redis_server(version) as server:
        told = run(agree(server, seeds), within_s=20 + len(seeds))
        assert told > 10 * len(seeds)


def test_a_bus_that_differs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison sees a group that forgets to count attempts."""
    take_over = InProcessBus.claim

    async def forgetful(self: InProcessBus, *args: Any, **kwargs: Any) -> list[Delivery]:
        return [each._replace(attempt=1) for each in await take_over(self, *args, **kwargs)]

    monkeypatch.setattr(InProcessBus, "claim", forgetful)
    with redis_server() as server, pytest.raises(AssertionError):
        asyncio.run(agree(server, range(20)))
