"""Plain lines, for people and for pipes."""

from __future__ import annotations

import re
import sys

_SUSPECT = re.compile(r"[^\n\t -~]")  # the rest of ASCII needs no second look


def warn(text: str) -> None:
    """Print a line for people beside the output, which may go into a file."""
    sys.stdout.flush()
    sys.stderr.write(f"{harmless(text)}\n")


def say(text: str) -> None:
    """Print a line for people and for pipes, not wrapped; who reads on sees it at once."""
    print(harmless(text), flush=True)  # noqa: T201


def harmless(text: str) -> str:
    """The text with an escape in place of all that a terminal would obey instead of showing it.

    Names and texts may come from a bus, to which others write. Ends of lines and tabs stay.
    """
    return _SUSPECT.sub(_escaped, text)


def line(text: str) -> str:
    """The text as one line, that can pass for no other one."""
    return "".join(map(_shown, text))


def _escaped(found: re.Match[str]) -> str:
    return _shown(found.group())


def _shown(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
