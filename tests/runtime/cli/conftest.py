"""The command in this process, for tests of what it prints and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kasmina.cli import main

Kasmina = Callable[..., tuple[int, str, str]]


@pytest.fixture
def kasmina(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Kasmina:
    """Run the command in this process; give its exit code, output and errors."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
