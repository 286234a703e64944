"""How the streams of a run are called, so that all who speak of one find the same."""

from __future__ import annotations

from typing import NamedTuple

import blake3

from kasmina.bus.client import LONGEST_NAME

HEARTBEATS = "kasmina:heartbeats"  # of all runs: who wants to know which there are reads it
DEAD_LETTERS = "kasmina:dead"
_LONGEST = 200  # characters of a run's name that stand in a stream's


class RunStreams(NamedTuple):
    """The streams of one run."""

    commands: str
    replies: str
    events: str
    health: str
    observed: str
    lease: str


def is_run_name(text: str) -> bool:
    """Whether a run can be called so: 1 to 256 printable characters."""
    return 0 < len(text) <= LONGEST_NAME and text.isprintable()


def streams_of(run: str) -> RunStreams:
    """The streams of a run; a long name stands there by its digest."""
    name = run if len(run) <= _LONGEST else f"blake3 {blake3.blake3(run.encode()).hexdigest()}"
    return RunStreams(*(f"kasmina:{name}:{what}" for what in RunStreams._fields))
