"""The benchmark of the sites, on small sizes."""

from __future__ import annotations

import pytest

from kasmina.bench import sites


def test_it_checks_and_then_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """One figure a dormant model with the target, one a share of active seeds with the loop."""
    monkeypatch.setattr(sites, "BUILDS", 1)
    monkeypatch.setattr(sites, "SEEDS", 8)
    monkeypatch.setattr(sites, "SHARES", (0, 50))
    rows = sites.run()
    dormant, active = rows[:2], rows[2:]
    assert [row.target for row in dormant] == [2.0, 2.0]
    assert [row.name for row in active] == [
        "0% of 8 seeds active, forward",
        "50% of 8 seeds active, forward",
    ]
    assert all(row.value > 0 and row.target is None for row in active)
    assert all("Python loop over chunks, us" in row.baselines for row in active)
