"""What tests of several rooms of the runtime share."""

from __future__ import annotations

import pytest

from kasmina.kernels import tiles


@pytest.fixture
def short_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 rows instead of 64: the interpreter goes through what is not finite row by row."""
    monkeypatch.setattr(tiles, "nearest", lambda *_: tiles.Tiles(rows=16))
