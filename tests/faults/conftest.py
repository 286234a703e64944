"""What all fault tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kasmina.checkpoint import memory
from tests.faults.bus_runs import Shell, Told, shell
from tests.faults.killing import PIECE
from tests.redis_servers import RedisServer


@pytest.fixture(autouse=True)
def several_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small checkpoints take several writes, as large ones do."""
    monkeypatch.setattr(memory, "PIECE", PIECE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with an append-only file."""
    (tmp_path / "redis").mkdir()
    found = RedisServer(tmp_path / "redis", appendonly="yes", appendfsync="everysec").start()
    yield found
    found.stop()


@pytest.fixture
def tell(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The command line, on the server."""

    def run(*arguments: str) -> Told:
        return shell([*arguments, "--bus", server.url], capsys)

    return run
