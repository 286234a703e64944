"""What the message bus does through a Redis server: every target of its table, in one run."""

from __future__ import annotations

import asyncio

import numpy as np
from numpy.typing import NDArray

from kasmina.bench import Row, benchmark
from kasmina.bench._bus_codec import codec_rows, packed_through
from kasmina.bench._bus_faults import fault_rows
from kasmina.bench._bus_killed import killed_rows
from kasmina.bench._bus_latency import flood, latencies
from kasmina.bench._bus_server import AOF, server
from kasmina.bench._bus_step import step_rows
from kasmina.bench._bus_traffic import event_rows, floor_rows, telemetry_rows

SECONDS = 2.0  # of each figure of traffic
COMMAND_SECONDS, RUNS = 2.0, 5  # of a run of commands, ours and bare in turn
QUICK = 0.15  # of the time


@benchmark("bus")
def run(*, quick: bool = False) -> list[Row]:
    """Messages, events, commands and faults through a Redis server on this machine; what it costs a run."""
    share = QUICK if quick else 1.0
    with server() as url:
        rows = asyncio.run(telemetry_rows(url, share * SECONDS))
        rows.append(asyncio.run(packed_through(url)))
        rows += asyncio.run(floor_rows(url, share * SECONDS))
    with server(*AOF) as url:
        rows += asyncio.run(event_rows(url, share * SECONDS))
    with server() as url:
        rows += _commands(url, share * COMMAND_SECONDS, 1 if quick else RUNS)
    with server() as url:
        rows += step_rows(url, share)
    return [*rows, *codec_rows(), *fault_rows(), *killed_rows()]


def _commands(url: str, seconds: float, runs: int) -> list[Row]:
    """Quiet and flooded, ours and bare in turn."""
    rows: list[Row] = []
    quiet = _percentiles(url, seconds, runs)
    for at in (50, 99):
        bare = {"bare redis-py": quiet["bare"][at]}
        name = f"command to acknowledgement at 1k/s, p{at}"
        rows.append(Row(name, quiet["ours"][at], "ms", {50: 1.0, 99: 3.0}[at], "<=", bare))
        ratio = quiet["ours"][at] / quiet["bare"][at]
        rows.append(Row(f"{name}, over a bare client", ratio, "x", 2.0))
    with flood(url):
        flooded = _percentiles(url, seconds, runs)
    ratio = flooded["ours"][99] / quiet["ours"][99]
    beside = {
        "flooded, ms": flooded["ours"][99],
        "bare, flooded, ms": flooded["bare"][99],
        "bare, flooded over quiet": flooded["bare"][99] / quiet["bare"][99],
    }
    name = "p99 under a telemetry flood and a 5 MB claim-check at 18 Hz, over quiet"
    return [*rows, Row(name, ratio, "x", 2.0, "<=", beside)]


def _percentiles(url: str, seconds: float, runs: int) -> dict[str, dict[int, float]]:
    """Of all commands of all runs together; each run begins with the other kind."""
    found: dict[str, list[NDArray[np.float64]]] = {"bare": [], "ours": []}
    for run in range(runs):
        for kind in ("bare", "ours") if run % 2 else ("ours", "bare"):
            found[kind].append(latencies(url, kind, seconds))
    return {
        kind: {at: float(np.percentile(np.concatenate(each), at)) for at in (50, 99)}
        for kind, each in found.items()
    }
