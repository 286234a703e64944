"""The machine in Promela, for SPIN: several entities, a controller and the capacities they share.

What guards read is a *region*: SPIN sees its number, never a value. A stretch is a run of epochs in
which the guards of a state read the same; its regions are numbered from 0, in the order of the sets
of guards that hold there, so that the text does not depend on how they were found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kasmina_generator.emit.linear import Claim, Watch, claims
from kasmina_generator.model import Capacity, Edge, Event, Spec, State
from kasmina_generator.prove.domain import domains
from kasmina_generator.prove.logic import asked
from kasmina_generator.prove.product import Machine, segments_of
from kasmina_generator.prove.regions import Finder, Region

MOST_ENTITIES = 9


@dataclass(frozen=True, slots=True)
class Stretch:
    """Epochs `first` to `last` of a state and the regions that its guards tell apart there."""

    state: State
    first: int
    last: int
    final: bool  # `last` stands for every later epoch too
    regions: tuple[Region, ...]
    assumed: bool  # regions may be listed that no values give, or be missing

    def when(self) -> str:
        """Return the condition on `epochs[e]` alone, "" where it always holds."""
        bounds = [f"epochs[e] >= {self.first}"] if self.first else []
        bounds += [] if self.final else [f"epochs[e] <= {self.last}"]
        return " && ".join(bounds)


Stretches = dict[str, tuple[Stretch, ...]]  # by state


def stretches(spec: Spec, finder: Finder | None = None) -> Stretches:
    """Return the stretches of each state.

    Args:
        spec: The machine.
        finder: Finds regions; without one nothing but enumeration is used, so that the result
            is the same on every machine.
    """
    machine = Machine(spec, finder or Finder(domains(spec)))
    told_apart = asked(spec)
    found: Stretches = {}
    for state in spec.states:
        found[state.name] = tuple(
            Stretch(
                state,
                segment.first,
                segment.last,
                segment.final,
                tuple(sorted(segment.regions.found, key=lambda region: region.enabled)),
                not segment.regions.complete or not all(r.sure for r in segment.regions.found),
            )
            for segment in segments_of(machine, state, told_apart)
        )
    return found


@dataclass(frozen=True, slots=True)
class EdgeText:
    """An edge and what it takes, as Promela over `e` and the region `r`."""

    edge: Edge
    guard: str
    passes: str
    line: str  # where the YAML declares it


@dataclass(frozen=True, slots=True)
class StateText:
    """A state with its edges, its last epoch that is told apart, and its stretches."""

    state: State
    edges: list[EdgeText]
    last: int
    regions: list[tuple[str, int]]  # condition on the epochs, number of the last region


@dataclass(frozen=True, slots=True)
class CapacityText:
    """A capacity: who asks for room, who may come to ask, and who goes first."""

    capacity: Capacity
    low: int  # the least limit, or what gives everyone room
    inside: str  # over the state `s`
    asks: str  # over `wanted[e]`
    before: str  # whether `e` goes before `best`


@dataclass(frozen=True, slots=True)
class PromelaView:
    """All that the template reads."""

    spec: Spec
    states: list[StateText]
    sets: list[tuple[str, str]]  # groups of states, as conditions over `s`
    commands: list[tuple[Event, str]]  # and the states that take it
    all_commands: str  # every command that the state `s` takes, as bits
    targets: list[tuple[str, str]]  # state, the edges that lead there
    recycling: str
    capacities: list[CapacityText]
    oldest: str  # whether the epochs of `e` are not told apart any more
    unranked: str  # whether only the environment can say when `e` is served
    watches: list[tuple[Watch, str]]  # and whether `e` is where they watch
    claims: list[Claim]
    unsaid: list[tuple[str, str]]  # properties that are no claims, and why
    assumed: list[str]  # states with regions that no values may give
    epochs_type: str
    region_type: str
    unknown: int  # the number of no region


def promela_view(spec: Spec, found: Stretches) -> PromelaView:
    """Return what the template of the Promela model fills in."""
    said = claims(spec)
    states = [_state(spec, state, found[state.name]) for state in spec.states]
    regions = max(len(part.regions) for each in found.values() for part in each)
    epochs = max(row.last for row in states)
    return PromelaView(
        spec=spec,
        states=states,
        sets=[(group.name, in_states(group.states)) for group in spec.groups if group.states],
        commands=[(event, _takers(spec, event)) for event in commands(spec)],
        all_commands=" + ".join(
            f"(TAKES_{event.name}(s) -> C_{event.name} : 0)" for event in commands(spec)
        ),
        targets=_targets(spec),
        recycling=_any_of("wanted[e]", [e.index for e in spec.edges if e.recycle]),
        capacities=[_capacity(spec, capacity) for capacity in spec.capacities],
        oldest=_any(
            f"(state[e] == S_{row.state.name} && epochs[e] >= {row.last})" for row in states
        ),
        unranked=_any(_unranked(spec)),
        watches=[(watch, in_states(watch.through, "state[e]")) for watch in said.watches],
        claims=said.claims,
        unsaid=[(f"{item.place}: {item.name}", why) for item, why in said.unsaid],
        assumed=[name for name, each in found.items() if any(s.assumed for s in each)],
        epochs_type="byte" if epochs < 256 else "int",
        region_type="byte" if regions < 256 else "short",
        unknown=255 if regions < 256 else 32_767,
    )


def in_states(names: Sequence[str], code: str = "s") -> str:
    """Return the condition that `code` is that of one of these states."""
    return _any(f"{code} == S_{name}" for name in names)


def _any(conditions: Iterable[str]) -> str:
    return " || ".join(conditions) or "false"


def _state(spec: Spec, state: State, found: tuple[Stretch, ...]) -> StateText:
    edges = [edge for edge in spec.edges if edge.source == state.name]
    return StateText(
        state=state,
        edges=[_edge(spec, edge, place, found) for place, edge in enumerate(edges)],
        last=found[-1].last,
        regions=_region_counts(found),
    )


def _region_counts(found: tuple[Stretch, ...]) -> list[tuple[str, int]]:
    return [(stretch.when(), len(stretch.regions) - 1) for stretch in found]


def _edge(spec: Spec, edge: Edge, place: int, found: tuple[Stretch, ...]) -> EdgeText:
    guard = guard_text(found, place)
    command = any(event.name == edge.event and event.kind == "command" for event in spec.events)
    asked = f"asked[e] & C_{edge.event}" if command else "tick"
    passes = f"({asked})" if guard == "true" else f"({asked}) && GUARD_{edge.index}(e, seen[e])"
    return EdgeText(edge, guard, passes, f"{edge.place.file}:{edge.place.line}")


def guard_text(found: tuple[Stretch, ...], place: int) -> str:
    """Return when the guard of a state's edge at `place` holds, over `e` and the region `r`."""
    parts: list[str] = []
    everywhere = True
    for stretch in found:
        holding = [i for i, region in enumerate(stretch.regions) if region.enabled >> place & 1]
        everywhere &= len(holding) == len(stretch.regions)
        if holding:
            every = len(holding) == len(stretch.regions)
            conditions = [stretch.when(), "" if every else _runs(holding, len(stretch.regions))]
            parts.append(" && ".join(part for part in conditions if part) or "true")
    if everywhere:
        return "true"
    return " || ".join(f"({part})" for part in parts) if parts else "false"


def _runs(numbers: list[int], count: int) -> str:
    """Return that `r` is one of some numbers below `count`, runs of them drawn together."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    tests = [_between(run[0], run[-1], count) for run in runs]
    return tests[0] if len(tests) == 1 else f"({' || '.join(tests)})"


def _between(first: int, last: int, count: int) -> str:
    if first == last:
        return f"r == {first}"
    low = [f"r >= {first}"] if first else []
    high = [f"r <= {last}"]  # the mark of an unknown region is larger than all
    return f"({' && '.join(low + high)})" if low else high[0]


def commands(spec: Spec) -> list[Event]:
    """Return the commands that some state takes; their places are their bits in the model."""
    taken = {edge.event for edge in spec.edges}
    return [event for event in spec.events if event.kind == "command" and event.name in taken]


def _takers(spec: Spec, event: Event) -> str:
    return in_states(list(dict.fromkeys(e.source for e in spec.edges if e.event == event.name)))


def _targets(spec: Spec) -> list[tuple[str, str]]:
    edges: dict[str, list[int]] = {}
    for edge in spec.edges:
        edges.setdefault(edge.target, []).append(edge.index)
    return [(target, _any_of("wanted[e]", found)) for target, found in edges.items()]


def _any_of(name: str, numbers: Iterable[int]) -> str:
    return _any(f"{name} == {number}" for number in numbers)


_BEFORE = {
    "slot": "false",
    "epochs": "(unsure -> rank[e] > rank[best] : epochs[e] > epochs[best])",
}


def _capacity(spec: Spec, capacity: Capacity) -> CapacityText:
    asking = [edge.index for edge in _asking(spec, capacity)]
    limit = next(limit for limit in spec.limits if limit.name == capacity.limit)
    return CapacityText(
        capacity=capacity,
        low=min(max(0, int(limit.low)), MOST_ENTITIES),
        inside=in_states(capacity.states),
        asks=_any_of("wanted[e]", asking),
        before=_BEFORE.get(capacity.order, "rank[e] > rank[best]"),
    )


def _asking(spec: Spec, capacity: Capacity) -> list[Edge]:
    into = [edge for edge in spec.edges if edge.target in capacity.states]
    return [edge for edge in into if edge.source not in capacity.states]


def _unranked(spec: Spec) -> Iterator[str]:
    """Yield when an entity that may ask is served in an order that the model does not hold."""
    for capacity in spec.capacities:
        sources = dict.fromkeys(edge.source for edge in _asking(spec, capacity))
        asks = in_states(list(sources), "state[e]")
        if capacity.order == "epochs":
            yield f"({asks}) && OLDEST(e)"
        elif capacity.order != "slot":
            yield f"({asks})"
