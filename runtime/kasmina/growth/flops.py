"""Counts the floating-point operations that a run spends, growing included."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
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
            with uncompiled(), FlopCounterMode(display=False) as counter:
                yield
            self._known[key] = int(counter.get_total_flops())
        self.total += factor * self._known[key]

    def state_dict(self) -> dict[str, Any]:
        """The total, and what is known: a pass that is counted may take other kernels."""
        return {"total": self.total, "known": [(_plain(k), n) for k, n in self._known.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.total, self._known = state["total"], dict(state["known"])


def _plain(key: Hashable) -> Hashable:
    """An equal key of plain tuples: torch's sizes are some of their own."""
    return tuple(map(_plain, key)) if isinstance(key, tuple) else key


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside a compiled model runs as it is written: neither counters nor hooks see into a graph."""
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile")  # with hooks
        yield
