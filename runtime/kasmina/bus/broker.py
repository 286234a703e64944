"""What the clients of one in-process bus share: its streams, its values, and who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from kasmina.bus.errors import BusFull
from kasmina.bus.streams import ENTRY_COST, Stream


class Broker:
    """One in-process bus; who uses it holds its lock."""

    def __init__(self, limit_bytes: int, clock: Callable[[], float]) -> None:
        self.lock = Lock()
        self.clock = clock
        self.limit_bytes = limit_bytes
        self.streams: dict[str, Stream] = {}
        self._values: dict[str, tuple[bytes, float]] = {}  # with the time when they expire
        self._value_bytes = 0
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def make_room(self, needed: int) -> None:
        """Raise `BusFull` where so many bytes more are too many."""
        if self._held() + needed > self.limit_bytes:
            self._forget_expired()
        if self._held() + needed > self.limit_bytes:
            raise BusFull(
                f"the in-process bus holds {self._held()} of at most {self.limit_bytes} bytes and "
                f"{needed} more were to be stored; trim what is done, pass `keep`, or open it with "
                "a larger `limit_bytes`"
            )

    def put(self, key: str, value: bytes, until: float) -> None:
        """Keep a value until a time."""
        before = self._values.pop(key, None)
        self._values[key] = value, until
        self._value_bytes += cost_of(value) - (cost_of(before[0]) if before else 0)

    def get(self, key: str) -> bytes | None:
        """Return a value that has not expired."""
        value, until = self._values.get(key, (None, 0.0))
        return value if until > self.clock() else None

    def wipe(self) -> None:
        """Lose everything."""
        self.streams.clear()
        self._values.clear()
        self._value_bytes = 0

    def _held(self) -> int:
        return self._value_bytes + sum(stream.bytes for stream in self.streams.values())

    def _forget_expired(self) -> None:
        now = self.clock()
        self._values = {key: kept for key, kept in self._values.items() if kept[1] > now}
        self._value_bytes = sum(cost_of(value) for value, _ in self._values.values())

    def wake(self) -> None:
        """Let everyone who waits look again; the lock is held."""
        for loop, event in self._waiting:
            with suppress(RuntimeError):  # its loop was closed under it
                loop.call_soon_threadsafe(event.set)

    @contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        """Give an event that the next change sets; the lock is not held."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self.lock:
            self._waiting.add(waiter)
        try:
            yield waiter[1]
        finally:
            with self.lock:
                self._waiting.discard(waiter)


def cost_of(value: bytes) -> int:
    """Return what a payload costs, besides itself too."""
    return len(value) + ENTRY_COST
