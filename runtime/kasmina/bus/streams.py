"""Streams in memory, with groups and pending entries; the state of an `InProcessBus`.

Nothing here waits or locks; the bus does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kasmina.bus.client import FIRST, NEWEST, Delivery, GroupInfo, Pending, StreamInfo, position

Position = tuple[int, int]
ENTRY_COST = 256  # bytes that an entry costs besides its payload, roughly


def text(at: Position) -> str:
    """Return the id of a position."""
    return f"{at[0]}-{at[1]}"


@dataclass(slots=True)
class _Given:
    """A pending entry."""

    consumer: str
    since: float  # when it was last given, by the bus's clock
    attempt: int


@dataclass(slots=True)
class Group:
    """A group of consumers of one stream; `given` is in the order of ids."""

    delivered: Position
    given: dict[Position, _Given] = field(default_factory=dict)
    consumers: set[str] = field(default_factory=set)


class Stream:
    """Entries in the order of their ids."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.last: Position = (0, 0)
        self.groups: dict[str, Group] = {}
        self.bytes = 0
        self._at: list[Position] = []
        self._payloads: list[bytes] = []

    def __len__(self) -> int:
        return len(self._at)

    def append(self, payload: bytes, milliseconds: int) -> Position:
        """Add an entry; ids grow even where the clock goes back."""
        newest = self.last
        self.last = (milliseconds, 0) if milliseconds > newest[0] else (newest[0], newest[1] + 1)
        self._at.append(self.last)
        self._payloads.append(payload)
        self.bytes += len(payload) + ENTRY_COST
        return self.last

    def behind(self, after: Position, count: int) -> Iterator[tuple[Position, bytes]]:
        """Return the first `count` entries behind a position."""
        first = bisect_right(self._at, after)
        window = slice(first, first + count)
        return zip(self._at[window], self._payloads[window], strict=True)

    def last_ones(self, before: Position | None, count: int) -> Iterator[tuple[Position, bytes]]:
        """Return the last `count` entries before a position, or of all."""
        end = len(self._at) if before is None else bisect_left(self._at, before)
        window = slice(max(0, end - count), end)
        return zip(self._at[window], self._payloads[window], strict=True)

    def start(self, entry_id: str) -> Position:
        """Return the position that an id, `FIRST` or `NEWEST` means now."""
        return self.last if entry_id == NEWEST else position(entry_id)

    def drop(self, count: int) -> int:
        """Take away the oldest entries."""
        gone = self._payloads[:count]
        self.bytes -= sum(map(len, gone)) + ENTRY_COST * len(gone)
        del self._at[:count], self._payloads[:count]
        return len(gone)

    def older(self, before: Position) -> int:
        """How many entries are older than a position."""
        return bisect_left(self._at, before)

    def remove(self, ids: Iterable[str]) -> int:
        """Take away single entries; returns how many there were."""
        found = 0
        for at in map(position, ids):
            index = bisect_left(self._at, at)
            if index < len(self._at) and self._at[index] == at:
                self.bytes -= len(self._payloads[index]) + ENTRY_COST
                del self._at[index], self._payloads[index]
                found += 1
        return found

    def get(self, at: Position) -> bytes | None:
        """Return the payload at a position; None where there is none any more."""
        index = bisect_left(self._at, at)
        there = index < len(self._at) and self._at[index] == at
        return self._payloads[index] if there else None

    def give(self, group: Group, consumer: str, count: int, now: float) -> list[Delivery]:
        """Give new entries to a consumer."""
        group.consumers.add(consumer)
        taken = list(self.behind(group.delivered, count))
        if taken:
            group.delivered = taken[-1][0]
        group.given |= {at: _Given(consumer, now, 1) for at, _ in taken}
        return [Delivery(self.name, text(at), payload) for at, payload in taken]

    def take_over(
        self, group: Group, consumer: str, idle_s: float, count: int, now: float
    ) -> tuple[list[Delivery], list[Position]]:
        """Give old pending entries to a consumer; also returns those that are there no more."""
        group.consumers.add(consumer)
        idle = [at for at, given in group.given.items() if now - given.since >= idle_s]
        taken: list[Delivery] = []
        gone: list[Position] = []
        for at in idle:
            if len(taken) == count:
                break
            payload, given = self.get(at), group.given[at]
            if payload is None:
                del group.given[at]
                gone.append(at)
                continue
            given.consumer, given.since, given.attempt = consumer, now, given.attempt + 1
            taken.append(Delivery(self.name, text(at), payload, given.attempt))
        return taken, gone

    def pending(self, group: Group, count: int, now: float) -> list[Pending]:
        """Return the oldest pending entries."""
        oldest = zip(group.given.items(), range(count), strict=False)
        return [
            Pending(text(at), given.consumer, now - given.since, given.attempt)
            for (at, given), _ in oldest
        ]

    def info(self) -> StreamInfo:
        """Return where the stream stands."""
        groups = {
            name: GroupInfo(
                text(group.delivered),
                len(group.given),
                len(self._at) - bisect_right(self._at, group.delivered),
                len(group.consumers),
            )
            for name, group in self.groups.items()
        }
        return StreamInfo(
            len(self._at), text(self._at[0]) if self._at else None, text(self.last), groups
        )


def acknowledge(group: Group, ids: Sequence[str]) -> int:
    """Forget pending entries; returns how many there were."""
    return sum(group.given.pop(position(entry_id), None) is not None for entry_id in ids)


NO_STREAM = StreamInfo(0, None, text(position(FIRST)), {})
