"""What a client has counted, the losses it has found, and groups that are not there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from kasmina.bus.client import Loss
from kasmina.bus.errors import NoSuchGroup


class Ledger:
    """Counts by name; every loss is counted as `lost: KIND` and told to all who asked."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._callbacks: list[Callable[[Loss], None]] = []

    def on_loss(self, callback: Callable[[Loss], None]) -> None:
        """Call back for every loss from now on."""
        self._callbacks.append(callback)

    def lost(self, loss: Loss) -> None:
        """Count a loss, and tell of it."""
        self.counters[f"lost: {loss.kind}"] += 1
        self.counters["entries lost"] += loss.entries or 0
        for callback in self._callbacks:
            callback(loss)


def no_such_group(stream: str, group: str) -> NoSuchGroup:
    """Return the error of a group that nobody has made."""
    return NoSuchGroup(
        f"stream {stream!r} has no group {group!r}; make it with `create_group` before it is read"
    )


def vanished(stream: str, group: str, *, wiped: bool) -> Loss:
    """Return the loss of a group that was there before."""
    gone = "with its stream" if wiped else "from its stream"
    detail = f"group {group!r} of {stream!r} has vanished {gone}; it begins anew at the first entry"
    return Loss("wiped" if wiped else "group gone", stream, group, None, detail)
