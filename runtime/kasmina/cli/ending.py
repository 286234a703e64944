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
    """Let the first Ctrl-C or SIGTERM ask for an end in order, and the second one end at once.

    What is yielded gives the number of the signal, 0 before, and says once that it has come: a
    handler must not, as it may run in the middle of another print.
    """
    asked, said = 0, False
    at_once: dict[int, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = number
        for each, handler in at_once.items():
            signal.signal(each, handler)

    def told() -> int:
        nonlocal said
        if asked and not said:
            said = True
            console.print("ending after this step; Ctrl-C again ends at once")
        return asked

    before = {each: signal.signal(each, ask) for each in at_once}
    try:
        yield told
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
