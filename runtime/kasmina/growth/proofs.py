"""Proves limits before a run takes them, in a thread of its own, so that no step waits for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kasmina.bus.requests import Request
from kasmina.errors import KasminaError
from kasmina_generated.messages.types import SetLimit

Prove = Callable[[Mapping[str, float]], "Broken | None"]
Limits = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Broken:
    """A property that limits would break: what it says, and the path that shows it."""

    what: str
    witness: tuple[str, ...] = ()


class Proofs:
    """Changes of limits that wait for their proof, one at a time: each by what those before left.

    Args:
        prove: says what a change of limits would break; takes all limits by name.
    """

    def __init__(self, prove: Prove) -> None:
        self._prove, self._thread = prove, ThreadPoolExecutor(1, "kasmina-proofs")
        self._waiting: deque[tuple[Request, SetLimit]] = deque()  # the first one is being proved
        self._found: tuple[Mapping[str, float], Broken | None] | None = None  # of the first one

    def __len__(self) -> int:
        """Commands of which it is known, and nobody has asked yet."""
        return self._found is not None

    def waiting(self) -> list[Request]:
        """The commands of which nobody was told what they would break."""
        return [request for request, _ in self._waiting]

    def ask(self, request: Request, command: SetLimit, limits: Limits) -> None:
        """Prove what shall hold after a command.

        Args:
            request: it, as it came.
            command: the change.
            limits: gives the limits as they are.
        """
        self._waiting.append((request, command))
        if len(self._waiting) == 1:
            self._begin(limits)

    def known(self, limits: Limits) -> Iterator[tuple[Request, Broken | None]]:
        """Take the commands of which it is known, with what they would break.

        What was proved of other limits than there are by now is proved again.

        Args:
            limits: gives the limits as they are.
        """
        while self._found is not None:
            (proved, broken), self._found = self._found, None
            if proved == self._after(limits):
                yield self._waiting.popleft()[0], broken
            if self._waiting:
                self._begin(limits)

    def close(self) -> None:
        """Begin no proof any more; the one under way is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _after(self, limits: Limits) -> dict[str, float]:
        """The limits as they would be."""
        change = self._waiting[0][1]
        return {**limits(), change.name: change.value}

    def _begin(self, limits: Limits) -> None:
        self._thread.submit(self._work, self._after(limits))

    def _work(self, limits: Mapping[str, float]) -> None:
        try:
            found = self._prove(limits)
        except KasminaError as error:
            found = Broken(f"it cannot be proved: {error}")
        except Exception as error:  # noqa: BLE001  those behind it must have their turn
            found = Broken(f"it cannot be proved: {error!r}")
        self._found = (limits, found)
