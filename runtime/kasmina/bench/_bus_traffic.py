"""Messages and events through a Redis server on this machine, beside a bare redis-py pipeline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from itertools import count

import numpy as np
import redis.asyncio

from kasmina.bench import Row, require
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import Address, Heartbeat, LayerHealth, Transition

SEEDS = 64  # of a site whose health is sent
AT_ONCE = 64  # messages in one entry
ENTRIES = 16  # in one call
EVENTS = 512  # in one call
PAYLOAD = 100  # bytes of an entry beside the floor


class _Layers:
    """Health of a site at one step after the other: each message's numbers are its own."""

    def __init__(self) -> None:
        values = np.random.default_rng(0)
        self._floats = values.standard_normal(1 << 20).astype(np.float32).tobytes()
        self._states = values.integers(0, 11, 1 << 16, np.int8).tobytes()
        self._steps = count()

    def __call__(self) -> LayerHealth:
        """The next one."""
        step = next(self._steps)
        at = 4 * (step * 3 * SEEDS % ((1 << 20) - 3 * SEEDS))
        alpha, mean, deviation, end = (at + 4 * SEEDS * part for part in range(4))
        state = step % ((1 << 16) - SEEDS)
        return LayerHealth(
            run="bench",
            epoch=step // 100,
            step=step,
            site="block.0",
            first=0,
            gradient_ratio=1 / (1 + step),
            state=self._states[state : state + SEEDS],
            epochs=bytes(2 * SEEDS),
            generation=bytes(4 * SEEDS),
            alpha=self._floats[alpha:mean],
            mean=self._floats[mean:deviation],
            deviation=self._floats[deviation:end],
            nonfinite=bytes(8 * SEEDS),
        )


async def telemetry_rows(url: str, seconds: float) -> list[Row]:
    """Made, checked, published and decoded in one process, whose core both share; the server has another."""
    stamp, layer, steps = Stamp("bench"), _Layers(), count()

    def layers() -> bytes:
        return wire.encode_many([stamp(layer()) for _ in range(AT_ONCE)])

    def beats() -> bytes:
        return wire.encode_many([stamp(_beat(next(steps))) for _ in range(4 * AT_ONCE)])

    health = await _through(url, "health", layers, seconds)
    small = await _through(url, "small", beats, seconds)
    return [
        Row("rows of seeds made, published and decoded", health * SEEDS, "1/s", 5e6, ">="),
        Row(f"distinct messages, {SEEDS} seeds each", health, "1/s", 8e4, ">="),
        Row("distinct messages, small", small, "1/s", 8e4, ">="),
    ]


async def _through(url: str, stream: str, payload: Callable[[], bytes], seconds: float) -> float:
    """Return how many messages a second go out and are decoded at the other end."""
    async with RedisStreamClient(url) as out, RedisStreamClient(url) as back:
        await back.create_group(stream, "bench")
        ids: set[str] = set()
        room = asyncio.Semaphore(8)  # calls that may be on their way
        sent = seen = 0
        begun = time.perf_counter()

        async def publish() -> None:
            nonlocal sent
            while time.perf_counter() - begun < seconds:
                await room.acquire()
                payloads = [payload() for _ in range(ENTRIES)]
                await out.publish_many(stream, payloads, keep=100 * ENTRIES)
                sent += ENTRIES

        publishing = asyncio.create_task(publish())
        while not publishing.done() or seen < sent:
            found = await back.consume([stream], "bench", "c", count=ENTRIES, wait_s=0.05)
            for each in found:
                ids.update(message.id for message in wire.decode_many(each.payload))
            await back.acknowledge(stream, "bench", [each.id for each in found])
            for _ in range((seen + len(found)) // ENTRIES - seen // ENTRIES):
                room.release()
            seen += len(found)
        await publishing
        return len(ids) / (time.perf_counter() - begun)


async def floor_rows(url: str, seconds: float) -> list[Row]:
    """Entries of a fixed size: ours, and a bare pipeline; and one by one against many at once."""
    payload = bytes(PAYLOAD)
    async with RedisStreamClient(url) as client:
        bare = redis.asyncio.Redis.from_url(url)

        async def ours() -> None:
            await client.publish_many("ours", [payload] * EVENTS, keep=10_000)

        async def pipeline() -> None:
            async with bare.pipeline(transaction=False) as commands:
                for _ in range(EVENTS):
                    commands.xadd("bare", {"p": payload}, maxlen=10_000, approximate=True)
                await commands.execute()

        async def single() -> None:
            await client.publish("ours", payload, keep=10_000)

        batch = wire.encode_many([Stamp("b")(_beat(step)) for step in range(256)])

        async def batched() -> None:
            await client.publish_many("ours", [batch] * ENTRIES, keep=10_000)

        times = {"ours": ours, "bare redis-py pipeline": pipeline}
        best = {name: await _best(work, seconds) for name, work in times.items()}
        alone = await _best(single, seconds)
        together = await _best(batched, seconds) / (256 * ENTRIES)
        await bare.aclose()
    floor = {"bare redis-py pipeline": EVENTS / best["bare redis-py pipeline"]}
    return [
        Row(f"entries of {PAYLOAD} B published", EVENTS / best["ours"], "1/s", baselines=floor),
        Row(
            "wall time of publish a message, one by one over 256 in an entry and 16 entries a call",
            alone / together,
            "x",
            100.0,
            ">=",
            {"one by one, us": 1e6 * alone, "batched, us": 1e6 * together},
        ),
    ]


def _beat(step: int) -> Heartbeat:
    return Heartbeat(run="bench", epoch=1, step=step, every=1.0, paused=False, waiting=0)


async def _best(work: Callable[[], Awaitable[None]], seconds: float) -> float:
    """Return the median time of a call, s."""
    times = []
    until = time.perf_counter() + seconds / 2
    while time.perf_counter() < until:
        begun = time.perf_counter()
        await work()
        times.append(time.perf_counter() - begun)
    return float(np.median(times))


async def event_rows(url: str, seconds: float) -> list[Row]:
    """One event an entry, on a server with an append-only file, each acknowledged by its reader."""
    stamp = Stamp("bench")
    seed = Address(site="block.0", slot=3, generation=1)
    event = Transition(
        run="bench", log=1, epoch=1, step=10, seed=seed, source="A", target="B", event="complete"
    )
    async with RedisStreamClient(url) as out, RedisStreamClient(url) as back:
        await back.create_group("events", "bench")
        sent: list[str] = []
        begun = time.perf_counter()

        async def publish() -> None:
            while time.perf_counter() - begun < seconds:
                envelopes = [stamp(event) for _ in range(EVENTS)]
                payloads = [wire.encode(envelope) for envelope in envelopes]
                await out.publish_many("events", payloads)
                sent.extend(envelope.id for envelope in envelopes)

        seen: list[str] = []
        publishing = asyncio.create_task(publish())
        while not publishing.done() or len(seen) < len(sent):
            found = await back.consume(["events"], "bench", "c", count=EVENTS, wait_s=0.05)
            seen += [wire.decode(each.payload).id for each in found]
            await back.acknowledge("events", "bench", [each.id for each in found])
        await publishing
        took = time.perf_counter() - begun
        require(seen == sent, "every event came through, once and in its order")
        require(not await back.pending("events", "bench"), "every event was acknowledged")
    return [Row("events, acknowledged, none dropped", len(seen) / took, "1/s", 3e4, ">=")]
