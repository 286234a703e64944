"""What the monitor tells, in its three forms."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kasmina.bus.client import StreamInfo
from kasmina.bus.errors import BusUnavailable
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.monitor import BUCKETS_S, MessageBusMonitor
from kasmina.bus.retry import BadSetting
from tests.runtime.bus.virtual import now, run


def clock() -> float:
    """Virtual seconds since 1970."""
    return 1e9 + now()


def scrape(monitor: MessageBusMonitor) -> dict[tuple[str, ...], float]:
    """All samples of the text by name and labels, as Prometheus reads them."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(monitor.text())
        for sample in family.samples
    }


async def watched() -> tuple[InProcessBus, MessageBusMonitor]:
    """A stream of 10 entries of which a group was given 6 and has done 4."""
    bus = InProcessBus(clock=clock)
    monitor = MessageBusMonitor(bus, [("work", "group"), ("work", "none")], clock=clock)
    await bus.publish_many("work", [b"x"] * 10)
    await bus.create_group("work", "group")
    given = await bus.consume(["work"], "group", "me", count=6)
    await bus.acknowledge("work", "group", [each.id for each in given[:4]])
    return bus, monitor


def test_prometheus_gets_lag_pending_counts_rates_and_latencies() -> None:
    """In text that its own parser reads."""

    async def main() -> None:
        bus, monitor = await watched()
        dropped = 0
        monitor.watch("commands waiting", lambda: 3)
        monitor.count("telemetry dropped", lambda: dropped)
        for seconds in (0.0004, 0.002, 0.002, 1000.0):
            monitor.observe("applied", seconds)
        await monitor.sample()
        dropped = 50
        await bus.publish_many("work", [b"x"] * 20)
        await asyncio.sleep(10)
        await monitor.sample()
        found = scrape(monitor)
        assert found["kasmina_bus_up",] == 1
        assert found["kasmina_bus_length", "group", "work"] == 30
        assert found["kasmina_bus_lag", "group", "work"] == 24
        assert found["kasmina_bus_pending", "group", "work"] == 2
        assert found["kasmina_bus_consumers", "group", "work"] == 1
        assert found["kasmina_bus_lag", "none", "work"] == 30
        assert found["kasmina_bus_total", "published"] == 30
        assert found["kasmina_bus_rate", "published"] == 2.0
        assert found["kasmina_bus_total", "telemetry dropped"] == 50
        assert found["kasmina_bus_rate", "telemetry dropped"] == 5.0
        assert found["kasmina_bus_value", "commands waiting"] == 3
        name = "kasmina_bus_latency_seconds"
        assert found[f"{name}_count", "applied"] == 4
        assert found[f"{name}_bucket", "0.0005", "applied"] == 1
        assert found[f"{name}_bucket", "0.002", "applied"] == 3
        assert found[f"{name}_bucket", "300.0", "applied"] == 3
        assert found[f"{name}_bucket", "+Inf", "applied"] == 4

    run(main())


def test_a_json_line_holds_the_same() -> None:
    """One line, with its end."""

    async def main() -> None:
        _, monitor = await watched()
        monitor.observe("accepted", 0.004)
        await asyncio.sleep(2)
        await monitor.sample()
        line = monitor.json_line()
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        plain = json.loads(line)
        assert (plain["time"], plain["up"]) == (1e9 + 2, True)
        assert plain["groups"][0] == {
            "stream": "work", "group": "group", "length": 10, "lag": 4, "pending": 2, "consumers": 1
        }  # fmt: skip
        assert plain["rates"]["published"] == 5.0
        latency = plain["latencies"]["accepted"]
        assert (latency["count"], latency["sum"]) == (1.0, 0.004)
        assert len(latency) == 2 + len(BUCKETS_S) + 1

    run(main())


def test_the_log_gets_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """And a warning for every loss that the client finds."""

    async def main() -> None:
        bus, monitor = await watched()
        await asyncio.sleep(1)
        await monitor.sample()
        with caplog.at_level(logging.INFO, logger="kasmina.bus.monitor"):
            monitor.log()
            await bus.wipe()
            await bus.consume(["work"], "group", "me")
        assert caplog.messages[0].startswith(
            "bus up; work/group lag 4 pending 2, work/none lag 10 "
        )
        assert "published 10/s" in caplog.messages[0]
        assert caplog.messages[1].startswith("the bus has lost something (wiped): ")
        assert caplog.records[1].levelname == "WARNING"

    run(main())


def test_a_bus_that_is_away_is_told_as_such() -> None:
    """What is known here is told all the same, and the monitor goes on."""

    async def main() -> None:
        bus, monitor = await watched()
        info, told = bus.info, list[bool]()

        async def away(stream: str) -> StreamInfo:
            raise BusUnavailable("away")

        task = asyncio.create_task(monitor.run(1.0, lambda each: told.append(each.last.up)))
        monitor.watch("waiting", lambda: 7.0)
        await asyncio.sleep(1.5)
        bus.info = away  # type: ignore[method-assign]
        await asyncio.sleep(2)
        assert scrape(monitor)["kasmina_bus_up",] == 0
        assert scrape(monitor)["kasmina_bus_value", "waiting"] == 7
        bus.info = info  # type: ignore[method-assign]
        await asyncio.sleep(1)
        task.cancel()
        assert told == [True, True, False, False, True]

    run(main())


def test_series_are_bounded() -> None:
    """A label per seed ends in `other`: 10,000 names make no more than 64 series each."""

    async def main() -> None:
        bus = InProcessBus(clock=clock)
        groups = [(f"seed {n}", "group") for n in range(200)]
        monitor = MessageBusMonitor(bus, groups, clock=clock)
        for seed in range(10_000):
            monitor.observe(f"seed {seed}", 0.001)
        await monitor.sample()
        found = scrape(monitor)
        counts = [key for key in found if key[0] == "kasmina_bus_latency_seconds_count"]
        assert len(counts) == 64 + 1
        assert found["kasmina_bus_latency_seconds_count", "other"] == 10_000 - 64
        assert len([key for key in found if key[0] == "kasmina_bus_lag"]) == 64

    run(main())


def test_there_is_room_for_a_series() -> None:
    """The message names setting, value and range."""
    settings: dict[str, Any] = {"series": 0}
    with pytest.raises(BadSetting, match="MessageBusMonitor: series is 0; it is 1 or more"):
        MessageBusMonitor(InProcessBus(), **settings)
