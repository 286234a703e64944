"""A spec with what every check asks of it: edges by state, calls, and what can happen at a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from kasmina_generator.model import Edge, Event, Spec, State
from kasmina_generator.prove.domain import Domain, domains
from kasmina_generator.prove.regions import Finder


@dataclass(frozen=True, slots=True)
class Move:
    """What a step does with an entity in one region; `edge` None: it stays and grows older."""

    edge: Edge | None
    command: str | None  # the command that is given
    tick: bool
    refused: Edge | None = None  # it stays because this edge found no room

    def label(self) -> str:
        """Return the step's event as a witness names it."""
        parts = [part for part in (self.command, "tick" if self.tick else None) if part]
        if self.refused:
            parts.append(f"no room for {self.refused.event} to {self.refused.target}")
        elif self.edge and self.edge.event != self.command:
            parts.append(self.edge.event)
        return " + ".join(parts)


@dataclass(frozen=True)
class Machine:
    """A spec with what every check asks of it."""

    spec: Spec
    finder: Finder = field(repr=False)

    @cached_property
    def states(self) -> dict[str, State]:
        """States by name."""
        return {state.name: state for state in self.spec.states}

    @cached_property
    def events(self) -> dict[str, Event]:
        """Events by name; the event of recycling edges is none of them."""
        return {event.name: event for event in self.spec.events}

    @cached_property
    def groups(self) -> dict[str, frozenset[str]]:
        """The states of each group, and each state as a group of its own."""
        single = {state.name: frozenset([state.name]) for state in self.spec.states}
        return single | {group.name: frozenset(group.states) for group in self.spec.groups}

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """The values of each field and limit."""
        return domains(self.spec)

    @cached_property
    def edges(self) -> dict[str, tuple[Edge, ...]]:
        """The edges of each state, in the order in which they are tried."""
        leaving: dict[str, list[Edge]] = {state.name: [] for state in self.spec.states}
        for edge in self.spec.edges:
            leaving[edge.source].append(edge)
        return {name: tuple(edges) for name, edges in leaving.items()}

    @cached_property
    def roomy(self) -> frozenset[int]:
        """The edges, by index, that need no room."""
        full = {
            e.index for e in self.spec.edges for c in self.spec.capacities if _asks(e, c.states)
        }
        return frozenset(edge.index for edge in self.spec.edges) - full

    def is_command(self, edge: Edge) -> bool:
        """Say whether an edge waits for a command; the others pass at ticks."""
        return edge.event in self.events and self.events[edge.event].kind == "command"

    def is_urgent(self, edge: Edge) -> bool:
        """Say whether an edge's event is urgent."""
        return edge.event in self.events and self.events[edge.event].urgent

    def waits(self, state: State) -> bool:
        """Say whether a state is declared to wait without bound."""
        return not state.terminal and state.max_epochs is None

    def same_trigger(self, one: Edge, other: Edge) -> bool:
        """Say whether two edges of a state answer the same call: an event, or the tick."""
        if self.is_command(one) or self.is_command(other):
            return one.event == other.event
        return True

    def tied(self, one: Edge, other: Edge) -> bool:
        """Say whether only the order of declaration decides between two edges that differ."""
        same = self.same_trigger(one, other) and one.priority == other.priority
        return same and _result(one) != _result(other)

    def moves(self, edges: tuple[Edge, ...], enabled: int) -> Iterator[Move]:
        """Yield everything that can happen where the guards in `enabled` hold.

        Several commands at once give nothing new: the first of them in the order of edges is
        taken, as if it had come alone.
        """
        passing = [edge for place, edge in enumerate(edges) if enabled >> place & 1]
        own = next((edge for edge in passing if not self.is_command(edge)), None)
        yield from self._at_tick(own, None)
        seen: set[str] = set()
        for edge in passing:
            if self.is_command(edge) and edge.event not in seen:
                seen.add(edge.event)
                yield Move(edge, edge.event, tick=False)
                if own is None or edge.index < own.index:
                    yield from self._at_tick(edge, edge.event)

    def _at_tick(self, edge: Edge | None, command: str | None) -> Iterator[Move]:
        yield Move(edge, command, tick=True)
        if edge is not None and edge.index not in self.roomy:
            yield Move(None, command, tick=True, refused=edge)


def _result(edge: Edge) -> tuple[object, ...]:
    return (edge.target, edge.effects, edge.recycle)


def _asks(edge: Edge, states: tuple[str, ...]) -> bool:
    return edge.target in states and edge.source not in states
