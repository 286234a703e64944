"""Proves limits before a run takes them, in a thread of its own, so that no step waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kasmina.bus.requests import Request
from kasmina.errors import KasminaError

Prove = Callable[[Mapping[str, float]], "Broken | None"]


@dataclass(frozen=True, slots=True)
class Broken:
    """A property that limits would break: what it says, and the path that shows it."""

    what: str
    witness: tuple[str, ...] = ()


class Proofs:
    """Commands whose limits are being proved, and those of which it is known.

    Args:
        prove: says what a change of limits would break; takes all limits by name.
    """

    def __init__(self, prove: Prove) -> None:
        self._prove, self._thread = prove, ThreadPoolExecutor(1, "kasmina-proofs")
        self._known: deque[tuple[Request, Broken | None]] = deque()

    def __len__(self) -> int:
        """Commands of which it is known, and nobody has asked yet."""
        return len(self._known)

    def ask(self, request: Request, limits: Mapping[str, float]) -> None:
        """Prove what shall hold with these limits."""
        self._thread.submit(self._work, request, limits)

    def known(self) -> Iterator[tuple[Request, Broken | None]]:
        """Take the commands of which it is known, with what they would break."""
        while self._known:
            yield self._known.popleft()

    def close(self) -> None:
        """Begin no proof any more; the one under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _work(self, request: Request, limits: Mapping[str, float]) -> None:
        try:
            found = self._prove(limits)
        except KasminaError as error:
            found = Broken(f"it cannot be proved: {error}")
        self._known.append((request, found))
