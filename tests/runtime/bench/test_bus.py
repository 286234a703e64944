"""The benchmark of the bus measures what it says, on a server of its own."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import pytest

from kasmina.bench import _bus_latency, _bus_server, bus
from kasmina.errors import UsageError


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every figure take a moment only."""
    monkeypatch.setattr(bus, "SECONDS", 0.2)


def test_messages_events_and_entries_come_through() -> None:
    """Each figure is of something that arrived; all of them have the names of their targets."""
    with _bus_server.server() as url:
        rows = [*asyncio.run(bus._telemetry(url)), *asyncio.run(bus._floor(url))]
        rows += asyncio.run(bus._events(url))
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
