"""Alarms and losses, on a bus that fails as it is told."""

from __future__ import annotations

import asyncio

import pytest

from kasmina.bus.client import Delivery, Loss
from kasmina.bus.errors import BusClosed, BusRejected, BusUnavailable
from kasmina.bus.lease import LeaseLost
from kasmina.bus.mock import MockMessageBusClient
from kasmina.bus.names import DEAD_LETTERS
from kasmina.bus.stamping import Stamp
from kasmina.growth.alarms import AGAIN_S, MOST, Alarms, Losses
from kasmina.growth.earlier import _when
from kasmina.growth.steadily import steadily
from kasmina.growth.unread import LARGEST, Unread
from kasmina_generated.messages import types, wire

BEAT = types.Heartbeat(run="run", epoch=3, step=40, every=1.0, paused=False, waiting=0)


class Clock:
    """Monotonic seconds."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


async def told(bus: MockMessageBusClient) -> list[types.Alarm]:
    """Alarms on the bus."""
    bodies = [wire.decode(each.payload).body for each in await bus.read("events", count=5000)]
    return [each for each in bodies if isinstance(each, types.Alarm)]


def test_an_alarm_is_told_once_in_a_while_and_waits_for_the_bus(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the log at once; where the run stands is told as well. Of too many the oldest go."""

    async def work() -> None:
        bus, clock = MockMessageBusClient(), Clock()
        alarms = Alarms(bus, "events", Stamp("run"), "run", clock=clock)
        for _ in range(3):
            alarms.sound("critical", "commands", "WRONGTYPE")
        alarms.sound("critical", "commands", "OOM")
        assert [each.getMessage() for each in caplog.records] == [
            "run run: commands: WRONGTYPE",
            "run run: commands: OOM",
        ]
        bus.fail("publish_many", BusUnavailable("away"))
        await alarms.send(BEAT)
        assert await told(bus) == []
        await alarms.send(BEAT)
        assert [(e.severity, e.what, e.detail, e.epoch, e.step) for e in await told(bus)] == [
            ("critical", "commands", "WRONGTYPE", 3, 40),
            ("critical", "commands", "OOM", 3, 40),
        ]
        clock.now = AGAIN_S + 1
        alarms.sound("critical", "commands", "WRONGTYPE")
        assert alarms.count == 3
        for number in range(2 * MOST):
            alarms.sound("notice", "x", str(number))
        await alarms.send(BEAT)
        details = [each.detail for each in await told(bus)]
        assert details[2:] == [str(number) for number in range(MOST, 2 * MOST)]

    asyncio.run(work())


def test_what_both_clients_find_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A server that was emptied twice is told twice, whoever finds it first."""
    one, other = MockMessageBusClient(), MockMessageBusClient()
    losses = Losses(Alarms(one, "events", Stamp("run"), "run"), one, other)
    wiped = Loss("wiped", None, None, 7, "all is gone")
    one._ledger.lost(wiped)
    other._ledger.lost(wiped)
    assert (losses.count, losses.entries) == (1, 7)
    other._ledger.lost(wiped)
    one._ledger.lost(wiped)
    assert losses.count == 2
    one._ledger.lost(Loss("rolled back", "replies", None, 3, "some are gone"))
    assert (losses.count, losses.entries) == (3, 17)
    assert "all is gone (7 entries that this process knew)" in caplog.records[0].getMessage()


def test_an_unreadable_command_waits_for_the_bus_and_a_large_one_is_not_kept() -> None:
    """Nothing of it is kept twice."""

    async def work() -> None:
        bus = MockMessageBusClient()
        unread = Unread(bus, "run")
        unread.put(Delivery("commands", "1-0", b"x"), ValueError("why"))
        unread.put(Delivery("commands", "1-1", b"x" * (LARGEST + 1)), ValueError("why"))
        bus.fail("publish_many", BusRejected("no"))
        await unread.send()
        assert await bus.read(DEAD_LETTERS) == []
        await unread.send()
        await unread.send()
        (letter,) = await bus.read(DEAD_LETTERS)
        body = wire.decode(letter.payload).body
        assert isinstance(body, types.DeadLetter)
        assert (body.entry, body.cause, body.reader) == ("1-0", "ValueError: why", "run")
        assert unread.not_kept == 1

    asyncio.run(work())


def test_a_part_is_begun_again_whatever_ended_it(caplog: pytest.LogCaptureFixture) -> None:
    """Until it succeeds, or all is ending; who is not the run any more tries nothing."""

    async def work() -> None:
        alarms = Alarms(MockMessageBusClient(), "events", Stamp("run"), "run")
        left: list[Exception] = [OSError("disk full"), BusRejected("WRONGTYPE"), KeyError("bug")]

        async def part() -> None:
            if left:
                raise left.pop(0)

        await steadily("events", part, alarms, ending=lambda: False)
        assert [each.getMessage() for each in caplog.records] == [
            "run run: events: OSError('disk full'); it is tried again until it succeeds",
            "run run: events: WRONGTYPE; it is tried again until it succeeds",
            "run run: events: KeyError('bug'); it is tried again until it succeeds",
        ]
        for error, ending in (
            (LeaseLost("another"), False),
            (BusClosed("shut"), False),
            (OSError("late"), True),
        ):
            left.append(error)
            with pytest.raises(type(error)):
                await steadily("events", part, alarms, ending=lambda: ending)  # noqa: B023
        assert alarms.count == 3

    asyncio.run(work())


def test_since_when_commands_may_be_lost_is_told_where_it_is_known() -> None:
    """By the clock of the ids; somebody may have given one that is no time."""
    assert _when("1718000000999-3") == "2024-06-10 06:13:20 UTC"
    assert _when(f"{2**64 - 1}-0") == f"entry {2**64 - 1}-0"
