"""Times of the Triton step on a GPU, beside the bytes that it has to move and a copy of as many.

Bytes of N rows, three counts; all have what is written, history included: the states, the epochs
and the edges of all rows; parent, ring and count of those that move; the columns of a new
generation of those that are recycled.

- columns: read are states, epochs and commands, and every field that some guard reads, of all rows.
- rows: a field is read only of the rows whose state has a guard that reads it, or of all rows where
  the spec refuses some of its values. That is the least.
- sectors: as rows, in the units of 32 bytes in which memory is read and written; one that is
  written in part is read before.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kasmina.bench._step_rows import Batch, Machine, population, transition

SECTOR = 32
FLUSH = 256 * 2**20  # bytes; several times the L2
Row = dict[str, Any]


class Traffic(NamedTuple):
    """Bytes of a step, counted in three ways."""

    columns: int
    rows: int
    sectors: int


def traffic(machine: Machine, batch: Batch, edge: Tensor, edge_size: int) -> Traffic:
    """Return the bytes of a step that takes these edges (negative for none)."""
    n, fields = len(batch.state), machine.lifecycle.CONTEXT_FIELDS
    moved = edge >= 0
    events = torch.as_tensor(machine.tables.EDGE_EVENT.copy(), device=edge.device)
    recycled = moved & (events[edge.clamp(min=0).long()] < 0)
    always = batch.state.itemsize + batch.epochs.itemsize + batch.events.itemsize
    written = batch.state.itemsize + batch.epochs.itemsize + edge_size
    columns = rows = sectors = n * (always + written)
    for name, column in batch.context._asdict().items():
        codes = machine.readers(name)
        refused = "refuse" in (fields[name].nan, fields[name].infinity)
        size = column.itemsize
        readers = torch.isin(batch.state, torch.tensor(codes, device=edge.device, dtype=torch.int8))
        columns += n * size if codes or refused else 0
        rows += n * size if refused else int(readers.sum()) * size
        sectors += n * size if refused else _touched(readers, size)
    for size, mask in _records(machine, moved, recycled):
        columns += int(mask.sum()) * size
        rows += int(mask.sum()) * size
        sectors += 2 * _touched(mask, size)
    return Traffic(columns, rows, sectors)


def _records(machine: Machine, moved: Tensor, recycled: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield bytes of a row and the rows, for each column that is written of some rows only."""
    for column in machine.declared:
        size = getattr(torch, column.dtype).itemsize
        if column.role in ("parent", "history_count"):
            yield size, moved
        elif column.role == "history":  # its sectors are those of the row's ring, about
            yield size * column.length, moved
        elif column.role == "generation":
            yield size, recycled
        elif column.role is None:
            yield size * column.length, recycled


def _touched(mask: Tensor, size: int) -> int:
    """Return the bytes of the sectors that hold a row; rows of uneven size as if they did not cross."""
    together = max(SECTOR // size, 1)
    whole = len(mask) // together * together
    return int(mask[:whole].view(-1, together).any(1).sum()) * max(SECTOR, size)


class Stepped:
    """Rows that are stepped in place, and can be put back."""

    def __init__(self, machine: Machine, batch: Batch, tick: bool, **limits: float) -> None:
        self.machine, self.batch = machine, batch
        self.columns = machine.columns(batch)
        self.limits = machine.limits("cuda", **limits)
        self.tick = torch.tensor(tick, device="cuda")
        self.work = machine.launch.Workspace(batch.state)

    def restore(self) -> None:
        """Put states and epochs back."""
        state, epochs = (self.columns[name] for name in self.machine.kernels.COLUMNS[:2])
        state.copy_(self.batch.state)
        epochs.copy_(self.batch.epochs)

    def advance(self) -> None:
        """Step once, in place."""
        self.machine.kernels.advance(
            self.columns, self.batch.events, self.batch.context, self.limits, self.tick, self.work
        )


def captured(call: Callable[[], object], times: int = 1) -> torch.cuda.CUDAGraph:
    """Return a graph of so many calls."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            call()
    return graph


def timed(call: Callable[[], object], before: Callable[[], object], repeats: int = 21) -> Row:
    """Return medians in us: by CUDA events around a call, and by the host's clock until it is done."""
    device, host = [], []
    for number in range(repeats + 3):
        before()
        begin, end = (torch.Event("cuda", enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        began = time.perf_counter()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        if number >= 3:
            host.append((time.perf_counter() - began) * 1e6)
            device.append(begin.elapsed_time(end) * 1e3)
    return {"events_us": statistics.median(device), "host_us": statistics.median(host)}


def bandwidth() -> float:
    """Return bytes a us of a large copy, read and written."""
    source = torch.empty(2**32, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    took = timed(partial(target.copy_, source), flushed())
    return 2 * source.nbytes / float(took["events_us"])


def flushed() -> Callable[[], object]:
    """Return what drives everything else out of the L2."""
    return torch.empty(FLUSH, dtype=torch.uint8, device="cuda").zero_


def amortised(stepped: Stepped, times: int = 20) -> float:
    """Return us of a step in a graph of many: less what a graph that only puts back takes."""

    def both() -> None:
        stepped.restore()
        stepped.advance()

    with_steps, without = captured(both, times), captured(stepped.restore, times)
    took = [timed(graph.replay, lambda: None)["events_us"] for graph in (with_steps, without)]
    return (float(took[0]) - float(took[1])) / times


def timings(sizes: Sequence[int], copying: float) -> Iterator[Row]:
    """Yield the times of each size and way; `copying` is the copy's bytes a us."""
    machine = Machine("kasmina_generated")
    most: dict[str, float] = {"max_training": 1_000_000, "max_cohort": 1_000_000}
    for n in sizes:
        ways: dict[str, tuple[bool, dict[str, float]]] = {
            "nobody asks for room": (False, most),
            "room for all or a million": (True, most),
            "room for 64": (True, {}),
        }
        for what, (asking, limits) in ways.items():
            stepped = Stepped(machine, transition(machine, n, "cuda", asking), True, **limits)
            yield {"rows": n, "what": what, **measured(stepped, copying)}
            del stepped
        yield from _functional(machine, n)


def measured(stepped: Stepped, copying: float) -> Row:
    """Return the times of a step, eager and in a graph, and the bytes that it has to move."""
    flush = flushed()

    def before() -> None:
        stepped.restore()
        flush()

    before()
    stepped.advance()
    edge = stepped.work.edge.clone()
    moved = int((edge >= 0).sum())
    found = traffic(stepped.machine, stepped.batch, edge, edge.itemsize)
    eager = timed(stepped.advance, before)
    graph = captured(stepped.advance)
    replayed = timed(graph.replay, before)
    row: Row = {
        "moved": moved,
        "refused": int((edge == -2).sum()),
        "bytes": found._asdict(),
        "eager": eager,
        "graph": replayed,
        "floor_us": {name: count / copying for name, count in found._asdict().items()},
    }
    if len(edge) <= 10**6:
        row["in_graph_us"] = amortised(stepped)
    return row


def _functional(machine: Machine, n: int) -> Iterator[Row]:
    """Yield the steps that return new tensors."""
    inputs = (*population(machine, n, "cuda"), machine.limits("cuda"))
    tick = torch.tensor(True, device="cuda")
    for name, module in (("triton", machine.kernels), ("vector", machine.vector)):
        for call in ("decide", "step"):
            took = timed(partial(getattr(module, call), *inputs, tick), lambda: None, 7)
            yield {"rows": n, "what": f"{name} {call}", "eager": took}


def sweep(n: int, shapes: Sequence[tuple[int, int, int, int, int | None]]) -> Iterator[Row]:
    """Yield the step's time for other shapes: tile, chunk, warps, programs a processor, registers."""
    machine = Machine("kasmina_generated")
    batch = transition(machine, n, "cuda", asking=False)
    launch, flush = machine.launch, flushed()
    usual = launch.shape_of
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    for shape in shapes:
        tile, chunk, warps, each, registers = shape
        programs = min(-(-n // tile), each * processors)
        cut = launch.Shape(tile, chunk, programs, 8 * processors, warps, registers)
        launch.shape_of = lambda *_, cut=cut: cut
        stepped = Stepped(machine, batch, True)
        graph = captured(stepped.advance)

        def before(stepped: Stepped = stepped) -> None:
            stepped.restore()
            flush()

        yield {"rows": n, "shape": shape, **timed(graph.replay, before, 9)}
    launch.shape_of = usual
