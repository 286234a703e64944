"""The command as a whole: help, exit codes and what goes to which stream."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from kasmina import cli
from kasmina.errors import KasminaError, UsageError
from tests.helpers import run_cli, run_python


def test_help_names_every_command() -> None:
    """`kasmina --help` lists the commands and ends with 0."""
    done = run_cli("--help")
    assert done.returncode == 0
    assert not done.stderr
    for command in ("grow", "replay", "spec", "bench"):
        assert f"│ {command} " in done.stdout


def test_help_does_not_load_torch() -> None:
    """Commands are mounted lazily."""
    code = """
import sys
from kasmina.cli import app
app("--help", result_action="return_value")
sys.exit("torch" in sys.modules)
"""
    assert run_python(code).returncode == 0


@pytest.mark.parametrize("command", ["grow", "replay", "spec", "bench"])
def test_every_command_answers_help(command: str) -> None:
    """Each lazily mounted module is there and has its function."""
    done = run_cli(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: kasmina {command}" in done.stdout


def test_version() -> None:
    """`--version` prints name and version."""
    assert run_cli("--version").stdout == f"kasmina {version('kasmina')}\n"


def test_an_unknown_command_is_wrong_usage() -> None:
    """Exit code 2, and the message names the word."""
    done = run_cli("gorw")
    assert done.returncode == 2
    assert '"gorw"' in done.stderr + done.stdout


def test_an_unknown_option_is_wrong_usage() -> None:
    """Exit code 2, and the message names the option."""
    done = run_cli("bench", "--jsn")
    assert done.returncode == 2
    assert "--jsn" in done.stderr + done.stdout


@pytest.mark.parametrize(("kind", "code"), [(KasminaError, 1), (UsageError, 2)])
def test_a_user_error_is_its_message_and_nothing_else(
    kind: type[KasminaError],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No traceback; the exit code is that of the error's class."""

    def fail() -> None:
        raise kind("lifecycle.yaml:3:1: unknown key 'sates'; allowed: states")

    monkeypatch.setattr(cli, "app", lambda _: fail())
    assert cli.main(["grow"]) == code
    captured = capsys.readouterr()
    assert captured.err == "lifecycle.yaml:3:1: unknown key 'sates'; allowed: states\n"
    assert captured.out == ""


def test_an_error_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what a user can mend is shortened."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main([])


def test_ctrl_c_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An interrupt is one word on standard error."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupt)
    assert cli.main([]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`kasmina ... | head -1` prints no traceback."""
    noise = tmp_path / "noise.py"
    noise.write_text(
        "import sys, time\n"
        "from kasmina import cli\n"
        "def chatter(_):\n"
        "    while True:\n"
        "        print('line' * 1000)\n"
        "cli.app = chatter\n"
        "sys.exit(cli.main([]))\n"
    )
    with subprocess.Popen(
        [sys.executable, str(noise)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == cli.BROKEN_PIPE
        assert process.stderr.read() == b""
