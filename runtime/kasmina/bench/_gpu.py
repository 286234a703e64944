"""How the kernels' benchmarks time a GPU, and how their rows are made.

Times are medians over rounds in which all subjects take turns, by CUDA events; each subject goes
through several sets of buffers that together are larger than the L2.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from kasmina.bench import Row

DEVICE = "cuda"  # where kernels are measured
L2 = 50 * 2**20  # bytes of an H200's or H100's
Call = Callable[[], object]
Case = Callable[[], Iterable[Row]]
quick = False  # a rehearsal compiles everything and measures little


def on_gpu() -> bool:
    """Whether there is a GPU to measure."""
    return torch.cuda.is_available()


def rows_of(cases: Iterable[Case]) -> list[Row]:
    """All rows, one case after the other; each is told on stderr as soon as it is known."""
    found = []
    for case in cases:
        for row in case():
            sys.stderr.write(f"  {row.name}: {row.value:.4g} {row.unit}\n")
            sys.stderr.flush()
            found.append(row)
    return found


class Subject(NamedTuple):
    """What is timed: a call that does the same thing `times` times."""

    call: Call
    times: int = 1


def captured(calls: Sequence[Call]) -> Subject:
    """All calls in one CUDA graph, which is replayed; without a GPU as they are called."""
    if not on_gpu():
        return called(calls)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    held = []  # what the calls return must not share memory
    with torch.cuda.graph(graph):
        for call in calls:
            held.append(call())
    torch.cuda.synchronize()

    def replay(held: list[object] = held) -> None:
        graph.replay()

    return Subject(replay, len(calls))


def called(calls: Sequence[Call]) -> Subject:
    """All calls as a program makes them, one after the other."""

    def run() -> None:
        for call in calls:
            call()

    return Subject(run, len(calls))


def medians(subjects: Mapping[str, Subject], repeats: int = 11) -> dict[str, float]:
    """Microseconds of one call of each subject on the device, gaps between launches included."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    names = list(subjects)
    for subject in subjects.values():
        subject.call()
    for round_ in range(2 if quick else repeats):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(_by_events(subjects[name]))
    return {name: median(values) for name, values in taken.items()}


def _by_events(subject: Subject) -> float:
    if not on_gpu():
        start = time.process_time()
        subject.call()
        return (time.process_time() - start) * 1e6 / subject.times
    begin, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    subject.call()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) * 1e3 / subject.times


def together(call: Call, calls: int = 100, repeats: int = 11) -> float:
    """Microseconds a call by the clock, until host and device are both done."""
    for _ in range(10):
        call()
    seen = []
    for _ in range(2 if quick else repeats):
        synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        seen.append((time.perf_counter() - start) / calls * 1e6)
    return median(seen)


def synchronize() -> None:
    """Wait for the device."""
    if on_gpu():
        torch.cuda.synchronize()


@cache
def bandwidth() -> float:
    """Bytes a microsecond, read and written, of torch's own copy of 1 GiB."""
    source = torch.empty(2**28 if on_gpu() else 2**20, dtype=torch.float32, device=DEVICE).normal_()
    target = torch.empty_like(source)
    took = medians({"copy": called([partial(target.copy_, source)] * 2)})["copy"]
    return 2 * source.nbytes / took


def sets_for(bytes_: int) -> int:
    """How many sets of buffers of so many bytes do not fit into the L2 together, twice over.

    On a GPU eight at least, so that they share what the start of a graph costs, some 10 us.
    """
    return min(64, max(8 if on_gpu() else 2, -(-2 * L2 // bytes_)))


class Buffers(NamedTuple):
    """Sets of tensors, each with the same call on it, rotated past the L2."""

    sources: list[Tensor]
    targets: list[Tensor]

    @classmethod
    def like(cls, rows: int, features: int, dtype: torch.dtype) -> Buffers:
        """Random sources `[N, F]`, and as many targets."""
        size = 2 * rows * features * dtype.itemsize
        made = [
            torch.randn(rows, features, device=DEVICE).to(dtype)
            for _ in range(max(2, sets_for(size)))
        ]
        return cls(made, [torch.full_like(each, torch.nan) for each in made])

    def each(self, call: Callable[[Tensor, Tensor], object]) -> list[Call]:
        """The call on each pair of source and target."""
        return [partial(call, *pair) for pair in zip(self.sources, self.targets, strict=True)]

    def copies(self) -> Subject:
        """`copy_` of the same tensors."""
        return called(self.each(lambda source, target: target.copy_(source)))


def beside(times: Mapping[str, float], floor: float | None = None) -> dict[str, float]:
    """What a row prints beside its figure: all times of its run, the floor, the bandwidth."""
    found = {f"{name}, us": us for name, us in times.items()}
    if floor is not None:
        found["floor, us"] = floor
    return found | {"copy bandwidth, TB/s": bandwidth() / 1e6}


def work(flop: float, bytes_: float) -> dict[str, float]:
    """What a row needs to be a point of a roofline."""
    return {"GFLOP": flop / 1e9, "MB": bytes_ / 1e6}


def against(what: str, times: Mapping[str, float], targets: Mapping[str, float]) -> list[Row]:
    """How many times faster "ours" is than each baseline, with the factor that is wanted."""
    return [
        Row(
            f"{what}, against {name}",
            times[name] / times["ours"],
            "times faster",
            target=factor,
            op=">=",
            baselines={"ours, us": times["ours"], f"{name}, us": times[name]},
        )
        for name, factor in targets.items()
    ]
