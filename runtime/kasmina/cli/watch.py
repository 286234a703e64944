"""Doing something again whenever files change: polling, so that it works on every file system."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from kasmina.cli.saying import say
from kasmina.errors import KasminaError

POLL_S = 0.25
MOST_NAMES = 6  # of the files that are watched
QUIET_S = 0.2  # an editor may write a file in several steps; wait until nothing moves

_Seen = dict[Path, tuple[int, int, int]]


def watch(files: Callable[[], Iterable[Path]], work: Callable[[], object]) -> int:
    """Do the work, and again after each change of a file, until Ctrl-C.

    An error of the user's is told and survived.

    Args:
        files: Gives the files to look at, those that matter most first; asked anew each time, so
            that new ones are found.
        work: What to do; what it raises as a `KasminaError` is printed.

    Returns:
        0, when the user ends it.
    """
    told: Collection[Path] = ()
    try:
        while True:
            seen = _look(files())
            _try(work)
            if told != seen.keys():  # not again after each build
                told = seen.keys()
                say(f"watching {_named(told)}; Ctrl-C ends it")
            else:
                say("watching; Ctrl-C ends it")
            sys.stdout.flush()
            _wait(files, seen)
    except KeyboardInterrupt:
        say("stopped")
        return 0


def _named(files: Collection[Path]) -> str:
    names = [path.name for path in files]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _try(work: Callable[[], object]) -> None:
    try:
        work()
    except KasminaError as error:
        sys.stdout.flush()
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()


def _look(files: Iterable[Path]) -> _Seen:
    """Return what tells one content of a file from another, for those that are there."""
    seen: _Seen = {}
    for path in files:
        try:
            status = path.stat()
        except OSError:
            continue
        seen[path] = (status.st_mtime_ns, status.st_size, status.st_ino)
    return seen


def _wait(files: Callable[[], Iterable[Path]], seen: _Seen) -> None:
    """Return when something has changed since `seen`, and nothing does any more."""
    while (now := _look(files())) == seen:
        time.sleep(POLL_S)
    while True:
        time.sleep(QUIET_S)
        later = _look(files())
        if later == now:
            return
        now = later
