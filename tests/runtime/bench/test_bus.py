"""The benchmark of the bus measures what it says, on a server of its own."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import pytest

from kasmina.bench import Row, _bus_faults, _bus_latency, _bus_server, _bus_step, _bus_traffic, bus
from kasmina.errors import UsageError


def test_messages_events_and_entries_come_through() -> None:
    """Each figure is of something that arrived; all of them have the names of their targets."""
    with _bus_server.server() as url:
        rows = asyncio.run(_bus_traffic.telemetry_rows(url, 0.2))
        rows += asyncio.run(_bus_traffic.floor_rows(url, 0.2))
        rows += asyncio.run(_bus_traffic.event_rows(url, 0.2))
    assert all(row.value > 0 for row in rows)
    targets = {row.target for row in rows}
    assert targets == {5e6, 8e4, 3e4, 100.0, None}


@pytest.mark.parametrize("kind", ["ours", "bare"])
def test_every_command_is_answered(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process of its own; what warms up is left out."""
    monkeypatch.setattr(_bus_latency, "WARM_UP", 20)
    with _bus_server.server() as url:
        found = _bus_latency.latencies(url, kind, 0.1)
    assert len(found) == 100
    assert (found > 0).all()


def test_what_it_costs_a_step_is_of_runs_that_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round with the bus has sent a frame; the parts of the bound stand beside it."""
    for name, value in {"SEEDS": 200, "HAND_OVERS": 3}.items():
        monkeypatch.setattr(_bus_step, name, value)
    with _bus_server.server() as url:
        most, share, idle, due = _bus_step.step_rows(url, 0.1)
    parts = most.baselines
    bound = parts["between steps, us"] + parts["CPU of the bus's threads, us"]
    assert most.value == pytest.approx(bound)
    assert (most.target, share.target) == (50.0, 1.0)
    assert share.value == pytest.approx(100 * bound / parts["step without a bus, us"])
    assert idle.value > 0
    assert due.value > 0


def test_faults_strike_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each destructive one is found; entries came more than once or again, and effects did not."""
    monkeypatch.setattr(_bus_faults, "MESSAGES", 90)
    rows = _bus_faults.fault_rows()
    assert [(row.value, row.met) for row in rows] == [(0, True), (3, True), (0, True), (0, True)]
    assert rows[2].baselines["sent again"] > 0


def test_it_measures_every_target_of_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one run; the rows of commands are beside a bare client and under a flood."""
    seen: list[object] = []

    def rows(*arguments: object) -> list[Row]:
        seen.append(arguments)
        return []

    async def later(*arguments: object) -> list[Row]:
        return rows(*arguments)

    async def one(url: str) -> Row:
        return Row("packed", 1.0, "1/s")

    for name in ("step_rows", "codec_rows", "fault_rows"):
        monkeypatch.setattr(bus, name, rows)
    for name in ("telemetry_rows", "floor_rows", "event_rows"):
        monkeypatch.setattr(bus, name, later)
    monkeypatch.setattr(bus, "packed_through", one)
    monkeypatch.setattr(bus, "COMMAND_SECONDS", 1.0)
    found = bus.run(quick=True)
    assert [row.name for row in found[1:]] == [
        "command to acknowledgement at 1k/s, p50",
        "command to acknowledgement at 1k/s, p50, over a bare client",
        "command to acknowledgement at 1k/s, p99",
        "command to acknowledgement at 1k/s, p99, over a bare client",
        "p99 under a telemetry flood and a 5 MB claim-check at 18 Hz, over quiet",
    ]
    assert [row.target for row in found[1:]] == [1.0, 2.0, 3.0, 2.0, 2.0]
    assert len(seen) == 6


def test_the_server_is_gone_afterwards() -> None:
    """Also its port."""
    with _bus_server.server() as url:
        port = urlsplit(url).port
        assert port
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_without_a_server_on_the_machine_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On Debian by apt."""
    monkeypatch.setenv("PATH", "")
    with (
        pytest.raises(UsageError, match="apt install redis-server"),
        _bus_server.server(),
    ):
        pass
