"""What was done already: the last so many messages, and what was answered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

from kasmina.bus.retry import BadSetting

V = TypeVar("V")


class MessageKey(NamedTuple):
    """What makes two deliveries the same message: its id counts within its producer only."""

    producer: str
    id: str


class MessageDeduplicator(Generic[V]):
    """Remembers an outcome for each of the last `window` messages; never more.

    A message is forgotten when `window` others were remembered after it, so a duplicate that comes
    later than that is done again. Asking does not keep a message alive: the window is one of
    messages remembered, and two consumers that saw the same ones agree on it.

    Args:
        window: messages, 1 or more. At 1,000 commands a second the default spans 65 seconds.

    Raises:
        BadSetting: the window is empty.
    """

    def __init__(self, window: int = 65_536) -> None:
        if window < 1:
            raise BadSetting("MessageDeduplicator", "window", window, "1 message or more")
        self.window = window
        self._seen: OrderedDict[MessageKey, V] = OrderedDict()
        self.forgotten = 0  # messages that have left the window

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, key: MessageKey) -> bool:
        return key in self._seen

    def get(self, key: MessageKey) -> V | None:
        """The outcome of a message, or None where it is not known."""
        return self._seen.get(key)

    def remember(self, key: MessageKey, outcome: V) -> None:
        """Remember a message; one that is known keeps its age and gets the new outcome."""
        self._seen[key] = outcome
        if len(self._seen) > self.window:
            self._seen.popitem(last=False)
            self.forgotten += 1

    def state_dict(self) -> list[tuple[str, str, V]]:
        """The messages from the oldest on: (producer, id, outcome)."""
        return [(*key, outcome) for key, outcome in self._seen.items()]

    def load_state_dict(self, state: Iterable[tuple[str, str, V]]) -> None:
        """Take back what `state_dict` gave; of a longer one the newest that fit."""
        self._seen.clear()
        for producer, id_, outcome in state:
            self.remember(MessageKey(producer, id_), outcome)
        self.forgotten = 0
