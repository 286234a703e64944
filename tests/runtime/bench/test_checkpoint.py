"""The benchmark of checkpoints runs, small, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from kasmina.bench import checkpoint


def test_every_target_of_the_issue_has_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is measured, not quoted, beside its baseline."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "SEEDS": 50,
        "SAVES": 5,
        "LAYERS": 1,
        "WIDTH": 64,
        "LARGE_SAVES": 2,
        "ROUNDS": 3,
    }.items():
        monkeypatch.setattr(checkpoint, name, value)
    rows = checkpoint.run()
    targets = [(row.op, row.target) for row in rows if row.target is not None]
    expected = [("<=", 3.0), ("<=", 8.0), ("<=", 2.0), (">=", 300.0)]
    whole = [(">=", 100.0)] * 2  # of kill points and of flipped bits
    assert targets == [*expected, ("<=", 0.5), ("<=", 1.0), ("<=", 1.2), *whole]
    assert all(row.value > 0 for row in rows if row.target is not None)
    kills, flips = rows[-2:]
    assert (kills.value, flips.value) == (100.0, 100.0)
    assert int(kills.name.split()[3]) >= 14
    assert not any(row.quoted for row in rows)
    assert list(tmp_path.iterdir()) == []
