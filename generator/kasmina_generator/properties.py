"""The properties that a spec declares, each proved or refuted on its structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kasmina_generator.finding import Finding
from kasmina_generator.graph import Path
from kasmina_generator.interval import verdict
from kasmina_generator.model import Edge, Property, State
from kasmina_generator.structure import Structure


def property_findings(machine: Structure) -> Iterator[Finding]:
    """Yield a finding for each way in which a declared property does not hold.

    Formulas are not for a graph without epochs and guards: `prove` settles them.
    """
    for declared in machine.spec.properties:
        if declared.kind in _CHECKS:
            yield from _CHECKS[declared.kind](machine, declared)


def _finding(declared: Property, what: str, witness: Path, hint: str) -> Finding:
    text = f"property {declared.name!r} does not hold: {what}"
    return Finding(declared.place, text, hint, witness, declared.kind)


def _must_pass(machine: Structure, declared: Property) -> Iterator[Finding]:
    """Hold that `through` dominates `to` in each generation, from wherever it begins."""
    arguments = dict(declared.arguments)
    through = machine.members(arguments["through"])
    around = machine.one_life.without(through)
    reachable = around.reachable(machine.beginnings)
    for target in machine.members(arguments["to"]):
        if target in reachable and target not in through:
            what = f"'{target}' is reached without '{arguments['through']}'"
            hint = "drop an edge of the witness or lead it through that state"
            yield _finding(declared, what, around.path(machine.beginnings, target), hint)


def _handles(machine: Structure, declared: Property) -> Iterator[Finding]:
    arguments = dict(declared.arguments)
    for state in machine.members(arguments["in"]):
        edges = [e for e in machine.edges_from(state) if e.event == arguments["event"]]
        fault = _why_unhandled(machine, arguments["event"], state, edges)
        if fault:
            yield _finding(declared, fault[0], machine.path_to(state), fault[1])


def _why_unhandled(
    machine: Structure, event: str, state: str, edges: list[Edge]
) -> tuple[str, str] | None:
    """Return why an event may be refused in a state, and the hint; None if it never is."""
    if not edges:
        return f"'{state}' has no edge on '{event}'", "add one, or its state to the edge's 'from'"
    free = [edge for edge in edges if verdict(edge.guard, machine.ranges) is True]
    if not free:
        hint = "drop the guard, and make the event urgent where min_epochs is in the way"
        return f"'{state}' takes '{event}' under a condition only", hint
    capacity = next((c for e in edges if (c := machine.capacity_asked(e))), None)
    if capacity:
        what = f"'{state}' on '{event}' asks for room in capacity '{capacity.name}'"
        return what, "lead it to a state outside the capacity"
    return None


def _absorbing(machine: Structure, declared: Property) -> Iterator[Finding]:
    inside = machine.members(dict(declared.arguments)["state"])
    for state in inside:
        for edge in machine.edges_from(state):
            if edge.target not in inside:
                what = f"'{state}' is left to '{edge.target}' on '{edge.event}'"
                hint = f"drop the edge in line {edge.place.line}"
                yield _finding(declared, what, machine.path_through(edge), hint)


def _reachable(machine: Structure, declared: Property) -> Iterator[Finding]:
    initial = machine.spec.initial
    found = machine.graph.reachable([initial])
    for state in machine.members(dict(declared.arguments)["state"]):
        if state not in found:
            what = f"no way leads from '{initial}' to '{state}'"
            yield _finding(declared, what, (initial,), "add an edge, or drop the property")


def _bounded(machine: Structure, declared: Property) -> Iterator[Finding]:
    """Hold that a generation ends: each state on the way is left in time, and none comes again."""
    sources = machine.members(dict(declared.arguments)["from"])
    reached = machine.one_life.reachable(sources)
    for state in machine.spec.states:
        fault = _why_unbounded(machine, state) if state.name in reached else None
        if fault:
            witness = machine.one_life.path(sources, state.name)
            yield _finding(declared, fault[0], witness, fault[1])
    cycle = machine.one_life.cycle(reached)
    if cycle:
        what = f"'{cycle[0]}' can come again and again"
        yield _finding(declared, what, cycle, "drop an edge of the cycle")


def _why_unbounded(machine: Structure, state: State) -> tuple[str, str] | None:
    """Return why a state may be stayed in for ever, and the hint; None if it is left in time."""
    if state.terminal:
        return None
    if state.max_epochs is None:
        return f"'{state.name}' is an unbounded wait", "give it max_epochs and a time-out edge"
    for edge in filter(machine.is_automatic, machine.edges_from(state.name)):
        certain = machine.when_timed_out(edge, state)
        capacity = machine.capacity_asked(edge)
        if capacity and certain is not False:
            what = f"'{state.name}' may wait for room in capacity '{capacity.name}' for ever"
            hint = f"'{edge.event}' is tried before a time-out: give the time-out a lower priority"
            return what, hint + " number"
        if certain:
            return None
    return f"'{state.name}' has no time-out", "add an automatic edge with guard 'timed_out'"


_CHECKS: dict[str, Callable[[Structure, Property], Iterator[Finding]]] = {
    "must_pass": _must_pass,
    "handles": _handles,
    "absorbing": _absorbing,
    "reachable": _reachable,
    "bounded": _bounded,
}
