"""What a client has counted, and the losses it has found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from kasmina.bus.client import Loss


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
