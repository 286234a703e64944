"""Why one seed did not move. Three different answers, because they call for different actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

from kasmina.errors import KasminaError
from kasmina.lifecycle.spec import Edge, Scalar


class IllegalTransition(KasminaError):
    """The state has no edge for the event."""

    def __init__(self, state: IntEnum, event: IntEnum, legal: Sequence[IntEnum]) -> None:
        names = ", ".join(each.name for each in legal) or "none, the state is terminal"
        super().__init__(f"{state.name} has no edge for {event.name}; legal events: {names}")
        self.state = state
        self.event = event
        self.legal = tuple(legal)


class GuardRefused(KasminaError):
    """There is an edge, and its guard does not hold; `values` are those that it read."""

    def __init__(self, edge: Edge, guard: str, values: Mapping[str, Scalar]) -> None:
        read = ", ".join(f"{name} = {value}" for name, value in values.items())
        super().__init__(f"{describe(edge)} is not open: {guard or 'always'} with {read}")
        self.edge = edge
        self.guard = guard
        self.values = dict(values)


class NoRoom(KasminaError):
    """The guard holds, and the capacity that the edge leads into is full."""

    def __init__(self, edge: Edge) -> None:
        super().__init__(f"{describe(edge)} has to wait: {edge.target.name} has no room")
        self.edge = edge


def describe(edge: Edge) -> str:
    """An edge in words, with its place in the spec."""
    event = edge.event.name if edge.event is not None else "recycle"
    return f"{edge.source.name} --{event}--> {edge.target.name} (line {edge.line} of the spec)"
