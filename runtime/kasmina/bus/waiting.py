"""A queue with priorities in which nothing starves."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from kasmina.bus.retry import BadSetting

R = TypeVar("R")


class FairQueue(Generic[R]):
    """Takes the lowest `arrival + priority * stride` first, the arrivals being counted from 0.

    So an item is overtaken by at most `stride` later ones for each step of priority between them,
    however many come; equal priorities leave in the order in which they came. It needs no clock and
    is deterministic. For one thread at a time.

    Args:
        stride: later arrivals that a step of priority is worth, 1 or more.

    Raises:
        BadSetting: the stride is less than 1.
    """

    def __init__(self, stride: int = 64) -> None:
        if stride < 1:
            raise BadSetting("FairQueue", "stride", stride, "1 or more")
        self._stride, self._arrivals = stride, 0
        self._due: list[tuple[int, int]] = []  # beside the items, in order; arrivals break ties
        self._items: list[R] = []

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[R]:
        """The items in the order in which they will leave, if nothing comes."""
        return iter(self._items)

    def put(self, item: R, priority: int) -> int:
        """Add an item; returns how many stand before it now."""
        due = (self._arrivals + priority * self._stride, self._arrivals)
        self._arrivals += 1
        at = bisect(self._due, due)
        self._due.insert(at, due)
        self._items.insert(at, item)
        return at

    def pop(self) -> R:
        """Take the first item; raises IndexError where there is none."""
        item = self._items.pop(0)
        del self._due[0]
        return item

    def remove(self, condition: Callable[[R], bool]) -> list[R]:
        """Take out the items that a condition holds for, the first ones first."""
        out = [condition(item) for item in self._items]
        removed = [item for item, gone in zip(self._items, out, strict=True) if gone]
        self._due = [due for due, gone in zip(self._due, out, strict=True) if not gone]
        self._items = [item for item, gone in zip(self._items, out, strict=True) if not gone]
        return removed
