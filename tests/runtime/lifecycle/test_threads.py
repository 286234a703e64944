"""One writer, many others: no command is lost, no reader sees half a step."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from threading import Event as Signal

import pytest
import torch

from kasmina.lifecycle import CommandQueue, ContextTable, LimitTable, StateTensor, step

SEEDS = 64
COMMANDS = 400
THREADS = 4
SNAPSHOTS = 400  # at least, while the writer is at work


def test_readers_and_askers_beside_one_writer() -> None:
    """Every command is in exactly one drained batch, and every snapshot is of one moment.

    Commands move a seed between ticks, so a seed that has moved must have epochs 0, the state it
    left as parent, and that state as the newest entry of its history.
    """
    state, context, limits = StateTensor(SEEDS), ContextTable(SEEDS), LimitTable()
    queue, start = CommandQueue(state), Barrier(THREADS + 2)
    enough, done = Signal(), Signal()

    def ask(number: int) -> Counter[tuple[int, str]]:
        rng, asked = random.Random(number), Counter[tuple[int, str]]()
        start.wait()
        for _ in range(COMMANDS):
            row, event = rng.randrange(SEEDS), rng.choice(["request_germination", "cancel"])
            queue.put(row, event)
            asked[row, event] += 1
        return asked

    def read() -> None:
        start.wait()
        for snapshots in itertools.count(1):
            check_one_moment(state.snapshot())
            if snapshots == SNAPSHOTS:
                enough.set()
            if done.is_set():
                return

    def write() -> Counter[tuple[int, str]]:
        applied = Counter[tuple[int, str]]()
        start.wait()
        while True:
            last = all(asker.done() for asker in askers) and (enough.is_set() or reader.done())
            drained = queue.drain()
            applied.update((command.row, command.event.name) for command in drained.commands)
            step(state, drained.events, context, limits, tick=bool(len(applied) % 2))
            if last:
                return applied

    with ThreadPoolExecutor(THREADS + 2) as pool:
        askers = [pool.submit(ask, number) for number in range(THREADS)]
        reader = pool.submit(read)
        try:
            applied = write()
        finally:
            done.set()
        asked = sum((asker.result() for asker in askers), Counter[tuple[int, str]]())
        reader.result()  # raises what it found
    assert applied == asked
    assert sum(applied.values()) == THREADS * COMMANDS


def test_a_snapshot_waits_for_a_commit() -> None:
    """A reader that comes in the middle sees the end, not the middle."""
    state, inside, finish = StateTensor(3), Signal(), Signal()

    def write() -> None:
        with state.commit():
            state.codes.fill_(3)
            inside.set()
            finish.wait(10)
            state.epochs.fill_(7)

    with ThreadPoolExecutor(2) as pool:
        writer = pool.submit(write)
        inside.wait(10)
        reader = pool.submit(state.snapshot)
        with pytest.raises(TimeoutError):
            reader.result(timeout=0.05)
        finish.set()
        writer.result()
        seen = reader.result()
    assert (seen.codes.tolist(), seen.epochs.tolist()) == ([3] * 3, [7] * 3)


def check_one_moment(state: StateTensor) -> None:
    """What a step writes together is seen together."""
    moved = (state["history_count"] > 0) & (state["parent_state"] >= 0)
    rows = moved.nonzero().squeeze(1)
    newest = state["history"][rows, (state["history_count"][rows].long() - 1) % 10]
    assert torch.equal(newest, state["parent_state"][rows])
    fresh = state["history_count"] == 0
    assert (state.codes[fresh] == state.lifecycle.initial).all()
    assert (state.codes[rows] != state["parent_state"][rows]).all()
