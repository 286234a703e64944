"""How threads that do not step ask for something."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from enum import IntEnum
from queue import Empty, SimpleQueue
from typing import NamedTuple

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.lifecycle.spec import UnknownName
from kasmina.lifecycle.tensor import StateTensor


class UnknownRow(KasminaError, IndexError):
    """A command for a row that the state tensor does not have."""

    def __init__(self, row: int, rows: int) -> None:
        super().__init__(f"there is no row {row}; rows go from 0 to {rows - 1}")


class Command(NamedTuple):
    """A request for one seed; with a generation it is meant for that life of the slot only."""

    row: int
    event: IntEnum
    generation: int | None = None


class Drained(NamedTuple):
    """What waited in a queue."""

    events: Tensor  # int32 [n], the event mask for `step`
    commands: tuple[Command, ...]  # that are in the mask, in the order in which they came
    stale: tuple[Command, ...]  # meant for a life that is over; not in the mask


class CommandQueue:
    """Commands of many threads for one state tensor; the writer drains it before each step."""

    def __init__(self, state: StateTensor) -> None:
        self._state = state
        self._waiting: SimpleQueue[Command] = SimpleQueue()

    def put(self, row: int, event: IntEnum | str, generation: int | None = None) -> Command:
        """Queue a command; raises here and now where the row or the command does not exist."""
        lifecycle = self._state.lifecycle
        if not 0 <= row < self._state.n:
            raise UnknownRow(row, self._state.n)
        known = lifecycle.event(event)
        if known not in lifecycle.commands:
            names = [command.name for command in lifecycle.commands]
            raise UnknownName("command", known.name, names, lifecycle.name)
        command = Command(row, known, generation)
        self._waiting.put(command)
        return command

    def drain(self) -> Drained:
        """Take everything that waits; only the writer calls this."""
        taken = self._take()
        over = [self._is_over(command) for command in taken]
        current = tuple(itertools.compress(taken, (not each for each in over)))
        return Drained(self._mask(current), current, tuple(itertools.compress(taken, over)))

    def _is_over(self, command: Command) -> bool:
        generations = self._state.role("generation")
        if generations is None or command.generation is None:
            return False
        return int(generations[command.row]) != command.generation

    def _take(self) -> list[Command]:
        taken = []
        while True:
            try:
                taken.append(self._waiting.get_nowait())
            except Empty:
                return taken

    def _mask(self, commands: Sequence[Command]) -> Tensor:
        masks: dict[int, int] = {}
        for command in commands:
            masks[command.row] = masks.get(command.row, 0) | 1 << command.event
        events = torch.zeros(self._state.n, dtype=torch.int32)
        events[torch.tensor(list(masks), dtype=torch.int64)] = torch.tensor(
            list(masks.values()), dtype=torch.int32
        )
        return events.to(self._state.device)
