"""Faults that are planted in a machine, each at every place where it is one.

An operator yields mutants: the machine with one fault, and the checks of which one must find it. A
mutant that takes the same steps as the original is no fault; `judge` proves that before it counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

from kasmina_generator.expression import (
    All,
    Any,
    Comparison,
    ComparisonOperator,
    Constant,
    Expression,
    Field,
    Truth,
)
from kasmina_generator.finding import Finding
from kasmina_generator.model import Capacity, Edge, Place, Spec, State
from kasmina_generator.prove.compare import difference
from kasmina_generator.prove.domain import domains
from kasmina_generator.prove.evaluate import at_epochs, atoms, is_ordering, variables
from kasmina_generator.prove.machine import Machine
from kasmina_generator.prove.regions import Finder
from kasmina_generator.prove.smt import solver
from kasmina_generator.verify import verify


@dataclass(frozen=True)
class Mutant:
    """One machine with one fault; `place` is where the fault was planted."""

    operator: str
    what: str
    spec: Spec
    checks: frozenset[str]
    place: Place


@dataclass(frozen=True)
class Judgement:
    """What became of a mutant: the finding that names it, or a proof that it is none."""

    mutant: Mutant
    caught: Finding | None
    equivalent: bool

    @property
    def missed(self) -> bool:
        """Whether nobody noticed a machine that takes other steps."""
        return self.caught is None and not self.equivalent


def judge(original: Spec, mutant: Mutant) -> Judgement:
    """Check a mutant; where its check is silent, ask whether it is a fault at all."""
    found = [f for f in verify(mutant.spec).findings if f.check in mutant.checks]
    if found:
        best = next((f for f in found if points_at(f, mutant)), found[0])
        return Judgement(mutant, best, equivalent=False)
    return Judgement(mutant, None, _equivalent(original, mutant.spec))


def points_at(finding: Finding, mutant: Mutant) -> bool:
    """Say whether a finding leads to the fault: by its line, or by a line that it names.

    A room that was planted is told at any of the edges that ask for it, a counter at the column
    that is too narrow for the state.
    """
    named = re.findall(r"line (\d+)", finding.what)
    if finding.place == mutant.place or str(mutant.place.line) in named:
        return True
    if finding.check == "counter":
        return f"state '{mutant.what}'" in finding.what
    rooms = [room.states for room in mutant.spec.capacities if room.place == mutant.place]
    asking = [e for e in mutant.spec.edges for states in rooms if e.target in states]
    return any(edge.place == finding.place for edge in asking)


def _equivalent(original: Spec, mutant: Spec) -> bool:
    try:
        z3 = solver()
        finder = Finder(domains(original), z3)
        return difference(original, mutant, finder) is None
    except ValueError:
        return False


def mutants(spec: Spec) -> Iterator[Mutant]:
    """Yield every mutant of a machine."""
    for operator, (plant, checks) in OPERATORS.items():
        for what, place, mutant in plant(spec):
            yield Mutant(operator, what, mutant, frozenset(checks), place)


Planted = Iterator[tuple[str, Place, Spec]]


def _with_edges(spec: Spec, edges: list[Edge]) -> Spec:
    """Return the machine with other edges, sorted and numbered as the reader does it."""
    codes = {state.name: state.code for state in spec.states}
    ordered = sorted(edges, key=lambda edge: (codes[edge.source], edge.priority))
    numbered = tuple(replace(edge, index=index) for index, edge in enumerate(ordered))
    return replace(spec, edges=numbered)


def _without(spec: Spec, *gone: Edge) -> list[Edge]:
    return [edge for edge in spec.edges if edge not in gone]


def _changed(spec: Spec, old: Edge, new: Edge) -> Spec:
    return _with_edges(spec, [new if edge is old else edge for edge in spec.edges])


@cache
def _machine(spec: Spec) -> Machine:
    return Machine(spec, Finder(domains(spec)))


def _bounded(spec: Spec) -> list[State]:
    return [s for s in spec.states if not s.terminal and s.max_epochs is not None]


def _overdue(spec: Spec, edge: Edge, state: State) -> bool:
    """Say whether an automatic edge lets go of a state whose time is over, whatever is measured."""
    assert state.max_epochs is not None
    late = at_epochs(edge.guard, state.max_epochs)
    return not _machine(spec).is_command(edge) and late == Truth(True)


def _in_time(guard: Expression, most: int) -> Expression:
    """Return a guard that never holds by time alone: `timed_out` is taken out of it."""
    late = Comparison(">=", Field("epochs", "int32"), Constant(most, "int32"))
    match guard:
        case Any(operands=operands):
            return Any(tuple(_in_time(o, most) for o in operands))
        case All(operands=operands):
            return All(tuple(_in_time(o, most) for o in operands))
        case _:
            return Truth(False) if guard == late else guard


def no_time_out(spec: Spec) -> Planted:
    """A state's time-out fires no more."""
    for state in _bounded(spec):
        assert state.max_epochs is not None
        late = [e for e in spec.edges if e.source == state.name and _overdue(spec, e, state)]
        edges = [
            replace(e, guard=_in_time(e.guard, state.max_epochs)) if e in late else e
            for e in spec.edges
            if e not in late or e.guard != Truth(True)
        ]
        yield state.name, state.place, _with_edges(spec, edges)


def no_exit(spec: Spec) -> Planted:
    """A state has no exit left."""
    for state in spec.states:
        if not state.terminal:
            exits = [edge for edge in spec.edges if edge.source == state.name]
            yield state.name, state.place, _with_edges(spec, _without(spec, *exits))


def unbounded_wait(spec: Spec) -> Planted:
    """A state that a bounded life passes waits without bound."""
    for asked in spec.properties:
        if asked.kind == "bounded":
            sources = _machine(spec).groups[dict(asked.arguments)["from"]]
            for state in _followers(spec, sources):
                if state.max_epochs is not None:
                    timeless = [
                        replace(e, guard=_in_time(e.guard, state.max_epochs))
                        if e.source == state.name
                        else e
                        for e in spec.edges
                    ]
                    other = replace(state, max_epochs=None)
                    states = tuple(other if s is state else s for s in spec.states)
                    changed = replace(_with_edges(spec, timeless), states=states)
                    yield state.name, asked.place, changed


def _followers(spec: Spec, sources: frozenset[str]) -> list[State]:
    """Return the states that can follow, before an end."""
    found = set(sources)
    while new := {e.target for e in spec.edges if e.source in found and not e.recycle} - found:
        found |= new
    return [state for state in spec.states if state.name in found]


def short_cut(spec: Spec) -> Planted:
    """An edge leads around the state that has to be passed."""
    groups = _machine(spec).groups
    for asked in spec.properties:
        if asked.kind != "must_pass":
            continue
        roles = dict(asked.arguments)
        through, goal = groups[roles["through"]], min(groups[roles["to"]])
        for edge in spec.edges:
            if edge.source in _before(spec, through) and edge.target != goal and not edge.recycle:
                what = f"{asked.name}: {edge.source} on {edge.event}"
                yield what, asked.place, _changed(spec, edge, replace(edge, target=goal))


def _before(spec: Spec, through: frozenset[str]) -> set[str]:
    found = {spec.initial} - through
    while new := {e.target for e in spec.edges if e.source in found} - through - found:
        found |= new
    return found


_OPPOSITE: dict[ComparisonOperator, ComparisonOperator] = {
    "<": ">=",
    "<=": ">=",
    ">": "<=",
    ">=": "<=",
}
_CLOSED: dict[ComparisonOperator, ComparisonOperator] = {"<": "<=", ">": ">="}


def one_ulp(spec: Spec) -> Planted:
    """A second edge of the same priority holds at the threshold as well, and nowhere else beside."""
    for edge, atom in _measured(spec):
        closed = replace(atom, operator=_CLOSED.get(atom.operator, atom.operator))
        twin = _twin(spec, edge, replace(atom, operator=_OPPOSITE[atom.operator]))
        changed = replace(edge, guard=_replaced(edge.guard, atom, closed))
        edges = [changed if each is edge else each for each in spec.edges]
        yield _name(edge), edge.place, _with_edges(spec, [*edges, twin])


def gapless(spec: Spec) -> Planted:
    """No fault: the second edge begins exactly where the first one ends. Nothing may be said."""
    negated: dict[ComparisonOperator, ComparisonOperator] = {
        "<": ">=",
        "<=": ">",
        ">": "<=",
        ">=": "<",
    }
    for edge, atom in _measured(spec):
        if edge.guard == atom:
            twin = _twin(spec, edge, replace(atom, operator=negated[atom.operator]))
            yield _name(edge), edge.place, _with_edges(spec, [*spec.edges, twin])


def _measured(spec: Spec) -> Iterator[tuple[Edge, Comparison]]:
    """Yield each automatic edge with each comparison of a measured value in its guard."""
    for edge in spec.edges:
        if _machine(spec).is_command(edge) or edge.recycle:
            continue
        for atom in atoms(edge.guard):
            if isinstance(atom, Comparison) and _is_threshold(atom):
                yield edge, atom


def _is_threshold(atom: Comparison) -> bool:
    plain = atom.operator in _OPPOSITE and is_ordering(atom)
    return plain and all(variable.name != "epochs" for variable in variables(atom))


def _twin(spec: Spec, edge: Edge, guard: Expression) -> Edge:
    targets = [s.name for s in spec.states if s.name not in (edge.source, edge.target)]
    early = [a for a in atoms(edge.guard) if isinstance(a, Comparison) and _is_wait(spec, edge, a)]
    joined = All((*early, guard)) if early else guard
    ends = [name for name in targets if _machine(spec).states[name].terminal]
    return replace(edge, target=(ends or targets)[0], guard=joined)


def _is_wait(spec: Spec, edge: Edge, atom: Comparison) -> bool:
    least = _machine(spec).states[edge.source].min_epochs
    return atom == Comparison(">=", Field("epochs", "int32"), Constant(least, "int32"))


def _replaced(guard: Expression, old: Expression, new: Expression) -> Expression:
    match guard:
        case Any(operands=operands):
            return Any(tuple(_replaced(o, old, new) for o in operands))
        case All(operands=operands):
            return All(tuple(_replaced(o, old, new) for o in operands))
        case _:
            return new if guard == old else guard


def tie(spec: Spec) -> Planted:
    """An automatic edge gets the priority of the one after it."""
    machine = _machine(spec)
    for edges in machine.edges.values():
        own = [e for e in edges if not machine.is_command(e) and not e.recycle]
        for one, other in pairwise(own):
            if one.priority != other.priority:
                tied = replace(one, priority=other.priority)
                yield f"{_name(one)} and {other.event}", one.place, _changed(spec, one, tied)


def shadow(spec: Spec) -> Planted:
    """An unconditional edge on the same event is tried before all edges of a line."""
    for edges in _lines(spec):
        covers = [
            replace(e, target=_elsewhere(spec, e), guard=Truth(True), priority=0) for e in edges
        ]
        yield _name(edges[0]), edges[0].place, _with_edges(spec, [*covers, *spec.edges])


def _lines(spec: Spec) -> list[list[Edge]]:
    """Return the edges of each line of the spec, those that recycle left out."""
    lines: dict[Place, list[Edge]] = {}
    for edge in spec.edges:
        if not edge.recycle:
            lines.setdefault(edge.place, []).append(edge)
    return list(lines.values())


def _elsewhere(spec: Spec, edge: Edge) -> str:
    return next(s.name for s in spec.states if s.name not in (edge.source, edge.target))


def never(spec: Spec) -> Planted:
    """A line's guard can never hold."""
    late = Comparison(">", Field("epochs", "int32"), Constant(1 << 20, "int32"))
    for edges in _lines(spec):
        dead = [replace(e, guard=late) if e in edges else e for e in spec.edges]
        yield _name(edges[0]), edges[0].place, _with_edges(spec, dead)


def late_urgency(spec: Spec) -> Planted:
    """An urgent edge is tried after all others of its state."""
    for edge in spec.edges:
        if _machine(spec).is_urgent(edge):
            yield _name(edge), edge.place, _changed(spec, edge, replace(edge, priority=9_999))


def jumped_queue(spec: Spec) -> Planted:
    """An edge that is not urgent is tried before the urgent ones of its state."""
    machine = _machine(spec)
    for edges in machine.edges.values():
        for edge in edges:
            if any(map(machine.is_urgent, edges)) and not machine.is_urgent(edge):
                yield _name(edge), edge.place, _changed(spec, edge, replace(edge, priority=-1))


def urgent_waits_for_room(spec: Spec) -> Planted:
    """An urgent edge leads into a capacity."""
    for edge in spec.edges:
        if _machine(spec).is_urgent(edge):
            yield _name(edge), edge.place, replace(spec, capacities=(_room(spec, edge),))


def _room(spec: Spec, edge: Edge) -> Capacity:
    limit = spec.limits[0].name if spec.limits else ""
    return Capacity("room", (edge.target,), limit, "slot", "", edge.place)


def starving(spec: Spec) -> Planted:
    """The edge that ends a state's time, or one before it, asks for room."""
    machine = _machine(spec)
    for state in _bounded(spec):
        for edge in machine.edges[state.name]:
            if not machine.is_command(edge) and edge.target != state.name:
                yield _name(edge), edge.place, replace(spec, capacities=(_room(spec, edge),))
                if _overdue(spec, edge, state):
                    break


def left_end(spec: Spec) -> Planted:
    """A group's line includes an end."""
    ends = [state for state in spec.states if state.terminal]
    for edges in _lines(spec):
        for end in ends:
            if edges[0].target != end.name:
                more = replace(edges[0], source=end.name)
                what = f"{_name(edges[0])}, {end.name} too"
                yield what, more.place, _with_edges(spec, [*spec.edges, more])


def cut_off(spec: Spec) -> Planted:
    """No edge leads to a state any more."""
    for state in spec.states:
        if state.name != spec.initial:
            into = [edge for edge in spec.edges if edge.target == state.name]
            yield state.name, state.place, _with_edges(spec, _without(spec, *into))


def unhandled(spec: Spec) -> Planted:
    """A state that must handle an event does not, or only under a condition."""
    for asked in spec.properties:
        if asked.kind == "handles":
            roles = dict(asked.arguments)
            for state in _machine(spec).groups[roles["in"]]:
                for edge in spec.edges:
                    if edge.source == state and edge.event == roles["event"]:
                        yield _name(edge), asked.place, _with_edges(spec, _without(spec, edge))
                        late = Comparison(">", Field("epochs", "int32"), Constant(0, "int32"))
                        held = replace(edge, guard=late)
                        yield f"{_name(edge)}, later", asked.place, _changed(spec, edge, held)


def left_for_good(spec: Spec) -> Planted:
    """A state that must never be left gets an exit."""
    for asked in spec.properties:
        if asked.kind == "absorbing":
            for state in _machine(spec).groups[dict(asked.arguments)["state"]]:
                for edge in spec.edges:
                    if edge.target != state and edge.guard == Truth(True):
                        out = replace(edge, source=state)
                        changed = _with_edges(spec, [*spec.edges, out])
                        yield f"{state} on {edge.event}", asked.place, changed


def flapping(spec: Spec) -> Planted:
    """The way back is open on the values that led there."""
    machine = _machine(spec)
    for edge, _ in _measured(spec):
        target = machine.states[edge.target]
        timely = at_epochs(edge.guard, machine.states[edge.source].min_epochs)
        if not target.terminal and not isinstance(timely, Truth) and target.max_epochs != 0:
            back = replace(edge, source=edge.target, target=edge.source, guard=timely, priority=-1)
            first = replace(edge, priority=-1)
            edges = [first if each is edge else each for each in spec.edges]
            yield _name(edge), edge.place, _with_edges(spec, [*edges, back])


def narrow_counter(spec: Spec) -> Planted:
    """A state counts further than its column can."""
    for state in _bounded(spec):
        assert state.max_epochs is not None
        late = Comparison(">=", Field("epochs", "int32"), Constant(state.max_epochs, "int32"))
        later = replace(late, right=Constant(40_000, "int32"))
        edges = [
            replace(e, guard=_replaced(e.guard, late, later)) if e.source == state.name else e
            for e in spec.edges
        ]
        longer = tuple(replace(s, max_epochs=40_000) if s is state else s for s in spec.states)
        yield state.name, state.place, replace(_with_edges(spec, edges), states=longer)


def no_rule(spec: Spec) -> Planted:
    """A float field does not say what NaN or infinity means."""
    for field in spec.context:
        if field.dtype == "float32":
            for bare in (replace(field, nan=None), replace(field, infinity=None)):
                context = tuple(bare if item is field else item for item in spec.context)
                yield field.name, field.place, replace(spec, context=context)


def wrong_rule(spec: Spec) -> Planted:
    """NaN becomes a value beyond what the field may be."""
    for field in spec.context:
        if field.dtype == "float32" and isinstance(field.nan, float):
            bare = replace(field, nan=float("nan"))
            context = tuple(bare if item is field else item for item in spec.context)
            yield field.name, field.place, replace(spec, context=context)


def rough_limit(spec: Spec) -> Planted:
    """A limit is stored as a double that no float32 holds, or out of its range."""
    for limit in spec.limits:
        if limit.dtype == "float32":
            for value in (float(limit.default) + 1e-12, float(limit.high) + 1.0):
                rough = replace(limit, default=value)
                limits = tuple(rough if item is limit else item for item in spec.limits)
                yield limit.name, limit.place, replace(spec, limits=limits)


def _name(edge: Edge) -> str:
    return f"{edge.source} on {edge.event} to {edge.target}"


Plant = Callable[[Spec], Planted]
OPERATORS: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "no time-out": (no_time_out, ("total", "no_timeout")),
    "no exit": (no_exit, ("trap", "endless", "total", "no_timeout")),
    "unbounded wait": (unbounded_wait, ("bounded",)),
    "short cut": (short_cut, ("must_pass",)),
    "overlap by one ulp": (one_ulp, ("deterministic",)),
    "tie": (tie, ("deterministic",)),
    "shadowed edge": (shadow, ("shadowed", "duplicate")),
    "guard that never holds": (never, ("impossible",)),
    "late urgency": (late_urgency, ("urgency",)),
    "jumped queue": (jumped_queue, ("urgency",)),
    "urgent waits for room": (urgent_waits_for_room, ("urgency",)),
    "starving": (starving, ("starvation",)),
    "group with an end": (left_end, ("terminal_exit",)),
    "cut off": (cut_off, ("unreachable",)),
    "unhandled": (unhandled, ("handles",)),
    "left for good": (left_for_good, ("absorbing",)),
    "flapping": (flapping, ("livelock",)),
    "narrow counter": (narrow_counter, ("counter",)),
    "missing NaN rule": (no_rule, ("missing values",)),
    "wrong NaN rule": (wrong_rule, ("missing values",)),
    "rough limit": (rough_limit, ("limit",)),
}
