"""What all fault tests share."""

from __future__ import annotations

import pytest

from kasmina.checkpoint import memory
from tests.faults.killing import PIECE


@pytest.fixture(autouse=True)
def several_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small checkpoints take several writes, as large ones do."""
    monkeypatch.setattr(memory, "PIECE", PIECE)
