"""The three interpreters of a generated package, asked the same questions."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.generated.cases import boundary_cases, masks
from tests.generated.packages import Package

FIELDS = ("state", "epochs", "edge", "refused")
Answer = dict[str, Tensor]  # by the names in FIELDS


class Batch(NamedTuple):
    """N rows before a step."""

    state: Tensor  # int8 [N]
    epochs: Tensor  # int16 [N]
    events: Tensor  # int32 [N]
    context: Any  # the package's VectorContext

    def at(self, rows: Tensor) -> Batch:
        """Return some of the rows, in the order given."""
        context = type(self.context)(*(column[rows] for column in self.context))
        return Batch(self.state[rows], self.epochs[rows], self.events[rows], context)


def part(package: Package, name: str) -> Any:
    """Return a module of a package, e.g. `kernels.step`."""
    return importlib.import_module(f"{package.vector.__name__.rpartition('.')[0]}.{name}")


def boundary_batch(package: Package, limits: dict[str, float], most: int = 10**9) -> Batch:
    """Return every state x clock x field at its boundaries x commands, none left out."""
    by_state = list(boundary_cases(package, limits, most))
    commands = torch.tensor(masks(package), dtype=torch.int32)
    columns: dict[str, list[Tensor]] = {name: [] for name in package.field_names}
    for cases in by_state:
        context = package.context(len(cases.state), **cases.columns)
        for name, column in context._asdict().items():
            columns[name].append(column.repeat_interleave(len(commands)))
    state = torch.cat([cases.state for cases in by_state])
    return Batch(
        state.repeat_interleave(len(commands)),
        torch.cat([cases.epochs for cases in by_state]).repeat_interleave(len(commands)),
        commands.repeat(len(state)),
        package.vector.VectorContext(*(torch.cat(parts) for parts in columns.values())),
    )


def by_machine(package: Package, batch: Batch, limits: dict[str, float], tick: bool) -> Answer:
    """Let `transitions` move each row as if there were room for all."""
    rows = machine_rows(package, batch, limits)
    sequential = part(package, "testing.sequential")
    edges = []
    for row, events in zip(rows, batch.events.tolist(), strict=True):
        edge = sequential.wanted(row, events, tick)
        edges.append(-1 if edge is None else edge.index)
        if edge is not None:
            sequential.move(row, edge)
        else:
            row.epochs = min(row.epochs + tick, 32767)
    return answer(rows, edges, [False] * len(rows))


def machine_rows(package: Package, batch: Batch, limits: dict[str, float]) -> list[Any]:
    """Return the rows as objects of the shared machine."""
    sequential = part(package, "testing.sequential")
    in_force = package.lifecycle.Limits(**limits)
    columns = [column.tolist() for column in batch.context]
    measured = list(zip(*columns, strict=True)) or [()] * len(batch.state)
    seen: dict[str, Any] = {}
    rows = []
    columns = [batch.state.tolist(), batch.epochs.tolist(), measured]
    for state, epochs, values in zip(*columns, strict=True):
        key = repr(values)
        if key not in seen:
            seen[key] = package.lifecycle.Context(*values)
        place = package.lifecycle.State(state)
        rows.append(sequential.Row(place, epochs, seen[key], in_force))
    return rows


def answer(rows: list[Any], edges: list[int], refused: list[bool]) -> Answer:
    """Return what became of rows, in the dtypes of the tensor steps."""
    return {
        "state": torch.tensor([int(row.state) for row in rows], dtype=torch.int8),
        "epochs": torch.tensor([row.epochs for row in rows], dtype=torch.int16),
        "edge": torch.tensor(edges, dtype=torch.int32),
        "refused": torch.tensor(refused, dtype=torch.bool),
    }


def with_capacities(
    package: Package, batch: Batch, limits: dict[str, float], tick: bool
) -> dict[str, Answer]:
    """Return what each interpreter's whole step says."""
    rows = machine_rows(package, batch, limits)
    outcomes = part(package, "testing.sequential").step(rows, batch.events.tolist(), tick)
    inputs = (*batch, package.limits(**limits), tick)
    return {
        "transitions": answer(rows, [o.edge for o in outcomes], [o.refused for o in outcomes]),
        "torch": package.vector.step(*inputs)._asdict(),
        "triton": part(package, "kernels.step").step(*inputs)._asdict(),
    }


def without_capacities(
    package: Package, batch: Batch, limits: dict[str, float], tick: bool
) -> dict[str, Answer]:
    """Return what each interpreter says as if there were room for all."""
    inputs = (*batch, package.limits(**limits), tick)
    return {
        "transitions": by_machine(package, batch, limits, tick),
        "torch": package.vector.decide(*inputs)._asdict(),
        "triton": part(package, "kernels.step").decide(*inputs)._asdict(),
    }


def mismatches(package: Package, batch: Batch, answers: dict[str, Answer]) -> list[str]:
    """Return the rows about which the interpreters do not agree, in words."""
    first, *others = answers.values()
    differs = torch.zeros_like(batch.state, dtype=torch.bool)
    for other in others:
        for name in FIELDS:
            assert first[name].dtype == other[name].dtype
            differs |= first[name] != other[name]
    return [described(package, batch, answers, row) for row in differs.nonzero()[:, 0].tolist()]


def described(package: Package, batch: Batch, answers: dict[str, Answer], row: int) -> str:
    """Say what was asked of a row, and what each interpreter answers."""
    state = package.lifecycle.State(int(batch.state[row])).name
    fields = {name: column[row].item() for name, column in batch.context._asdict().items()}
    said = {
        name: [answer[field][row].item() for field in FIELDS] for name, answer in answers.items()
    }
    return f"{state}, epochs {batch.epochs[row]}, events {batch.events[row]:#x}, {fields}: {said}"
