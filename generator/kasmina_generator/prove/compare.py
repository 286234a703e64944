"""Whether two machines take the same steps: proved over all regions of both, or a step that differs.

Of several events at once the first edge in order wins, so two machines agree on all sets of events
if they agree on every one and every two (a winner over a set beats each of the others alone).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

from kasmina_generator.model import Edge, Spec
from kasmina_generator.prove.domain import domains
from kasmina_generator.prove.evaluate import Row, at_epochs
from kasmina_generator.prove.machine import Machine
from kasmina_generator.prove.regions import Finder
from kasmina_generator.prove.segment import horizon, stretches

TICK = "tick"
Action = tuple[object, ...]  # what a step does: target, effects, rooms asked for


@dataclass(frozen=True, slots=True)
class Difference:
    """A situation in which two machines do different things."""

    state: str
    epochs: int
    row: Row
    events: tuple[str, ...]
    first: Action
    second: Action


@dataclass(frozen=True)
class _Pair:
    one: Machine
    other: Machine
    finder: Finder


def difference(one: Spec, other: Spec, finder: Finder | None = None) -> Difference | None:
    """Return a step that differs, None with a proof that there is none.

    Both must declare the same states, events, fields and limits. Capacities are compared as they
    are declared.

    Raises:
        ValueError: The declarations differ, or regions could only be assumed.
    """
    if domains(one) != domains(other) or _declared(one) != _declared(other):
        raise ValueError("the machines declare different states, events, fields or limits")
    found = finder or Finder(domains(one))
    pair = _Pair(Machine(one, found), Machine(other, found), found)
    differences = (d for state in one.states for d in _differences(pair, state.name))
    return next(differences, None)


def _declared(spec: Spec) -> object:
    states = [(state.name, state.code, state.terminal) for state in spec.states]
    events = [(event.name, event.kind) for event in spec.events]
    rooms = [(c.name, c.states, c.limit, c.order) for c in spec.capacities]
    return spec.initial, states, events, rooms


def _differences(pair: _Pair, state: str) -> Iterator[Difference]:
    edges = (pair.one.edges[state], pair.other.edges[state])
    guards = tuple(edge.guard for side in edges for edge in side)
    last = horizon(guards, pair.one.domains) + 1
    for first, _ in stretches(guards, last):
        here = tuple(at_epochs(guard, first) for guard in guards)
        regions = pair.finder.regions(here)
        if regions.how == "assumed":
            raise ValueError(f"state {state}: regions could only be assumed")
        for region in regions.found:
            passing = _passing(edges[0], region.enabled)
            others = _passing(edges[1], region.enabled >> len(edges[0]))
            for events, a, b in _answers(pair, passing, others):
                if a != b:
                    yield Difference(state, first, region.row, events, a, b)


def _passing(edges: tuple[Edge, ...], enabled: int) -> list[Edge]:
    return [edge for place, edge in enumerate(edges) if enabled >> place & 1]


def _answers(
    pair: _Pair, one: list[Edge], other: list[Edge]
) -> Iterator[tuple[tuple[str, ...], Action, Action]]:
    calls = sorted({_call(pair.one, edge) for edge in (*one, *other)})
    for events in combinations_with_replacement(calls, 2):
        yield events, _action(pair.one, one, events), _action(pair.other, other, events)


def _call(machine: Machine, edge: Edge) -> str:
    return edge.event if machine.is_command(edge) else TICK


def _action(machine: Machine, passing: list[Edge], events: tuple[str, ...]) -> Action:
    edge = next((edge for edge in passing if _call(machine, edge) in events), None)
    if edge is None:
        return ()
    return (edge.target, edge.effects, edge.recycle, edge.index in machine.roomy)
