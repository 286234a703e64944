"""One synchronous step of all seeds of a model.

The generated step decides, in Triton where that runs and else in torch; this module writes the
decision into the state tensor and says what became of every command. Letters: N seeds, M of them
moved, U commands that moved nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.lifecycle.inputs import ContextTable, LimitTable, RefusedValue
from kasmina.lifecycle.spec import Lifecycle
from kasmina.lifecycle.tensor import StateTensor


class InvalidStep(KasminaError, ValueError):
    """Inputs that do not fit the state tensor; nothing was stepped."""


class Refusal(IntEnum):
    """Why a command moved nothing."""

    ILLEGAL = 0  # the state has no edge for it: `IllegalTransition`
    GUARD = 1  # no guard of its edges holds: `GuardRefused`
    NO_ROOM = 2  # its edge leads into a capacity that is full: `NoRoom`
    SUPERSEDED = 3  # an edge that is tried earlier was wanted


@dataclass(frozen=True)
class UnusedEvents:
    """The commands of a step that moved nothing, one entry each, by row and then by event."""

    rows: Tensor  # int64 [U]
    events: Tensor  # int64 [U]
    refusals: Tensor  # int64 [U], codes of `Refusal`
    lifecycle: Lifecycle

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[int, IntEnum, Refusal]]:
        columns = (self.rows.tolist(), self.events.tolist(), self.refusals.tolist())
        for row, event, refusal in zip(*columns, strict=True):
            yield row, self.lifecycle.Event(event), Refusal(refusal)


class StepResult(NamedTuple):
    """What a step did; every tensor is new and belongs to the caller."""

    edge: Tensor  # int32 [N], number of the edge that was taken, -1 for none
    refused: Tensor  # bool [N], an edge was wanted and its capacity had no room
    before: Tensor  # int8 [N], codes of the states before the step
    after: Tensor  # int8 [N], codes of the states after it
    rows: Tensor  # int64 [M], the seeds that moved, ascending
    recycled: Tensor  # int64, those of `rows` whose slot began a new generation
    unused_events: UnusedEvents


def step(
    state: StateTensor,
    events: Tensor | None,
    context: ContextTable | Any,
    limits: LimitTable | Any,
    tick: bool,
) -> StepResult:
    """Move every seed along at most one edge.

    Guards read the rows and capacities as they stood before the step. Nothing but `state` is
    written; a recycled row gets the defaults of all columns that are not kept for its slot.

    Args:
        state: N seeds; written by this thread.
        events: int32 [N], one bit a command (`1 << Event.X`); None for no commands.
        context: The measurements, a `ContextTable` or the generated `VectorContext`.
        limits: The limits in force, a `LimitTable` or the generated `VectorLimits`.
        tick: True at the end of an epoch: automatic edges are tried and epochs count.

    Raises:
        InvalidStep: An input has the wrong shape, dtype or device, or a bit that names no event.
        RefusedValue: A measurement that the spec refuses.
        ConcurrentWrite: Another thread writes.
    """
    with state.writing():
        inputs = _Inputs.checked(state, events, context, limits, tick)
        before = state.codes.clone()
        decision = _decide(state, inputs)
        rows = (decision.edge >= 0).nonzero().squeeze(1)
        recycled = rows[_event_of(state.lifecycle, decision.edge[rows]) < 0]
        unused = _unused_events(state, inputs, decision)
        with state.commit():
            _apply(state, decision, before, rows, recycled)
    return StepResult(
        decision.edge, decision.refused, before, decision.state, rows, recycled, unused
    )


def is_at_rest(state: StateTensor) -> bool:
    """Whether no seed can move at a tick unless a command is given."""
    return not state.lifecycle.moves_by_itself[state.codes.cpu().numpy()].any()


def rest(state: StateTensor) -> None:
    """A tick of a state that is at rest: what `step` without commands would make of it.

    Epochs count and saturate, and no measurement is read.

    Raises:
        ConcurrentWrite: Another thread writes.
    """
    with state.commit():
        state.epochs.add_(state.epochs < state.lifecycle.tables.MOST_EPOCHS)


class _Inputs(NamedTuple):
    """The arguments of the generated step after state and epochs."""

    events: Tensor
    context: Any
    limits: Any
    tick: bool

    @classmethod
    def checked(
        cls, state: StateTensor, events: Tensor | None, context: Any, limits: Any, tick: bool
    ) -> _Inputs:
        if events is None:
            events = torch.zeros(state.n, dtype=torch.int32, device=state.device)
        vector = context.vector() if isinstance(context, ContextTable) else context
        bounds = limits.vector(state.device) if isinstance(limits, LimitTable) else limits
        _check_events(state, events)
        _check_context(state, vector)
        return cls(events, vector, bounds, tick)

    def at(self, rows: Tensor) -> _Inputs:
        context = type(self.context)(*(field[rows] for field in self.context))
        return self._replace(events=self.events[rows], context=context)


def _check_events(state: StateTensor, events: Tensor) -> None:
    if events.dtype != torch.int32 or tuple(events.shape) != (state.n,):
        raise InvalidStep(
            f"events must be int32 [{state.n}], one bit mask a seed; they are "
            f"{str(events.dtype).removeprefix('torch.')} {list(events.shape)}"
        )
    _check_device(state, "events", events)
    known = (1 << len(state.lifecycle.Event)) - 1
    unknown = (events & ~known) != 0
    if bool(unknown.any()):
        row = int(unknown.nonzero()[0, 0])
        raise InvalidStep(
            f"row {row}: events {int(events[row]) & 0xFFFFFFFF:#x} has bits that name no event; "
            f"legal bits: {known:#x}"
        )


def _check_context(state: StateTensor, context: Any) -> None:
    for name, field in zip(context._fields, context, strict=True):
        if tuple(field.shape) != (state.n,):
            raise InvalidStep(
                f"context field {name!r} must have one value for each of {state.n} seeds; its "
                f"shape is {list(field.shape)}"
            )
        _check_device(state, f"context field {name!r}", field)


def _check_device(state: StateTensor, name: str, values: Tensor) -> None:
    if values.device != state.device:
        raise InvalidStep(
            f"{name}: on {values.device}, where the state is on {state.device}; move it by "
            ".to(state.device)"
        )


def _decide(state: StateTensor, inputs: _Inputs) -> Any:
    try:
        return state.lifecycle.step_on(state.device)(state.codes, state.epochs, *inputs)
    except ValueError as error:  # a measurement that the spec refuses
        raise RefusedValue(str(error)) from error


def _apply(
    state: StateTensor, decision: Any, before: Tensor, rows: Tensor, recycled: Tensor
) -> None:
    state.codes.copy_(decision.state)
    state.epochs.copy_(decision.epochs)
    if len(rows) == 0:
        return
    state.remember(rows, before[rows])
    if len(recycled):
        _begin_generation(state, recycled)


def _begin_generation(state: StateTensor, rows: Tensor) -> None:
    generation = state.lifecycle.roles.get("generation")
    if generation is not None:
        state.increment(rows, generation.name)
    kept = ("state", "epochs", "generation", "history", "history_count")
    names = (state.lifecycle.roles[role].name for role in kept if role in state.lifecycle.roles)
    state.reset(rows, keep=tuple(names))


def _unused_events(state: StateTensor, inputs: _Inputs, decision: Any) -> UnusedEvents:
    """Every command bit that no edge used, with the reason. Looks only at rows with commands."""
    lifecycle, device = state.lifecycle, state.device
    asked = inputs.events.nonzero().squeeze(1)
    if len(asked) == 0:
        return UnusedEvents(asked, asked, asked, lifecycle)
    bits = torch.arange(len(lifecycle.Event), device=device)
    present = (inputs.events[asked].unsqueeze(1) >> bits & 1).bool()
    used = _event_of(lifecycle, decision.edge[asked]).unsqueeze(1) == bits
    place, events = (present & ~used).nonzero(as_tuple=True)
    rows = asked[place]
    refusals = _refusals(state, inputs.at(rows), rows, events, decision.refused[rows])
    return UnusedEvents(rows, events, refusals, lifecycle)


def _refusals(
    state: StateTensor, inputs: _Inputs, rows: Tensor, events: Tensor, refused: Tensor
) -> Tensor:
    """Why each command moved nothing: decide its row again, and once with it alone."""
    if len(rows) == 0:
        return events  # nothing to ask; as empty as the answer
    lifecycle = state.lifecycle
    seed = (state.codes[rows], state.epochs[rows])
    wanted = lifecycle.decide(*seed, *inputs)
    alone = lifecycle.decide(*seed, *inputs._replace(events=(1 << events).int(), tick=False))
    legal = lifecycle.table("LEGAL_COMMANDS", rows.device)
    no_room = refused & (_event_of(lifecycle, wanted.edge) == events)
    refusal = torch.where(no_room, Refusal.NO_ROOM, Refusal.SUPERSEDED)
    refusal = torch.where(alone.edge < 0, Refusal.GUARD, refusal)
    return torch.where(legal[seed[0].long(), events], refusal, Refusal.ILLEGAL)


def _event_of(lifecycle: Lifecycle, edges: Tensor) -> Tensor:
    """The event of each edge; -1 for no edge and for recycle."""
    events = lifecycle.table("EDGE_EVENT", edges.device)[edges.long()].long()
    return torch.where(edges >= 0, events, -1)
