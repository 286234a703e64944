"""A machine as the checks look at it: its graphs, its edges by state, and who asks for room."""

from __future__ import annotations

from functools import cached_property

from kasmina_generator.graph import Graph, Path
from kasmina_generator.interval import Range, verdict
from kasmina_generator.model import Capacity, Edge, Spec, State
from kasmina_generator.number import INT16_MAX
from kasmina_generator.symbols import ranges_of


class Structure:
    """One spec and what is derived from it once."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.states = {state.name: state for state in spec.states}
        self.groups = {group.name: group.states for group in spec.groups}
        self.automatic = {event.name for event in spec.events if event.kind == "automatic"}
        self.ranges = ranges_of(spec)

    @cached_property
    def live_edges(self) -> tuple[Edge, ...]:
        """Return the edges whose guards can hold."""
        return tuple(e for e in self.spec.edges if verdict(e.guard, self.ranges) is not False)

    @cached_property
    def graph(self) -> Graph:
        """Return the graph of everything that can happen to a slot."""
        return Graph(self.states, self.live_edges)

    @cached_property
    def one_life(self) -> Graph:
        """Return the graph of one generation: without the edges that re-arm a slot."""
        return Graph(self.states, (edge for edge in self.live_edges if not edge.recycle))

    @cached_property
    def beginnings(self) -> tuple[str, ...]:
        """Return the states in which a generation begins."""
        rearmed = [edge.target for edge in self.live_edges if edge.recycle]
        return tuple(dict.fromkeys([self.spec.initial, *rearmed]))

    def edges_from(self, state: str) -> tuple[Edge, ...]:
        """Return the edges of a state in the order in which they are tried."""
        return self._edges_by_source.get(state, ())

    @cached_property
    def _edges_by_source(self) -> dict[str, tuple[Edge, ...]]:
        by_source: dict[str, list[Edge]] = {}
        for edge in self.spec.edges:
            by_source.setdefault(edge.source, []).append(edge)
        return {source: tuple(edges) for source, edges in by_source.items()}

    def members(self, name: str) -> tuple[str, ...]:
        """Return the states of a group, or the state itself."""
        return self.groups.get(name, (name,))

    def path_to(self, state: str) -> Path:
        """Return the shortest way from the initial state."""
        return self.graph.path([self.spec.initial], state)

    def path_through(self, edge: Edge) -> Path:
        """Return the shortest way from the initial state over one edge."""
        return (*self.path_to(edge.source), edge.event, edge.target)

    def is_automatic(self, edge: Edge) -> bool:
        """Say whether an edge is taken by itself at an epoch's end."""
        return edge.recycle or edge.event in self.automatic

    def when_timed_out(self, edge: Edge, state: State) -> bool | None:
        """Say whether a guard always or never holds once `max_epochs` is reached."""
        assert state.max_epochs is not None
        overdue = ranges_of(self.spec, Range(state.max_epochs, INT16_MAX))
        return verdict(edge.guard, overdue)

    def capacity_asked(self, edge: Edge) -> Capacity | None:
        """Return the first capacity that may refuse an edge."""
        for capacity in self.spec.capacities:
            if edge.target in capacity.states and edge.source not in capacity.states:
                return capacity
        return None
