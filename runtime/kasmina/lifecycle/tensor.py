"""The state of every seed of a model, as one tensor a column (structure of arrays).

Memory stays where it is: columns are written in place, so that a captured graph or a kernel that
holds a pointer sees the new values. Two locks make that safe. The *writer* is one thread; a second
one that writes at the same time is an error, because its decision would rest on rows that change
under it. The *commit* lock is held only while values are copied in or out, so a snapshot holds all
of an update or nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from threading import RLock, current_thread
from typing import Any, Self

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.lifecycle.columns import ColumnRule, InvalidUpdate, Rows, Values, row_index
from kasmina.lifecycle.migration import advice
from kasmina.lifecycle.ring import recall, remember
from kasmina.lifecycle.spec import Lifecycle, UnknownName


class ConcurrentWrite(KasminaError, RuntimeError):
    """A second thread wrote while the writer was at work."""

    def __init__(self, writer: str) -> None:
        super().__init__(
            f"thread {current_thread().name!r} tried to write the state tensor while thread "
            f"{writer!r} writes it; one thread steps, all others put commands into its CommandQueue"
        )


class StateMismatch(KasminaError, ValueError):
    """A state dict that does not fit the state tensor."""

    def __init__(self, differences: list[str]) -> None:
        super().__init__(
            "the state dict does not fit this state tensor, nothing was loaded:\n"
            + "\n".join(f"- {difference}" for difference in differences)
        )
        self.differences = differences


class StateTensor:
    """`n` seeds. `state["alpha"]` is the live column: [n], or [n, length] where it has a length.

    The live columns belong to the writer; other threads read a `snapshot()`.
    """

    def __init__(
        self, n: int, *, lifecycle: Lifecycle | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.lifecycle = lifecycle if lifecycle is not None else Lifecycle.default()
        self.n = n
        self._rules = {c.name: ColumnRule.of(c, self.lifecycle) for c in self.lifecycle.columns}
        self._columns = {
            name: rule.default(n, torch.device(device)) for name, rule in self._rules.items()
        }
        self.codes.fill_(self.lifecycle.initial)
        self._commit = RLock()
        self._writer = RLock()
        self._writer_name = ""

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, column: str) -> Tensor:
        return self._columns[self._rule(column).column.name]

    @property
    def columns(self) -> Mapping[str, Tensor]:
        """The live columns by name."""
        return self._columns

    @property
    def device(self) -> torch.device:
        """Where all columns live."""
        return self.codes.device

    @property
    def codes(self) -> Tensor:
        """The live column of state codes, [n]."""
        return self._columns[self.lifecycle.roles["state"].name]

    @property
    def epochs(self) -> Tensor:
        """The live column of ticks in the state, [n]."""
        return self._columns[self.lifecycle.roles["epochs"].name]

    def role(self, role: str) -> Tensor | None:
        """The live column that the step keeps for a purpose; None where the spec has none."""
        column = self.lifecycle.roles.get(role)
        return None if column is None else self._columns[column.name]

    @property
    def bytes_per_seed(self) -> int:
        """Storage of one row over all columns."""
        return sum(rule.dtype.itemsize * rule.column.length for rule in self._rules.values())

    def state(self, row: int) -> IntEnum:
        """The state of one row."""
        return self.lifecycle.State(int(self.codes[row]))

    def history(self, row: int) -> tuple[IntEnum, ...]:
        """The states that a row has left, oldest first; the last ten by default."""
        ring, count = self.role("history"), self.role("history_count")
        if ring is None or count is None:
            return ()
        codes = recall(ring[row].tolist(), int(count[row]))
        return tuple(self.lifecycle.State(code) for code in codes)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer; raises `ConcurrentWrite` where another thread is. Nests."""
        if not self._writer.acquire(blocking=False):
            raise ConcurrentWrite(self._writer_name)
        try:
            self._writer_name = current_thread().name
            yield
        finally:
            self._writer.release()

    @contextmanager
    def commit(self) -> Iterator[None]:
        """Hold readers off while several columns change together; keep it short."""
        with self.writing(), self._commit:
            yield

    def update(self, rows: Rows, values: Mapping[str, Values]) -> None:
        """Write columns of some rows: all of it, or nothing and an `InvalidUpdate`.

        Args:
            rows: Row numbers, each at most once.
            values: By column, one number for all rows, or a tensor or list [rows] or
                [rows, length]. Integers must fit the column, codes must be states.
        """
        with self.writing():
            index = row_index(rows, self.n, self.device)
            ready = {n: self._rule(n).prepare(v, index) for n, v in values.items()}
            with self._commit:
                for name, prepared in ready.items():
                    self._columns[name][index] = prepared

    def increment(self, rows: Rows, column: str, by: int = 1) -> None:
        """Count an integer column of some rows up; it saturates at the end of its range."""
        with self.writing():
            index, rule = row_index(rows, self.n, self.device), self._rule(column)
            if rule.dtype.is_floating_point or by < 0:
                raise InvalidUpdate(f"column {column!r} cannot count up by {by}")
            total = self._columns[column][index].long() + by
            with self._commit:
                self._columns[column][index] = total.clamp(max=int(rule.high)).to(rule.dtype)

    def move(self, rows: Rows, state: IntEnum | int) -> None:
        """Put rows into a state without an edge, as a rewind does; the rest is kept as in a step.

        That is: epochs begin at 0, and the state left becomes parent and history.
        """
        with self.commit():
            index = row_index(rows, self.n, self.device)
            ready = self._rules[self.lifecycle.roles["state"].name].prepare(int(state), index)
            self.remember(index, self.codes[index])
            self.codes[index] = ready
            self.epochs[index] = 0

    def remember(self, rows: Tensor, left: Tensor) -> None:
        """Keep the states that rows leave as parent and history; part of a move.

        Args:
            rows: int64 [M], each once.
            left: Codes [M].
        """
        parent, ring, count = map(self.role, ("parent", "history", "history_count"))
        if parent is not None:
            parent[rows] = left.to(parent.dtype)
        if ring is not None and count is not None:
            remember(ring, count, rows, left)

    def reset(self, rows: Rows, *, keep: tuple[str, ...] = ()) -> None:
        """Give rows the defaults of all columns but `keep`; the state is the initial one."""
        with self.commit():
            index = row_index(rows, self.n, self.device)
            for name, rule in self._rules.items():
                if name not in keep:
                    initial = rule.column.role == "state"
                    value = self.lifecycle.initial if initial else rule.column.default
                    self._columns[name][index] = value

    def rows(self, start: int, stop: int) -> StateRows:
        """The rows of one site, as a view that follows every change."""
        if not 0 <= start <= stop <= self.n:
            raise InvalidUpdate(f"rows {start} to {stop} are not within 0 to {self.n}")
        return StateRows(self, start, stop)

    def snapshot(self) -> StateTensor:
        """A copy that holds all of every update, for readers in other threads and for rewinds."""
        copy = StateTensor(0, lifecycle=self.lifecycle, device=self.device)
        copy.n = self.n
        with self._commit:
            copy._columns = {name: column.clone() for name, column in self._columns.items()}
        return copy

    def to(self, device: torch.device | str) -> Self:
        """Move all columns, in place as `nn.Module.to` does; returns itself."""
        with self.commit():
            self._columns = {n: column.to(device) for n, column in self._columns.items()}
        return self

    def state_dict(self) -> dict[str, Any]:
        """A consistent copy: `spec`, `digest` and one tensor a column under `columns`."""
        return {
            "spec": self.lifecycle.name,
            "digest": self.lifecycle.digest,
            "columns": dict(self.snapshot().columns),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, all of it or nothing and a `StateMismatch`."""
        with self.writing():
            differences = self._differences(state_dict)
            if differences:
                raise StateMismatch(differences)
            with self._commit:
                for name, column in self._columns.items():
                    column.copy_(state_dict["columns"][name])

    def _differences(self, state_dict: Mapping[str, Any]) -> list[str]:
        own = {"spec": self.lifecycle.name, "digest": self.lifecycle.digest}
        found = [
            f"{key}: {state_dict.get(key)!r} was saved, this lifecycle has {value!r}"
            for key, value in own.items()
            if state_dict.get(key) != value
        ]
        if state_dict.get("digest") != self.lifecycle.digest:
            found[-1] += f"; {advice(state_dict.get('digest'), self.lifecycle)}"
        columns = state_dict.get("columns", {})
        found += [f"column {name!r} is unknown here" for name in columns if name not in self._rules]
        for name, rule in self._rules.items():
            found += self._column_differences(rule, columns.get(name))
        return found

    def _column_differences(self, rule: ColumnRule, saved: Tensor | None) -> list[str]:
        name = rule.column.name
        if saved is None:
            return [f"column {name!r} is missing"]
        here, there = (rule.dtype, rule.shape(self.n)), (saved.dtype, tuple(saved.shape))
        if here != there:
            return [
                f"column {name!r}: {there[0]} {list(there[1])} was saved, {here[0]} {list(here[1])} is here"
            ]
        try:
            rule.prepare(saved.to(self.device), torch.arange(self.n, device=self.device))
        except InvalidUpdate as error:
            return [str(error)]
        return []

    def _rule(self, column: str) -> ColumnRule:
        if column not in self._rules:
            raise UnknownName("column", column, self._rules, self.lifecycle.name)
        return self._rules[column]

    def __deepcopy__(self, memo: dict[int, object]) -> StateTensor:
        return self.snapshot()

    def __reduce__(self) -> tuple[Callable[..., StateTensor], tuple[Lifecycle, dict[str, Tensor]]]:
        return _restored, (self.lifecycle, self._columns)  # locks cannot be pickled

    def __repr__(self) -> str:
        return f"StateTensor({self.n} seeds of {self.lifecycle.name!r} on {self.device})"


def _restored(lifecycle: Lifecycle, columns: dict[str, Tensor]) -> StateTensor:
    state = StateTensor(len(next(iter(columns.values()))), lifecycle=lifecycle)
    state._columns = columns
    return state


@dataclass(frozen=True)
class StateRows:
    """The rows `start` to `stop` of a state tensor, counted from 0 in all calls."""

    state: StateTensor
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, column: str) -> Tensor:
        return self.state[column][self.start : self.stop]

    def update(self, rows: Rows, values: Mapping[str, Values]) -> None:
        """As `StateTensor.update`, with rows of this view."""
        index = row_index(rows, len(self), self.state.device)
        self.state.update(index + self.start, values)
