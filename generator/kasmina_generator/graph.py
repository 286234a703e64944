"""States as nodes, edges as arcs: the walks that checks and their witnesses are made of."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import networkx as nx

from kasmina_generator.model import Edge

Path = tuple[str, ...]  # state, event, state, ...


class Graph:
    """The arcs of a machine, each under its first event."""

    def __init__(self, states: Iterable[str], edges: Iterable[Edge]) -> None:
        self._graph: nx.DiGraph[str] = nx.DiGraph()
        self._graph.add_nodes_from(states)
        for edge in edges:
            if not self._graph.has_edge(edge.source, edge.target):
                self._graph.add_edge(edge.source, edge.target, event=edge.event)

    def successors(self, state: str) -> list[str]:
        """Return the states one arc away."""
        return list(self._graph.successors(state))

    def predecessors(self, state: str) -> list[str]:
        """Return the states from which one arc leads here."""
        return list(self._graph.predecessors(state))

    def without(self, states: Iterable[str]) -> Graph:
        """Return the graph with some states taken out."""
        smaller = Graph((), ())
        smaller._graph = self._graph.copy()
        smaller._graph.remove_nodes_from(list(states))
        return smaller

    def reachable(self, sources: Iterable[str]) -> set[str]:
        """Return the states that can be reached from any of `sources`, themselves included."""
        found: set[str] = set()
        for source in sources:
            if source in self._graph and source not in found:
                found |= {source} | nx.descendants(self._graph, source)
        return found

    def path(self, sources: Iterable[str], target: str) -> Path:
        """Return the shortest way to `target`; only `target` itself where there is none."""
        for source in sources:
            if source in self._graph and nx.has_path(self._graph, source, target):
                return self._labelled(nx.shortest_path(self._graph, source, target))
        return (target,)

    def cycle(self, states: Iterable[str]) -> Path:
        """Return a way around among `states`, first state repeated; () where there is none."""
        inner = self._graph.subgraph(states)
        try:
            steps = nx.find_cycle(inner)
        except nx.NetworkXNoCycle:
            return ()
        return self._labelled([steps[0][0], *(step[1] for step in steps)])

    def closed_components(self) -> list[set[str]]:
        """Return the sets of states that reach each other and nothing else."""
        return [set(part) for part in nx.attracting_components(self._graph)]

    def _labelled(self, states: list[str]) -> Path:
        path = [states[0]]
        for source, target in pairwise(states):
            path += [self._graph.edges[source, target]["event"], target]
        return tuple(path)
