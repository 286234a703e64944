"""The history of a seed: a ring of the states that it left last, and a count of transitions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ring_end(highest: int, length: int) -> int:
    """Where a count of transitions ends that also says the next place in a ring.

    A count that has come so far goes back by one turn, so that it never loses its place in the
    ring and never says that the ring is not full.

    Args:
        highest: The largest number that the counter's dtype holds.
        length: Places in the ring.
    """
    return highest // length * length


def remember(ring: Tensor, count: Tensor, rows: Tensor, left: Tensor) -> None:
    """Write the states that rows left into their rings, and count.

    Args:
        ring: Integer codes [N, length]; written.
        count: Integers [N]; written.
        rows: int64 [M], each once.
        left: Codes [M].
    """
    length = ring.shape[1]
    place = count[rows].long()
    ring[rows, place % length] = left.to(ring.dtype)
    end = ring_end(torch.iinfo(count.dtype).max, length)
    count[rows] = torch.where(place + 1 == end, end - length, place + 1).to(count.dtype)


def recall(ring: Sequence[int], count: int) -> list[int]:
    """The codes in one row's ring, oldest first."""
    length = len(ring)
    return [ring[place % length] for place in range(count - min(count, length), count)]


def relay(ring: Tensor, count: Tensor, length: int, highest: int) -> tuple[Tensor, Tensor]:
    """The rings in a new length with their counts: the newest entries, oldest first, are kept.

    A count stays what it is, except where a longer ring would then claim entries that nobody has
    kept, or where it does not fit: it goes back by whole turns.

    Args:
        ring: Codes [N, old length].
        count: Integers [N].
        length: Places in the new ring.
        highest: The largest number that the new counter's dtype holds.

    Returns:
        Codes [N, length], -1 in places that hold nothing, and counts int64 [N].
    """
    old = ring.shape[1]
    before = count.long()
    kept = before.clamp(max=min(old, length))  # entries of each row
    after = before.clamp(max=old) if length > old else before
    end = ring_end(highest, length)
    after = torch.where(after >= end, end - length + after % length, after)
    ages = torch.arange(min(old, length))  # 0: the newest
    sources = (before[:, None] - 1 - ages) % old
    places = (after[:, None] - 1 - ages) % length
    entries = torch.where(ages < kept[:, None], ring.gather(1, sources), -1)
    turned = torch.full((len(ring), length), -1, dtype=ring.dtype)
    return turned.scatter(1, places, entries.to(ring.dtype)), after
