"""The `kasmina` command.

Each subcommand is a module of this room that is imported when it is called, so that `kasmina
--help` answers without loading torch. A subcommand returns its exit code (None is 0): 0 all is
well, 1 findings, 2 wrong usage. It prints what was asked for on standard output and raises a
`KasminaError` for what the user can mend.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import cyclopts

from kasmina.errors import KasminaError

INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended
BROKEN_PIPE = 141  # and of one whose reader went away


def _version() -> str:
    from importlib.metadata import version

    return f"kasmina {version('kasmina')}"


app = cyclopts.App(
    name="kasmina",
    help="Grow a PyTorch network while it trains, under a lifecycle that is proved before it runs.",
    version=_version,
    suppress_keyboard_interrupt=False,
    result_action="return_int_as_exit_code_else_zero",
)
app.command("kasmina.cli.grow:grow", name="grow", help="Train a network and grow it meanwhile.")
app.command("kasmina.cli.replay:replay", name="replay", help="Run a log again and compare.")
app.command("kasmina.cli.spec:app", name="spec", help="Check, build, show or copy a spec.")
app.command("kasmina.cli.checkpoint:app", name="checkpoint", help="Look at and check saved runs.")
app.command("kasmina.cli.tamiyo:tamiyo", name="tamiyo", help="Decide for runs on a bus.")
app.command("kasmina.cli.ctl:app", name="ctl", help="Command a run that is on a bus.")
app.command("kasmina.cli.bus:app", name="bus", help="Look at a message bus.")
app.command("kasmina.cli.doctor:doctor", name="doctor", help="Say what this machine can run.")
app.command("kasmina.cli.bench:bench", name="bench", help="Measure what the project claims.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; `arguments` are those of the process where none are given.

    Returns:
        The exit code. Wrong usage ends the process with 2 by `SystemExit`, as argparse does.
    """
    try:
        code: int = app(arguments)
        sys.stdout.flush()  # a reader that went away shows here, not in the interpreter's last words
    except KasminaError as error:
        from kasmina.cli.saying import warn

        warn(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody is left to flush to
        return BROKEN_PIPE
    return code
