"""The benchmark of the bus measures what it says, on a server of its own."""

from __future__ import annotations

import asyncio
import socket
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from kasmina.bench import (
    Row,
    _bus_faults,
    _bus_killed,
    _bus_latency,
    _bus_server,
    _bus_step,
    _bus_traffic,
    bus,
)
from kasmina.errors import UsageError
from kasmina.growth.outside import Outside


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


@pytest.fixture
def few_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 in the place of 10,000, and few blocks."""
    for name, value in {"SEEDS": 200, "BLOCKS": 10, "HAND_OVERS": 3}.items():
        monkeypatch.setattr(_bus_step, name, value)


@pytest.mark.usefixtures("few_seeds")
def test_the_growth_of_a_step_is_that_by_the_clock() -> None:
    """In us and as a share of the step, with its interval, and the CPU time beside it."""
    with _bus_server.server() as url:
        growth, share, idle, due = _bus_step.step_rows(url)
    parts = growth.baselines
    assert parts["95% interval, from"] <= growth.value <= parts["to"]
    assert (growth.target, share.target) == (50.0, 1.0)
    assert share.value == pytest.approx(100 * growth.value / parts["step without a bus, us"])
    assert parts["CPU of the bus's threads, us"] > 0
    assert idle.value > 0
    assert due.value > 0


@pytest.mark.usefixtures("few_seeds")
def test_what_the_bus_costs_by_the_clock_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hand-over that waits takes no CPU time, and shows in the row all the same."""
    tell = Outside._tell

    def slow(outside: Outside) -> None:
        tell(outside)
        time.sleep(0.02)

    monkeypatch.setattr(Outside, "_tell", slow)
    with _bus_server.server() as url:
        training = _bus_step._Training()
        cost, _ = _bus_step._cost(training, url, 10, training.block(None).wall / _bus_step.STEPS)
    assert cost.wall > 10_000
    assert cost.between + cost.others < cost.wall


def test_the_tenths_at_both_ends_do_not_count() -> None:
    """A step in which another program took the core says nothing; a tenth of them would."""
    middle, low, high = _bus_step._middle(np.array([*[-1e6] * 5, *[10.0] * 50, *[1e6] * 5]))
    assert middle == 10.0
    assert low <= middle <= high
    assert _bus_step._middle(np.array([*[10.0] * 40, *[110.0] * 20]))[0] > 30.0


def test_faults_strike_and_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each destructive one is found, and what it took was sent again."""
    monkeypatch.setattr(_bus_faults, "MESSAGES", 90)
    rows = _bus_faults.fault_rows()
    assert [(row.value, row.met) for row in rows] == [(0, True), (3, True), (0, True)]
    assert rows[2].baselines["sent again"] > 0


def test_a_killed_run_does_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed three times and sent every command often, it comes to one effect of each."""
    monkeypatch.setattr(_bus_killed, "ROUNDS", 1)
    twice, lost = _bus_killed.killed_rows()
    commands = 3 * 2 * _bus_killed.PART
    assert [(row.value, row.met) for row in (twice, lost)] == [(0, True), (0, True)]
    assert (twice.baselines["commands"], twice.baselines["kills"]) == (commands, 3)
    assert twice.baselines["copies"] > commands
    assert lost.baselines == {"answered": commands, "missing of all": 0}


def test_a_run_that_forgets_is_found_to_do_things_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row can fail: what was done before a checkpoint and is sent again is done again."""
    monkeypatch.setattr(_bus_killed, "ROUNDS", 1)
    killed = _bus_killed.killed(remembers=False)
    assert killed.twice > 0
    assert killed.missing == killed.lost == 0


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

    for name in ("step_rows", "codec_rows", "fault_rows", "killed_rows"):
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
    assert len(seen) == 7


def test_percentiles_are_of_all_commands_of_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was slow counts as any other, and each kind begins as often as the other."""
    asked: list[str] = []

    def latencies(url: str, kind: str, seconds: float) -> NDArray[np.float64]:
        asked.append(kind)
        return np.full(100, 5.0 if asked.count(kind) == 2 else 1.0)

    monkeypatch.setattr(bus, "latencies", latencies)
    assert bus._percentiles("url", 1.0, 3) == {
        kind: {50: 1.0, 99: 5.0} for kind in ("bare", "ours")
    }
    assert asked == ["ours", "bare", "bare", "ours", "ours", "bare"]


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
