"""Counts the floating-point operations that a run spends, growing included."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from torch.utils.flop_counter import FlopCounterMode


class FlopMeter:
    """Adds up FLOPs: 2 for each multiply-add, and a backward pass counts as two forward passes.

    Counting slows a pass down, so each kind of pass is counted once, under a `key` that names all
    that its cost depends on (shapes, active seeds), and added from memory from then on.
    """

    TRAIN = 3  # forward, and a backward of twice its cost
    EVALUATE = 1

    def __init__(self) -> None:
        self.total = 0
        self._known: dict[Hashable, int] = {}

    @contextmanager
    def forward(self, key: Hashable, factor: int) -> Iterator[None]:
        """Count the forward pass inside the block `factor` times (`TRAIN` or `EVALUATE`)."""
        if key in self._known:
            yield
        else:
            with FlopCounterMode(display=False) as counter:
                yield
            self._known[key] = int(counter.get_total_flops())
        self.total += factor * self._known[key]
