"""What must hold of every machine's structure; a spec that fails here is not built.

Each check is one function from a machine to its findings, and each finding has the place in the
YAML file, a witness path and a hint. There is no switch that turns a check off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kasmina_generator.finding import Finding, in_file_order
from kasmina_generator.implication import implies
from kasmina_generator.interval import verdict
from kasmina_generator.model import Edge, Place, Spec
from kasmina_generator.properties import property_findings
from kasmina_generator.structure import Structure


def check_structure(spec: Spec) -> list[Finding]:
    """Return everything that is wrong with the structure of a machine, in the file's order."""
    machine = Structure(spec)
    found = [finding for check in CHECKS for finding in check(machine)]
    return sorted(found, key=in_file_order)


def unreachable_states(machine: Structure) -> Iterator[Finding]:
    """Find the states to which no way leads from the initial one."""
    reachable = machine.graph.reachable([machine.spec.initial])
    for state in machine.spec.states:
        if state.name in reachable:
            continue
        before = [name for name in machine.graph.predecessors(state.name) if name != state.name]
        way = machine.graph.path(before, state.name)
        why = f"only {_names(before)} leads there" if before else "no edge leads there"
        what = f"state '{state.name}' cannot be reached from '{machine.spec.initial}': {why}"
        yield Finding(state.place, what, "add an edge or drop the state", way, "unreachable")


def traps(machine: Structure) -> Iterator[Finding]:
    """Find the states that are not terminal and yet have no way out."""
    for state in machine.spec.states:
        others = [name for name in machine.one_life.successors(state.name) if name != state.name]
        if not state.terminal and not others:
            what = f"state '{state.name}' is a trap: no edge leaves it and it is not terminal"
            hint = "add an edge, or 'terminal: true' if this is an end"
            yield Finding(state.place, what, hint, machine.path_to(state.name), "trap")


def endless_loops(machine: Structure) -> Iterator[Finding]:
    """Find the sets of states from which no terminal state can be reached any more."""
    terminal = set(machine.groups["terminal"])
    if not terminal:
        return  # a machine without ends is meant to go round
    for part in machine.one_life.closed_components():
        if len(part) > 1 and not part & terminal:
            states = [state for state in machine.spec.states if state.name in part]
            names = _names([state.name for state in states])
            what = f"no terminal state can be reached from {names}"
            hint = "lead an edge from one of them towards an end"
            cycle = machine.one_life.cycle(part)
            witness = (*machine.path_to(cycle[0]), *cycle[1:])
            yield Finding(states[0].place, what, hint, witness, "endless")


def terminal_exits(machine: Structure) -> Iterator[Finding]:
    """Find edges that leave a terminal state, and recycling where nothing has ended."""
    for edge in machine.spec.edges:
        source, target = machine.states[edge.source], machine.states[edge.target]
        witness = machine.path_through(edge)
        if source.terminal and not edge.recycle:
            what = f"terminal state '{edge.source}' is left to '{edge.target}' on '{edge.event}'"
            hint = "drop the edge, drop 'terminal', or re-arm the slot under 'recycle'"
            yield Finding(edge.place, what, hint, witness, "terminal_exit")
        if edge.recycle and not source.terminal:
            what = f"recycle leaves '{edge.source}', which is not terminal"
            hint = "recycle from terminal states only, or make it a transition"
            yield Finding(edge.place, what, hint, witness, "recycle")
        if edge.recycle and target.terminal:
            what = f"recycle leads to '{edge.target}', which is terminal"
            yield Finding(edge.place, what, "lead it to where a life begins", witness, "recycle")


def shadowed_edges(machine: Structure) -> Iterator[Finding]:
    """Find edges that are never taken, because an earlier one always comes first."""
    told: set[tuple[Place, Place]] = set()
    for state in machine.spec.states:
        before: list[tuple[Edge, bool]] = []  # with whether the guard always holds
        for edge in machine.edges_from(state.name):
            earlier = _shadow(machine, edge, before)
            if earlier and (edge.place, earlier.place) not in told:
                told.add((edge.place, earlier.place))
                yield _shadow_finding(machine, edge, earlier)
            before.append((edge, verdict(edge.guard, machine.ranges) is True))


def _shadow(machine: Structure, edge: Edge, before: list[tuple[Edge, bool]]) -> Edge | None:
    """Return the first edge before `edge` that is taken whenever `edge` could be."""
    is_automatic = machine.is_automatic(edge)
    for earlier, always in before:
        comes_first = earlier.event == edge.event or (
            is_automatic and machine.is_automatic(earlier)
        )
        if comes_first and (always or implies(edge.guard, earlier.guard)):
            return earlier
    return None


def _shadow_finding(machine: Structure, edge: Edge, earlier: Edge) -> Finding:
    is_twin = edge.event == earlier.event and edge.guard == earlier.guard
    verb = "repeats" if is_twin else "is never taken: it comes after"
    what = (
        f"edge '{edge.source}' to '{edge.target}' on '{edge.event}' {verb} the edge to "
        f"'{earlier.target}' on '{earlier.event}' in line {earlier.place.line}, "
        f"{'with the same guard' if is_twin else 'whose guard holds wherever this one does'}"
    )
    hint = "drop one, narrow the earlier guard, or give this edge a lower priority number"
    check = "duplicate" if is_twin else "shadowed"
    return Finding(edge.place, what, hint, machine.path_through(earlier), check)


def impossible_guards(machine: Structure) -> Iterator[Finding]:
    """Find transitions whose guard holds in none of their source states."""
    by_place: dict[Place, list[Edge]] = {}
    for edge in machine.spec.edges:
        by_place.setdefault(edge.place, []).append(edge)
    for place, edges in by_place.items():
        if all(verdict(edge.guard, machine.ranges) is False for edge in edges):
            edge = edges[0]
            what = f"guard {edge.text!r} can never hold in '{edge.source}'"
            hint = "compare it with the ranges of the fields and limits that it reads"
            yield Finding(place, what, hint, machine.path_to(edge.source), "impossible")


def unhandled_events(machine: Structure) -> Iterator[Finding]:
    """Find events that no transition waits for."""
    used = {edge.event for edge in machine.spec.edges}
    for event in machine.spec.events:
        if event.name not in used:
            what = f"event '{event.name}' is handled by no transition"
            hint = "add a transition 'on' it or drop the event"
            yield Finding(event.place, what, hint, (machine.spec.initial,), "unhandled")


def missing_timeouts(machine: Structure) -> Iterator[Finding]:
    """Find states with max_epochs and no automatic edge that then holds."""
    for state in machine.spec.states:
        if state.max_epochs is None:
            continue
        automatic = filter(machine.is_automatic, machine.edges_from(state.name))
        if not any(machine.when_timed_out(edge, state) for edge in automatic):
            what = f"state '{state.name}' has max_epochs {state.max_epochs} and no time-out edge"
            hint = "add an automatic transition with guard 'timed_out', or 'timed_out or ...'"
            yield Finding(state.place, what, hint, machine.path_to(state.name), "no_timeout")


def _names(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


CHECKS: tuple[Callable[[Structure], Iterator[Finding]], ...] = (
    unreachable_states,
    traps,
    endless_loops,
    terminal_exits,
    shadowed_edges,
    impossible_guards,
    unhandled_events,
    missing_timeouts,
    property_findings,
)
