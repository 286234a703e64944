"""The bench of packed telemetry, on a small network."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise

import pytest

from kasmina.bench import IncorrectResult, _bus_codec
from kasmina.bus.frames import HealthFrame
from kasmina.bus.packing import Precision


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 seeds in the place of 10,000."""
    for name, value in {"SEEDS": 200, "WIDTH": 4, "FRAMES": 16, "SINGLES": 5, "ROUNDS": 2}.items():
        monkeypatch.setattr(_bus_codec, name, value)


def test_every_row_is_a_number_beside_its_target() -> None:
    """Size, error, speed and overhead."""
    rows = _bus_codec.codec_rows()
    assert [(row.target, row.op) for row in rows] == [
        (3.0, ">="),
        (4.5, ">="),
        (5e6, ">="),
        (100.0, ">="),
    ]
    assert all(math.isfinite(row.value) and row.value > 0 for row in rows)


def test_the_row_through_a_server_counts_what_came_through() -> None:
    """On the bus of the process as on any other."""
    row = asyncio.run(_bus_codec.packed_through(None))
    assert (row.target, row.op) == (5e6, ">=")
    assert 0 < row.value < math.inf


def test_a_codec_that_breaks_its_bound_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its speed would mean nothing."""
    unpacked = _bus_codec._unpacked

    def broken(payloads: list[bytes]) -> list[HealthFrame]:
        found = unpacked(payloads)
        found[3].columns["mean"][7] += 0.01
        return found

    monkeypatch.setattr(_bus_codec, "_unpacked", broken)
    with pytest.raises(IncorrectResult, match=r"errors stay within 0\.0"):
        _bus_codec.codec_rows()


def test_every_active_seed_changes_in_every_frame() -> None:
    """Else the compression of all active seeds would be that of idle ones."""
    frames = _bus_codec._recorded()
    for before, after in pairwise(frames):
        for name, column in after.items():
            assert (column != before[name]).mean() > 0.99
    still = _bus_codec._with_dormant(frames, 0.7)
    moving = (still[5]["mean"] != still[0]["mean"]).mean()
    assert 0.2 < moving < 0.4
    assert Precision("bounded", _bus_codec.BOUND).bound == 1e-3
