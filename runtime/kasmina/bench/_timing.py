"""Timing on a machine that is not quiet."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds a call, of every subject, by round; the same index is the same round."""

    seconds: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        """The subject's median over the rounds, in seconds a call."""
        return median(self.seconds[name])

    def ratio(self, name: str, base: str) -> float:
        """The median of `name / base` in the same round, which a slow machine cancels out of."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return median(subject / reference for subject, reference in pairs)


def interleave(
    subjects: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    calls: int = 1,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time the subjects in turns, beginning with another one in each round.

    Args:
        subjects: what to time, by name.
        repeats: rounds; in each every subject is timed once.
        calls: calls in a round, over which the time is averaged.
        warmup: calls of each subject before the first round.
        clock: `time.process_time` counts the CPU time of this process, all threads together, and
            so leaves out what other processes took.
    """
    for subject in subjects.values():
        _seconds(subject, warmup, clock)
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    with _no_garbage_collection():
        for round_ in range(repeats):
            first = round_ % len(names)
            for name in names[first:] + names[:first]:
                samples[name].append(_seconds(subjects[name], calls, clock) / calls)
    return Timings({name: tuple(values) for name, values in samples.items()})


def _seconds(subject: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        subject()
    return clock() - start


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect now and not in the middle of somebody's turn."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def single_thread() -> Iterator[None]:
    """Let torch use one core only, and give back what it had afterwards."""
    import torch  # a benchmark that needs no torch should not wait for it

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
