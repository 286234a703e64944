"""How signals end a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

SIGNALLED = 128  # and the signal's number: what a shell reports of a program that a signal ended


@contextmanager
def interrupts(console: Console) -> Iterator[Callable[[], int]]:
    """Let the first Ctrl-C or SIGTERM ask for an end in order, and the second one end at once."""
    asked = 0
    at_once: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = number
        for each, handler in at_once.items():
            signal.signal(each, handler)
        console.print("ending after this step; Ctrl-C again ends at once")

    before = {each: signal.signal(each, ask) for each in at_once}
    try:
        yield lambda: asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
