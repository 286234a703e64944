"""Events from a log on disk: each at least once and in order, whatever dies."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kasmina.bus.client import Loss
from kasmina.bus.errors import BusUnavailable
from kasmina.bus.events import BadEventLog, EventPublisher
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.mock import MockMessageBusClient
from kasmina.bus.retry import Backoff
from kasmina.bus.stamping import Stamp
from kasmina.observe.log import EventLog, Position
from kasmina.observe.record import SeedKey
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import Envelope, GateEvidence, Logged, Transition


def publisher(bus: InProcessBus, folder: Path, **settings: Any) -> EventPublisher:
    """A publisher of the folder's log to the stream "events"."""
    return EventPublisher(
        bus,
        "events",
        folder / "events.jsonl",
        folder / "events.cursor",
        Stamp("test"),
        backoff=Backoff(base_s=0.001, ceiling_s=0.01),
        **settings,
    )


async def published(bus: InProcessBus) -> list[Envelope]:
    """What lies in the stream."""
    return [wire.decode(each.payload) for each in await bus.read("events", count=100_000)]


def notes(log: EventLog, count: int) -> None:
    """Append so many events."""
    for _ in range(count):
        log.append("limit", epoch=0, step=0, name="n", value=1.0)


async def drain(each: EventPublisher) -> int:
    """Publish all there is."""
    sent = 0
    while count := await each.pump():
        sent += count
    return sent


def test_events_become_their_messages(tmp_path: Path) -> None:
    """Transitions and evidence typed, all others as they stand; a NaN is a NaN again."""
    edge: dict[str, Any] = {"from": "A", "to": "B", "event": "e", "edge": 4, "effects": []}
    block, root = SeedKey("block.0", 3, 1), SeedKey("", 0, 0)  # the latter is the whole model
    with EventLog(tmp_path / "events.jsonl", "digits-7", clock=lambda: 5.0) as log:
        log.append("transition", epoch=2, step=40, address=block, **edge, reason=None)
        log.append(
            "evidence",
            epoch=3,
            step=50,
            address=block,
            measure="integral",
            value=float("nan"),
            interval=[-0.5, float("inf")],
            terms=9,
        )
        log.append("limit", epoch=3, step=50, name="x", value=0.5)
        log.append("transition", epoch=4, step=60, address=root, **edge, reason="no room: the site")
        log.append("transition", epoch=4, step=60, address=block, **edge, reason="r" * 3000)

    async def main() -> None:
        bus = InProcessBus()
        assert await drain(publisher(bus, tmp_path)) == 5
        transition, evidence, limit, *others = await published(bus)
        assert isinstance(transition.body, Transition)
        assert (transition.producer, transition.sequence, transition.time) == ("digits-7", 0, 5.0)
        assert (transition.body.source, transition.body.target) == ("A", "B")
        assert (transition.body.seed.site, transition.body.seed.slot) == ("block.0", 3)
        assert (transition.body.log, transition.body.epoch, transition.body.step) == (0, 2, 40)
        assert isinstance(evidence.body, GateEvidence)
        assert evidence.body.value != evidence.body.value
        assert (evidence.body.low, evidence.body.high) == (-0.5, float("inf"))
        assert isinstance(limit.body, Logged)
        assert limit.body.event == "limit"
        assert limit.body.line == (tmp_path / "events.jsonl").read_text().splitlines()[2]
        for other in others:  # the message has no room for such a site, nor for such a reason
            assert isinstance(other.body, Logged)
            assert other.body.event == "transition"

    asyncio.run(main())


def test_nothing_is_lost_while_the_bus_is_away(tmp_path: Path) -> None:
    """300 events, a bus that fails two calls of three, before or after it stored them."""
    log = EventLog(tmp_path / "events.jsonl", "r")
    rng, failed = Random(0), 0

    async def main() -> None:
        bus = InProcessBus()
        publish = bus.publish_many

        async def unreliable(*arguments: Any, **settings: Any) -> list[str]:
            nonlocal failed
            fault = rng.choice(("before", "after", "none"))
            failed += fault != "none"
            if fault == "before":
                raise BusUnavailable("not sent")
            ids = await publish(*arguments, **settings)
            if fault == "after":
                raise BusUnavailable("the answer got lost")
            return ids

        bus.publish_many = unreliable  # type: ignore[method-assign]
        each = publisher(bus, tmp_path, batch=7, poll_s=0.01)
        log.subscribe(each.notify)
        task = asyncio.create_task(each.run())
        writer = threading.Thread(target=notes, args=(log, 300))
        writer.start()
        await asyncio.to_thread(writer.join)
        while each.lag_bytes:
            await asyncio.sleep(0.01)
        each.stop()
        await task
        found = [envelope.sequence for envelope in await published(bus)]
        assert len(found) > 300
        first = [n for at, n in enumerate(found) if n not in found[:at]]
        assert first == list(range(300))
        ids = {(e.producer, e.id) for e in await published(bus)}
        assert len(ids) == 300
        assert failed > 30

    asyncio.run(main())


def test_a_process_that_dies_publishes_twice_and_never_skips(tmp_path: Path) -> None:
    """At any line: between publishing and moving the cursor."""
    log = EventLog(tmp_path / "events.jsonl", "r")
    notes(log, 40)

    async def main() -> None:
        bus = InProcessBus()
        first = publisher(bus, tmp_path, batch=10)
        assert await first.pump() == 10
        saved = (tmp_path / "events.cursor").read_bytes()
        assert await first.pump() == 10
        (tmp_path / "events.cursor").write_bytes(saved)
        assert await drain(publisher(bus, tmp_path, batch=10)) == 30
        found = [envelope.sequence for envelope in await published(bus)]
        assert found == [*range(20), *range(10, 40)]

    asyncio.run(main())


@pytest.mark.parametrize("cursor", [b"", b"{}x", b'{"start": 9, "end": 3, "digest": ""}', b"\xff"])
def test_a_cursor_that_cannot_be_read_begins_anew(tmp_path: Path, cursor: bytes) -> None:
    """What it knew is published twice."""
    notes(EventLog(tmp_path / "events.jsonl", "r"), 3)
    (tmp_path / "events.cursor").write_bytes(cursor)

    async def main() -> None:
        assert await drain(publisher(InProcessBus(), tmp_path)) == 3

    asyncio.run(main())


def test_a_log_that_was_cut_back_is_sent_again(tmp_path: Path) -> None:
    """Lines that are the same have the same id; the new ones have another."""
    path = tmp_path / "events.jsonl"
    log = EventLog(path, "r", clock=lambda: 1.0)
    notes(log, 5)
    position = log.sync()
    notes(log, 5)
    log.close()

    async def main() -> None:
        bus = InProcessBus()
        each = publisher(bus, tmp_path)
        assert await drain(each) == 10
        resumed = EventLog(path, "r", clock=lambda: 2.0, at=Position(*position))
        notes(resumed, 7)
        assert await drain(each) == 12
        assert each.restarts == 1
        found = await published(bus)
        assert [e.id for e in found[:5]] == [e.id for e in found[10:15]]
        assert not {e.id for e in found[5:10]} & {e.id for e in found[15:]}
        assert await drain(publisher(bus, tmp_path)) == 0

    asyncio.run(main())


def test_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    """Half of a line is not published."""
    path = tmp_path / "events.jsonl"
    notes(EventLog(path, "r"), 2)
    whole = path.read_bytes()

    async def main() -> None:
        bus = InProcessBus()
        each = publisher(bus, tmp_path)
        assert await each.pump() == 2
        line = whole.splitlines(keepends=True)[1].replace(b'"seq":1', b'"seq":2')
        with path.open("ab") as file:
            file.write(line[:20])
        assert await each.pump() == 0
        with path.open("ab") as file:
            file.write(line[20:])
        assert await each.pump() == 1

    asyncio.run(main())


def test_a_line_of_several_megabytes_goes_by_claim_check(tmp_path: Path) -> None:
    """It is read whole, though longer than what is read at a time."""
    log = EventLog(tmp_path / "events.jsonl", "r")
    log.append("limit", epoch=0, step=0, name="x" * 900_000, value=1.0)
    log.append("limit", epoch=0, step=0, name="x" * 3_000_000, value=1.0)
    notes(log, 1)

    async def main() -> None:
        bus = InProcessBus()
        each = publisher(bus, tmp_path)
        assert await drain(each) == 3
        found = [await each._claims.read(d.payload) for d in await bus.read("events")]
        lines = (tmp_path / "events.jsonl").read_text().splitlines()
        assert [e.body.line for e in found if isinstance(e.body, Logged)] == lines

    asyncio.run(main())


@pytest.mark.parametrize("line", [b"nonsense", b"[]", b'{"run": 1}', b"\xff", b"[" * 100_000])
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: bytes) -> None:
    """With file and byte; what stood before it was not published either, nor is the cursor moved."""
    path = tmp_path / "events.jsonl"
    notes(EventLog(path, "r"), 1)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(line + b"\n")

    async def main() -> None:
        each = publisher(InProcessBus(), tmp_path, batch=1)
        assert await each.pump() == 1
        with pytest.raises(BadEventLog) as refused:
            await each.pump()
        assert str(refused.value).startswith(f"{path}, byte {size}: no event of a log: ")
        assert each.lag_bytes == len(line) + 1

    asyncio.run(main())


def test_a_log_that_does_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    """The publisher may start before the run."""

    async def main() -> None:
        bus = InProcessBus()
        each = publisher(bus, tmp_path, poll_s=0.01)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(0.05)
        assert each.lag_bytes == 0
        notes(EventLog(tmp_path / "events.jsonl", "r"), 4)
        while len(await published(bus)) < 4:
            await asyncio.sleep(0.01)
        each.stop()
        await task

    asyncio.run(main())


def test_another_bus_is_told_everything(tmp_path: Path) -> None:
    """The cursor on the disk counts only where the bus holds the entry that it was saved for."""
    log = EventLog(tmp_path / "events.jsonl", "r")
    notes(log, 5)

    async def main() -> None:
        one, other = InProcessBus(), InProcessBus()
        assert await drain(publisher(one, tmp_path)) == 5
        again = publisher(one, tmp_path)
        assert await drain(again) == 0
        assert again.restarts == 0
        assert await drain(publisher(other, tmp_path)) == 5
        back = publisher(one, tmp_path)  # the cursor is of the other one
        assert await drain(back) == 5
        assert back.restarts == 1
        assert len({each.id for each in await published(one)}) == 5

    asyncio.run(main())


@pytest.mark.parametrize("keep", [1, 3, 4, 5, 6])
def test_of_a_long_log_what_the_stream_keeps_is_sent(tmp_path: Path, keep: int) -> None:
    """A publisher that begins anew sends no more than that; a torn line is none."""
    log = EventLog(tmp_path / "events.jsonl", "r")
    notes(log, 1)
    log.append("limit", epoch=0, step=0, name="x" * 2_000_000, value=1.0)  # several reads
    notes(log, 3)
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"torn')

    async def main() -> None:
        bus = InProcessBus()
        kept = EventPublisher(
            bus, "events", tmp_path / "events.jsonl", None, Stamp("test"), keep=keep
        )
        assert await drain(kept) == min(keep, 5)
        found = [await kept._claims.read(each.payload) for each in await bus.read("events")]
        assert [each.sequence for each in found] == list(range(5))[-keep:]
        assert not list(tmp_path.glob("*.cursor"))  # it was told to keep none

    asyncio.run(main())


def test_what_a_server_lost_is_sent_again(tmp_path: Path) -> None:
    """By the client's word alone, without another look at the log; losses of others change nothing."""
    notes(EventLog(tmp_path / "events.jsonl", "r"), 3)

    async def main() -> None:
        bus = InProcessBus()
        each = publisher(bus, tmp_path)
        assert await drain(each) == 3
        for loss, again in (
            (Loss("wiped", "others", None, None, "told"), 0),
            (Loss("trimmed", "events", None, None, "told"), 0),
            (Loss("rolled back", "events", None, None, "told"), 3),
            (Loss("wiped", None, None, None, "told"), 3),
        ):
            bus._ledger.lost(loss)
            assert await drain(each) == again
        assert each.restarts == 2
        assert {e.sequence for e in await published(bus)} == {0, 1, 2}

    asyncio.run(main())


def test_events_that_come_together_go_together(tmp_path: Path) -> None:
    """Each wakes the publisher; a moment later all of them are one call of the client."""
    log = EventLog(tmp_path / "events.jsonl", "r")

    async def main() -> None:
        bus = MockMessageBusClient()
        each = publisher(bus, tmp_path, poll_s=60.0, gather_s=1.0)
        log.subscribe(each.notify)
        task = asyncio.create_task(each.run())
        await asyncio.sleep(0.01)
        for _ in range(10):
            notes(log, 1)
            await asyncio.sleep(0)
        while len(await bus.published("events")) < 10:
            await asyncio.sleep(0.01)
        assert len([call for call in bus.calls if call.method == "publish_many"]) == 1
        each.stop()
        await task

    asyncio.run(main())
