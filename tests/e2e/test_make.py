"""The Makefile, as a newcomer meets it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the Makefile and what `setup` looks at, but no environment."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in `folder`, and not as a part of the make that runs the tests."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def python(folder: Path, body: str) -> str:
    """A program that answers as some Python would."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return f"PYTHON={path}"


def test_an_old_python_is_named(folder: Path) -> None:
    """The message says what is needed, what was found, and how to name another one."""
    old = python(folder, 'if [ "$1" = -V ]; then echo Python 3.9.2; else exit 1; fi')
    done = make(folder, "setup", old)
    assert done.returncode == 2
    assert "kasmina needs Python 3.11 or newer" in done.stderr
    assert "is Python 3.9.2." in done.stderr
    assert "make setup PYTHON=python3.12" in done.stderr


def test_a_missing_venv_module_is_named(folder: Path) -> None:
    """Debian splits it off; the message says which package brings it."""
    bare = python(folder, 'case "$2" in *ensurepip*) exit 1;; esac')
    done = make(folder, "setup", bare)
    assert done.returncode == 2
    assert "has no venv module" in done.stderr
    assert "apt install python3-venv" in done.stderr


def test_nothing_is_set_up_twice(folder: Path) -> None:
    """A newer constraints file sets up again; otherwise an environment that is ready stays."""
    ready = folder / ".venv" / "ready"
    ready.parent.mkdir()
    ready.touch()
    assert "Nothing to be done" in make(folder, "setup").stdout
    after = ready.stat().st_mtime + 1  # a file's time may be as coarse as a clock's tick
    os.utime(folder / "constraints.txt", (after, after))
    assert make(folder, "--question", "setup").returncode == 1


def test_plain_make_lists_the_targets(folder: Path) -> None:
    """Each with what it does."""
    lines = make(folder).stdout.splitlines()
    assert [line.split()[1] for line in lines][:3] == ["help", "setup", "grow"]
    assert all(len(line.split()) > 3 for line in lines)
