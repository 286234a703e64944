"""What is left when processes on a real server die in the middle of their work."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest

from kasmina.bus.claims import ClaimMissing, ClaimStore
from kasmina.bus.client import FIRST, LARGEST_PAYLOAD, Delivery
from kasmina.bus.commands import CommandHandler
from kasmina.bus.dead_letters import DeadLetterQueue
from kasmina.bus.frames import HealthFrame
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.stamping import Stamp
from kasmina.bus.telemetry import TelemetryPublisher, TelemetryReader
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import Accepted, Applied, Envelope, Germinate, Target
from tests.helpers import run_python
from tests.redis_servers import redis_server
from tests.runtime.bus.buses import run

POISON = b"c 2"

CONSUMER = """
import asyncio, os
from pathlib import Path
from kasmina.bus.attempts import Attempts
from kasmina.bus.consumer import Consumer, Label
from kasmina.bus.dead_letters import DeadLetterQueue
from kasmina.bus.deduplication import MessageDeduplicator, MessageKey
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.retry import Backoff

async def main():
    file = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    done = MessageDeduplicator()
    for line in Path({path!r}).read_text().splitlines():
        if line.startswith("did "):
            done.remember(MessageKey("p", line[4:]), None)

    async def handle(delivery):
        text = delivery.payload.decode()
        if delivery.payload == {poison!r}:
            os.write(file, f"died of {{text}}\\n".encode())
            os._exit(9)
        await asyncio.sleep(0.001)
        os.write(file, f"did {{text}}\\n".encode())

    async with RedisStreamClient({url!r}) as client:
        dead = DeadLetterQueue(client, "dead")
        attempts = Attempts(handle, dead, backoff=Backoff(attempts=3, base_s=0.01))
        consumer = Consumer(
            client, ["work"], "group", "me", attempts, done=done,
            label=lambda d: Label(d.payload.decode()[0], MessageKey("p", d.payload.decode())),
        )
        task = asyncio.create_task(consumer.run())
        while True:
            await asyncio.sleep(0.02)
            group = (await client.info("work")).groups.get("group")
            pending = await client.pending("work", "group")
            last = (await client.info("work")).last
            if group is not None and not pending and group.delivered == last:
                break
        consumer.stop()
        await task

asyncio.run(main())
"""


def test_a_message_that_kills_its_process_is_given_up_after_its_attempts(tmp_path: Path) -> None:
    """Three processes die of it on a real server; all other messages have their effect once."""
    path = tmp_path / "effects"
    sent = [f"{key} {n}".encode() for n in range(6) for key in "abcdef"]
    with redis_server() as server:
        client = RedisStreamClient

        async def publish() -> None:
            async with client(server.url) as bus:
                await bus.publish_many("work", sent)

        run(publish())
        code = CONSUMER.format(path=str(path), poison=POISON, url=server.url)
        ends: list[int] = []
        while not ends or ends[-1] != 0:
            assert len(ends) < 8
            ends.append(run_python(code).returncode)
        assert ends == [9, 9, 9, 0]

        async def letters() -> list[tuple[bytes, int, str]]:
            async with client(server.url) as bus:
                found = [entry.letter for entry in await DeadLetterQueue(bus, "dead").list()]
                return [(each.payload, each.attempts, each.cause) for each in found if each]

        told = "given out 3 times, and whoever had it never came back"
        assert run(letters()) == [(POISON, 3, told)]
    lines = path.read_text().splitlines()
    assert lines.count("died of c 2") == 3
    did = [line[4:].encode() for line in lines if line.startswith("did ")]
    assert Counter(did) == Counter(set(sent) - {POISON})
    for key in b"abcdef":
        mine = [each for each in did if each[0] == key]
        assert mine == sorted(mine)


PUBLISHER = """
import asyncio, sys, threading, time
from pathlib import Path
from kasmina.bus.events import EventPublisher
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.stamping import Stamp
from kasmina.observe.log import EventLog

def write(log, over):
    while not over.is_set():
        log.append("limit", epoch=0, step=0, name="n", value=1.0)
        time.sleep(0.0002)

async def main():
    folder = Path({folder!r})
    log = EventLog(folder / "events.jsonl", "r")
    async with RedisStreamClient({url!r}) as client:
        publisher = EventPublisher(
            client, "events", folder / "events.jsonl", folder / "cursor", Stamp("p"), batch=20
        )
        log.subscribe(publisher.notify)
        over = threading.Event()
        writer = threading.Thread(target=write, args=(log, over), daemon=True)
        writer.start()
        print("up", flush=True)
        task = asyncio.create_task(publisher.run())
        await asyncio.sleep({seconds})
        over.set()
        writer.join()
        publisher.stop()
        await task

asyncio.run(main())
"""


def test_no_event_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    """Kill -9 at four random moments: every line of the log is in the stream, in order."""
    rng = Random(0)
    with redis_server() as server:
        for life in range(5):
            seconds = 0.3 if life == 4 else 60
            code = PUBLISHER.format(folder=str(tmp_path), url=server.url, seconds=seconds)
            child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            if life < 4:
                try:
                    child.wait(0.1 + 0.3 * rng.random())
                except subprocess.TimeoutExpired:
                    child.send_signal(signal.SIGKILL)
            assert child.wait(60) == (0 if life == 4 else -signal.SIGKILL)
            child.stdout.close()

        async def published() -> list[Envelope]:
            async with RedisStreamClient(server.url) as bus:
                after, found = FIRST, list[Envelope]()
                while page := await bus.read("events", after=after):
                    found += [wire.decode(each.payload) for each in page]
                    after = page[-1].id
                return found

        found = run(published())
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    seen: dict[str, int] = {}
    for each in found:
        seen.setdefault(each.id, each.sequence)
    assert list(seen.values()) == list(range(len(lines)))
    assert len(lines) > 200


@pytest.mark.parametrize("version", ["7", "6.2"])
def test_commands_telemetry_and_claims_go_through_a_server(version: str) -> None:
    """The same code as in the process, on both levels of servers."""

    async def main(url: str) -> None:
        async with RedisStreamClient(url) as mine, RedisStreamClient(url) as theirs:
            stamp, operator = Stamp("run"), Stamp("operator")
            handler = CommandHandler(
                mine, "commands", "replies", stamp, run="r", check=lambda command: None
            )
            task = asyncio.create_task(handler.run())
            sent = operator(Germinate(run="r", target=Target(site="a", slot=1)))
            payload = wire.encode(sent)
            await theirs.publish_many("commands", [payload, payload])
            while not (requests := handler.take()):
                await asyncio.sleep(0.01)
            handler.settle(requests[0], Applied(run="r", epoch=1, step=2))
            replies: list[Delivery] = []
            while len(replies) < 3:
                after = replies[-1].id if replies else FIRST
                replies += await theirs.read("replies", after=after, wait_s=2.0)
            bodies = [wire.decode(each.payload).body for each in replies]
            assert [type(body) for body in bodies] == [Accepted, Accepted, Applied]
            assert handler.position == (await mine.info("commands")).last
            await theirs.trim("commands", before=handler.position)
            assert (await theirs.info("commands")).length == 1
            handler.stop()
            await task

            publisher = TelemetryPublisher(mine, "health", stamp)
            noise = np.random.default_rng(0).normal(size=1_000_000).astype(np.float32)
            publisher.offer(HealthFrame("r", "a", 0, 1, {"mean": noise}))
            await publisher.flush()
            reader = TelemetryReader(ClaimStore(theirs))
            (entry,) = await theirs.read("health")
            assert len(entry.payload) < LARGEST_PAYLOAD
            (frame,) = await reader.read(entry.payload)
            assert frame.columns["mean"].tobytes() == noise.tobytes()
            store = ClaimStore(mine, expires_s=0.05)
            ticket = await store.put(os.urandom(200_000))
            await asyncio.sleep(0.2)
            with pytest.raises(ClaimMissing):
                await ClaimStore(theirs, clock=lambda: 0.0).get(ticket)

    with redis_server(version) as server:
        run(main(server.url))
