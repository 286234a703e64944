"""The one `transitions` machine that all managers of a lifecycle share.

Two of the library's habits are left out, because they cost more than everything else together
(measured on one core, transitions 0.9.3): it binds a method per event to every model, and it walks
six lists of callbacks and logs thirteen lines per transition (5.1 us; 1.4 us without).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from transitions import EventData, Machine, Transition

from kasmina.lifecycle.ring import ring_end
from kasmina.lifecycle.spec import Edge, Lifecycle

STATE = "_state"  # the attribute of a model that holds its state
_HISTORY = 10  # states that are kept where the spec stores no history


class Model(Protocol):
    """What the machine moves."""

    def leave(self, edge: Edge) -> None:
        """Hear of an edge whose guard holds, just before the state changes."""
        ...


class _Transition(Transition):
    """The library's transition with the manager's callbacks in place of its own."""

    edge: Edge

    def execute(self, event_data: EventData) -> bool:
        if not all(condition.check(event_data) for condition in self.conditions):
            return False
        model = cast("Model", event_data.model)
        model.leave(self.edge)
        event_data.machine.set_state(cast("str", self.dest), model)
        return True


class _Machine(Machine):
    transition_cls = _Transition


class Way(NamedTuple):
    """An edge, and what the shared machine needs to take it."""

    edge: Edge
    guard: Callable[[Any, Any, int], bool]
    transition: Any
    event: Any
    asks_for_room: bool


class Shared(NamedTuple):
    """What all managers of a lifecycle have in common."""

    machine: Any
    ways: Mapping[IntEnum, tuple[Way, ...]]  # by state, in the order in which they are tried
    by_tick: Mapping[IntEnum, tuple[Way, ...]]  # the same without commands
    by_event: Mapping[tuple[IntEnum, int | str], tuple[Way, ...]]  # by state, and event or its name
    commands: frozenset[IntEnum]
    highest_epochs: int
    highest_generation: int
    ring: int  # states that the history keeps
    count_end: int  # where the count of transitions goes back by one turn of the ring
    context: Any
    limits: Any


@cache
def share(lifecycle: Lifecycle) -> Shared:
    """The machine of a lifecycle and what follows from its spec; made once."""
    machine, ways = _machine(lifecycle)
    by_state = {s: tuple(w for w in ways if w.edge.source is s) for s in lifecycle.State}
    commands = frozenset(lifecycle.commands)
    ring = lifecycle.roles["history"].length if "history" in lifecycle.roles else _HISTORY
    return Shared(
        machine=machine,
        ways=by_state,
        by_tick={
            state: tuple(way for way in found if way.edge.event not in commands)
            for state, found in by_state.items()
        },
        by_event=_by_event(ways),
        commands=commands,
        highest_epochs=lifecycle.tables.MOST_EPOCHS,
        highest_generation=_highest(lifecycle, "generation", "int32"),
        ring=ring,
        count_end=ring_end(_highest(lifecycle, "history_count", "int16"), ring),
        context=lifecycle.Context(),
        limits=lifecycle.Limits(),
    )


def _machine(lifecycle: Lifecycle) -> tuple[Any, tuple[Way, ...]]:
    """The generated configuration with its guards bound as functions, and the edges in it."""
    machine = _Machine(
        model=None,
        states=lifecycle.machine.STATES,
        initial=lifecycle.initial,
        auto_transitions=False,
        model_attribute=STATE,
    )
    ways = []
    for edge, arguments in zip(lifecycle.edges, lifecycle.machine.TRANSITIONS, strict=True):
        guard = lifecycle.guards[edge.index]
        machine.add_transition(**{**arguments, "conditions": guard})
        event = machine.events[arguments["trigger"]]
        transition = cast("_Transition", event.transitions[edge.source.name][-1])
        transition.edge = edge
        ways.append(Way(edge, guard, transition, event, edge.index in lifecycle.edges_with_room))
    return machine, tuple(ways)


def _by_event(ways: Iterable[Way]) -> dict[tuple[IntEnum, int | str], tuple[Way, ...]]:
    found: dict[tuple[IntEnum, int | str], tuple[Way, ...]] = {}
    for way in ways:
        if way.edge.event is not None:
            for event in (int(way.edge.event), way.edge.event.name):
                key = (way.edge.source, event)
                found[key] = (*found.get(key, ()), way)
    return found


def _highest(lifecycle: Lifecycle, role: str, dtype: str) -> int:
    """The largest value of a counter's column; of `dtype` where the spec stores no such column."""
    column = lifecycle.roles.get(role)
    return int(np.iinfo(column.dtype if column is not None else dtype).max)
