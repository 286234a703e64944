"""`kasmina spec build --watch`, as one uses it: in a process of its own, with a real Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue

import pytest

from kasmina.cli.watch import watch
from kasmina.errors import KasminaError
from tests.generator.specs import DOOR, spoil, write
from tests.helpers import run_cli

# A process that was started in the background ignores Ctrl-C, and so do its children.
CALL = """\
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from kasmina.cli import main
sys.exit(main())
"""


class Watching:
    """A watching process and what it says."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [
            sys.executable,
            "-u",
            "-c",
            CALL,
            "spec",
            "build",
            *map(str, arguments),
            "--watch",
        ]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.lines: Queue[str] = Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))

    def close(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.wait()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def until(self, text: str, timeout_s: float = 60.0) -> list[str]:
        """Return the lines up to the first one that holds `text`."""
        found: list[str] = []
        end = time.monotonic() + timeout_s
        while not found or text not in found[-1]:
            try:
                found.append(self.lines.get(timeout=max(0.1, end - time.monotonic())))
            except Empty:
                raise AssertionError(f"waited for {text!r}; was told {found}") from None
        return found


@pytest.fixture
def door(tmp_path: Path) -> Iterator[tuple[Path, Watching]]:
    """A door that is watched, with a template."""
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "name.md.jinja").write_text("{{ spec.name }}\n")
    spec = write(tmp_path, DOOR)
    watching = Watching(spec, "--out", tmp_path / "built", "--templates", templates)
    yield tmp_path, watching
    watching.close()


def test_watching(door: tuple[Path, Watching]) -> None:
    """Built at once and after each change; faults are told and survived; Ctrl-C ends with 0."""
    folder, watching = door
    first = watching.until("watching door.yaml, name.md.jinja; Ctrl-C ends it")
    assert f"wrote {folder / 'built' / 'guards.py'}" in first
    write(folder, spoil(DOOR, "guard: calm", "guard: clam"))
    assert "unknown name 'clam'" in watching.until("1 finding")[0]
    watching.until("; Ctrl-C ends it")
    write(folder, spoil(DOOR, "default: 20", "default: 21"))
    assert f"wrote {folder / 'built' / 'lifecycle.py'}" in watching.until("; Ctrl-C ends it")
    assert "gale: float = 21.0" in (folder / "built" / "lifecycle.py").read_text()
    (folder / "templates" / "name.md.jinja").write_text("{{ spec.nme }}\n")
    assert "name.md.jinja:1: " in watching.until("; Ctrl-C ends it")[0]
    (folder / "templates" / "name.md.jinja").write_text("called {{ spec.name }}\n")
    watching.until("wrote")
    watching.until("; Ctrl-C ends it")
    (folder / "door.yaml").unlink()
    assert "cannot be read" in watching.until("; Ctrl-C ends it")[0]
    watching.process.send_signal(signal.SIGINT)
    assert watching.until("stopped")[-1] == "stopped"
    assert watching.process.wait(30) == 0


def test_a_check_cannot_watch(tmp_path: Path) -> None:
    """Exit code 2."""
    spec = write(tmp_path, DOOR)
    done = run_cli("spec", "build", str(spec), "--out", str(tmp_path / "d"), "--watch", "--check")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "--watch writes and --check does not; give one of them\n"


def test_a_file_that_is_written_in_steps_is_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The work waits until nothing moves any more."""
    file = tmp_path / "spec.yaml"
    file.write_text("1")
    built: list[str] = []
    steps = iter(["12", "123", None, "1234", None])

    def sleep(_: float) -> None:
        step = next(steps, "end")
        if step == "end":
            raise KeyboardInterrupt
        if step is not None:
            file.write_text(step)

    monkeypatch.setattr("kasmina.cli.watch.time.sleep", sleep)
    assert watch(lambda: [file, tmp_path / "missing"], lambda: built.append(file.read_text())) == 0
    assert built == ["1", "123", "1234"]
    assert capsys.readouterr().out.splitlines()[-1] == "stopped"


def _fail() -> None:
    raise KasminaError("door.yaml:3:1: wrong")


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("work", "told"), [(_fail, "door.yaml:3:1: wrong\n"), (_interrupt, "")])
def test_what_the_work_raises(
    work: Callable[[], None],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A user's error is printed and waited after; Ctrl-C in the middle ends as well."""
    monkeypatch.setattr("kasmina.cli.watch.time.sleep", lambda _: _interrupt())
    assert watch(list, work) == 0
    assert capsys.readouterr().err == told
