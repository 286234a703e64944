"""Telemetry on virtual time: batches, pressure, outages, and what the reader gets."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import numpy as np
import pytest

from kasmina.bus.claims import ClaimMissing, ClaimStore
from kasmina.bus.client import LARGEST_PAYLOAD
from kasmina.bus.errors import BusUnavailable
from kasmina.bus.frames import BadHealth, HealthFrame
from kasmina.bus.health import MissingKeyframe
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.packing import Precision
from kasmina.bus.retry import Backoff, BadSetting
from kasmina.bus.stamping import Stamp
from kasmina.bus.telemetry import TelemetryConfig, TelemetryPublisher, TelemetryReader
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import ClaimCheck, Pause, TelemetryBatch
from tests.runtime.bus.virtual import now, run


def clock() -> float:
    """Virtual seconds since 1970."""
    return 1e9 + now()


def frame(step: int, *, site: str = "a", seeds: int = 100) -> HealthFrame:
    """One column of 4 bytes a seed; its numbers tell the step."""
    return HealthFrame("run", site, 0, step, {"mean": np.full(seeds, step, np.float32)})


def publisher(bus: InProcessBus, **settings: Any) -> TelemetryPublisher:
    """A publisher to the stream "health"."""
    config = TelemetryConfig(**settings)
    return TelemetryPublisher(
        bus, "health", Stamp("test"), config=config, backoff=Backoff(jitter=0.0)
    )


async def batches(bus: InProcessBus) -> list[TelemetryBatch]:
    """What lies in the stream."""
    found = [wire.decode(each.payload).body for each in await bus.read("health")]
    return [each for each in found if isinstance(each, TelemetryBatch)]


async def steps(bus: InProcessBus) -> dict[str, list[int]]:
    """The steps that a reader gets, by site; each frame is checked."""
    reader, found = TelemetryReader(ClaimStore(bus, clock=clock)), dict[str, list[int]]()
    for delivery in await bus.read("health"):
        for each in await reader.read(delivery.payload):
            assert (each.columns["mean"] == each.step).all()
            found.setdefault(each.site, []).append(each.step)
    return found


def test_a_batch_goes_by_count_bytes_or_time() -> None:
    """Whichever comes first."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        each = publisher(bus, batch_frames=4, batch_bytes=4000, batch_s=2.0)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(0)
        for step in range(4):
            each.offer(frame(step))
        await asyncio.sleep(0.1)
        assert [batch.messages for batch in await batches(bus)] == [4]
        for step in range(4, 6):
            each.offer(frame(step, seeds=600))
        await asyncio.sleep(0.1)
        assert [batch.messages for batch in await batches(bus)] == [4, 1, 1]
        each.offer(frame(6))
        await asyncio.sleep(1.5)
        assert len(await batches(bus)) == 3
        await asyncio.sleep(1)
        assert len(await batches(bus)) == 4
        each.offer(frame(7))
        each.stop()
        await task
        assert (await steps(bus))["a"] == list(range(8))
        assert each.sent == 8

    run(main())


def test_sites_and_shapes_have_their_own_batches() -> None:
    """Deltas never cross them."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        each = publisher(bus)
        for step in range(3):
            each.offer(frame(step))
            each.offer(frame(step, site="b"))
            each.offer(frame(step, site="c", seeds=100 + step))
        await each.flush()
        found = [(batch.stream, batch.messages) for batch in await batches(bus)]
        assert found == [("run/a", 3), ("run/b", 3), *[("run/c", 1)] * 3]
        assert await steps(bus) == {site: [0, 1, 2] for site in "abc"}

    run(main())


def test_pressure_drops_the_oldest_and_says_how_many() -> None:
    """A flood of 1,000 frames while the bus is away: memory is bounded, each drop is told once."""

    async def main() -> None:
        bus, away = InProcessBus(clock=clock), True
        publish = bus.publish_many

        async def unreliable(*arguments: Any, **settings: Any) -> list[str]:
            if away:
                raise BusUnavailable("away")
            return await publish(*arguments, **settings)

        bus.publish_many = unreliable  # type: ignore[method-assign]
        each = publisher(bus, batch_frames=8, limit_bytes=20 * 400)
        task = asyncio.create_task(each.run())
        for step in range(1000):
            each.offer(frame(step, site="ab"[step % 2]))
            assert each.waiting <= 20
            await asyncio.sleep(0.01)
        assert each.outages.count > 3
        away = False
        await asyncio.sleep(10)
        each.stop()
        await task
        told = dict.fromkeys(("run/a", "run/b"), 0)
        for batch in await batches(bus):
            told[batch.stream] += batch.dropped
        found = await steps(bus)
        for site in "ab":
            lost = each.dropped["run", site, 0]
            assert told[f"run/{site}"] == lost > 400
            assert len(found[site]) == 500 - lost
            assert found[site] == sorted(found[site])
            assert found[site][-1] >= 998

    run(main())


def test_a_flush_that_failed_is_sent_again_from_a_keyframe() -> None:
    """Nobody knows whether it arrived, so no delta may count on it; twice is harmless."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        publish, lost = bus.publish_many, 1

        async def unreliable(*arguments: Any, **settings: Any) -> list[str]:
            nonlocal lost
            ids = await publish(*arguments, **settings)
            if lost:
                lost -= 1
                raise BusUnavailable("the answer got lost")
            return ids

        bus.publish_many = unreliable  # type: ignore[method-assign]
        each = publisher(bus)
        each.offer(frame(0))
        with pytest.raises(BusUnavailable):
            await each.flush()
        each.offer(frame(1))
        await each.flush()
        each.offer(frame(2))
        await each.flush()
        found = [batch.frame - batch.keyframe for batch in await batches(bus)]
        assert found == [0, 0, 1]
        assert (await steps(bus))["a"] == [0, 0, 1, 2]

    run(main())


def test_drops_of_a_site_without_frames_are_told_later() -> None:
    """The count waits for the site's next batch."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        each = publisher(bus, limit_bytes=400)
        each.offer(frame(0, site="a"))
        each.offer(frame(0, site="b"))
        await each.flush()
        each.offer(frame(1, site="a"))
        await each.flush()
        assert [(b.stream, b.dropped) for b in await batches(bus)] == [("run/b", 0), ("run/a", 1)]

    run(main())


def test_a_batch_over_a_mebibyte_goes_by_claim_check() -> None:
    """5 MB of noise; a reader without the bytes is told, and reads on at the next keyframe."""

    async def main() -> None:
        bus, noise = InProcessBus(clock=clock), np.random.default_rng(0)
        each = publisher(bus, key_every=2)
        for step in range(3):
            column = noise.normal(size=1_250_000).astype(np.float32)
            each.offer(HealthFrame("run", "a", 0, step, {"mean": column}))
            await each.flush()
        entries = await bus.read("health")
        assert all(len(entry.payload) < LARGEST_PAYLOAD for entry in entries)
        tickets = [wire.decode(entry.payload).body for entry in entries]
        reader = TelemetryReader(ClaimStore(bus, clock=clock))
        assert isinstance(tickets[0], ClaimCheck)
        assert tickets[0].size > 4_000_000
        await bus.put_many({f"{tickets[0].name}.0": b""}, expires_s=0.0)
        with pytest.raises(ClaimMissing):
            await reader.read(entries[0].payload)
        with pytest.raises(MissingKeyframe):
            await reader.read(entries[1].payload)
        (found,) = await reader.read(entries[2].payload)
        assert found.columns["mean"].tobytes() == column.tobytes()

    run(main())


def test_the_bound_is_in_the_message() -> None:
    """The stated one, and it holds."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        each = publisher(bus, precision=Precision("bounded", 1e-3))
        column = np.random.default_rng(0).normal(size=100).astype(np.float32)
        each.offer(HealthFrame("run", "a", 0, 0, {"mean": column}))
        await each.flush()
        (batch,) = await batches(bus)
        assert (batch.precision, batch.bound) == ("bounded", 1e-3)
        reader = TelemetryReader(ClaimStore(bus, clock=clock))
        (found,) = await reader.read((await bus.read("health"))[0].payload)
        assert np.abs(found.columns["mean"].astype("f8") - column).max() <= 1e-3

    run(main())


def test_frames_may_come_from_many_threads() -> None:
    """All arrive, those of a thread in their order; after the end nobody is hurt."""
    bus = InProcessBus()
    each = publisher(bus, batch_frames=16, batch_s=0.05)

    def offer(site: str) -> None:
        for step in range(200):
            each.offer(frame(step, site=site, seeds=3))

    async def main() -> dict[str, list[int]]:
        task = asyncio.create_task(each.run())
        threads = [threading.Thread(target=offer, args=(site,)) for site in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        each.stop()
        await task
        reader, found = TelemetryReader(ClaimStore(bus)), dict[str, list[int]]()
        for delivery in await bus.read("health", count=10_000):
            for got in await reader.read(delivery.payload):
                found.setdefault(got.site, []).append(got.step)
        return found

    assert asyncio.run(main()) == {site: list(range(200)) for site in "abcd"}
    each.offer(frame(0))
    each.stop()


def test_a_stream_that_keeps_little_stays_small() -> None:
    """Telemetry is trimmed by the publisher; its reader goes on at a keyframe."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        each = publisher(bus, keep=5, key_every=4)
        for step in range(50):
            each.offer(frame(step))
            await each.flush()
        assert (await bus.info("health")).length <= 10
        assert len(await batches(bus)) >= 5

    run(main())


def test_what_holds_no_health_is_refused() -> None:
    """A command in the stream, and bytes that are no message."""

    async def main() -> None:
        reader = TelemetryReader(ClaimStore(InProcessBus(clock=clock), clock=clock))
        with pytest.raises(BadHealth, match="a message of kind Pause holds no health of seeds"):
            await reader.read(wire.encode(Stamp("test")(Pause(run="r"))))
        with pytest.raises(wire.MessageRefused):
            await reader.read(b"\xc1")

    run(main())


def test_a_frame_that_cannot_be_packed_is_refused_where_it_is_offered() -> None:
    """The training thread hears of it, and nothing waits."""
    each = publisher(InProcessBus())
    with pytest.raises(BadHealth, match="column 'mean' is float16"):
        each.offer(HealthFrame("run", "a", 0, 0, {"mean": np.zeros(3, np.float16)}))
    assert each.waiting == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_frames": 0}, "TelemetryConfig: batch_frames is 0; it is 1 or more"),
        ({"limit_bytes": 0}, "TelemetryConfig: limit_bytes is 0; it is 1 or more"),
        ({"batch_s": 0.0}, "TelemetryConfig: batch_s is 0.0; it is more than 0 seconds"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: Any, message: str) -> None:
    """The message names setting, value and range."""
    with pytest.raises(BadSetting) as refused:
        TelemetryConfig(**settings)
    assert str(refused.value) == message


def test_hostile_batches_stop_nobody() -> None:
    """Each is refused for itself, and the next good one is read."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        each = publisher(bus)
        each.offer(frame(0))
        await each.flush()
        (good,) = await batches(bus)
        reader = TelemetryReader(ClaimStore(bus, clock=clock))
        for bad in (
            msgspec.structs.replace(good, data=b"\x91" * 100_000),
            msgspec.structs.replace(good, size=1 << 30),
            msgspec.structs.replace(good, keyframe=5),
        ):
            with pytest.raises(BadHealth):
                await reader.read(wire.encode(Stamp("test")(bad)))
        (found,) = await reader.read(wire.encode(Stamp("test")(good)))
        assert found.step == 0

    run(main())
