"""Declared properties as linear temporal logic without next, which SPIN decides.

A formula speaks of the observed entity, which may be any of them. Of CTL the part is taken that
means the same without its quantifiers (Maidl 2000): conjunctions, `AG`, implications from what
holds in a state, `AF` and `A[.. U ..]` of such. `EF` of a state is the negation of one of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kasmina_generator.model import Property, Spec
from kasmina_generator.prove.formula import (
    Always,
    Both,
    Enabled,
    Epochs,
    Formula,
    In,
    Not,
    Temporal,
    TimedOut,
    Until,
)
from kasmina_generator.prove.logic import formulas, parts

SETTLED = "region != UNKNOWN"


class Unsaid(Exception):
    """A property that linear temporal logic without next cannot say; the message says why."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A bit of the model: the observed entity has been in one of these states."""

    name: str
    through: tuple[str, ...]
    initially: bool
    forgets: bool  # a new life of the slot clears it


@dataclass(frozen=True, slots=True)
class Claim:
    """A declared property as a formula that SPIN decides.

    `sought` says that the property holds where SPIN finds a run that breaks the formula. `always`
    is the condition of a formula that says no more than that it holds at every moment.
    """

    name: str
    declared: Property
    formula: str
    sought: bool = False
    always: str = ""

    @property
    def safety(self) -> bool:
        """Whether a run that breaks the formula does so after finitely many steps."""
        return bool(self.always)


def _invariant(name: str, declared: Property, condition: str, *, sought: bool = False) -> Claim:
    return Claim(name, declared, f"[] ({condition})", sought, condition)


@dataclass
class Claims:
    """What SPIN is asked, and what it cannot be asked."""

    claims: list[Claim] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    unsaid: list[tuple[Property, str]] = field(default_factory=list)


def claims(spec: Spec) -> Claims:
    """Return the properties of a spec as claims, in its order."""
    found = Claims()
    asked = {item.name: formula for item, formula in formulas(spec)}
    for place, item in enumerate(spec.properties):
        name = f"p{place}"
        try:
            if item.kind == "ctl":
                found.claims.append(_formula(spec, name, item, asked[item.name]))
            else:
                found.claims.append(_DECLARED[item.kind](spec, name, item, found.watches))
        except Unsaid as reason:
            found.unsaid.append((item, str(reason)))
    return found


def _must_pass(spec: Spec, name: str, item: Property, watches: list[Watch]) -> Claim:
    roles = dict(item.arguments)
    through = _states(spec, roles["through"])
    watch = Watch(f"passed_{name}", through, spec.initial in through, forgets=True)
    watches.append(watch)
    return _invariant(name, item, f"{_at(spec, roles['to'])} -> {watch.name}")


def _handles(spec: Spec, name: str, item: Property, _: list[Watch]) -> Claim:
    roles = dict(item.arguments)
    inside, taken = _at(spec, roles["in"]), _enabled(spec, roles["event"])
    return _invariant(name, item, f"({SETTLED} && {inside}) -> {taken}")


def _absorbing(spec: Spec, name: str, item: Property, watches: list[Watch]) -> Claim:
    states = dict(item.arguments)["state"]
    inside = _states(spec, states)
    watch = Watch(f"passed_{name}", inside, spec.initial in inside, forgets=False)
    watches.append(watch)
    return _invariant(name, item, f"{watch.name} -> {_at(spec, states)}")


def _reachable(spec: Spec, name: str, item: Property, _: list[Watch]) -> Claim:
    states = _states(spec, dict(item.arguments)["state"])
    if len(states) > 1:
        raise Unsaid("each state of the group needs a run of its own")
    return _invariant(name, item, f"!({_at(spec, states[0])})", sought=True)


def _bounded(spec: Spec, name: str, item: Property, _: list[Watch]) -> Claim:
    inside, ended = _at(spec, dict(item.arguments)["from"]), _at(spec, "terminal")
    return Claim(name, item, f"[] ({inside} -> <> {ended})")


_DECLARED = {
    "must_pass": _must_pass,
    "handles": _handles,
    "absorbing": _absorbing,
    "reachable": _reachable,
    "bounded": _bounded,
}


def _formula(spec: Spec, name: str, item: Property, formula: Formula) -> Claim:
    match formula:
        case Temporal(quantifier="E", path="F", operand=operand) if _is_state(operand):
            return _invariant(name, item, f"!({_settled(spec, operand)})", sought=True)
        case Not(operand=Temporal(quantifier="E", path="F", operand=operand)) if _is_state(operand):
            return _invariant(name, item, f"!({_settled(spec, operand)})")
        case Temporal(quantifier="A", path="G", operand=operand) if _is_state(operand):
            return _invariant(name, item, _on_all_paths(spec, operand))
        case _:
            return Claim(name, item, _on_all_paths(spec, formula))


def _on_all_paths(spec: Spec, formula: Formula) -> str:
    """Return a formula without its quantifiers, where that means the same."""
    if _is_state(formula):
        return (
            f"({SETTLED} -> {_state(spec, formula)})"
            if _measures(formula)
            else _state(spec, formula)
        )
    match formula:
        case Both(left=left, right=right):
            return f"({_on_all_paths(spec, left)} && {_on_all_paths(spec, right)})"
        case Temporal(quantifier="A", path="G", operand=operand):
            return f"[] {_on_all_paths(spec, operand)}"
        case Temporal(quantifier="A", path="F", operand=operand) if _is_state(operand):
            return f"<> {_settled(spec, operand)}"
        case Until(quantifier="A", left=left, right=right) if _is_state(left) and _is_state(right):
            return f"({_on_all_paths(spec, left)} U {_settled(spec, right)})"
        case Not(operand=operand):
            return _negated(spec, operand)
        case Temporal(path="X"):
            raise Unsaid("it counts single steps, which interleave here")
        case _:
            raise Unsaid("it asks for some run in between, which a formula on all runs cannot")


def _negated(spec: Spec, formula: Formula) -> str:
    match formula:
        case Not(operand=operand):
            return _on_all_paths(spec, operand)
        case Both(left=left, right=right) if _is_state(left):  # not (a and not b): a implies b
            return f"({_settled(spec, left)} -> {_negated(spec, right)})"
        case Both(left=left, right=right) if _is_state(right):
            return _negated(spec, Both(right, left))
        case Temporal(quantifier="E", path="F", operand=operand) if _is_state(operand):
            return f"[] !({_settled(spec, operand)})"
        case Until(quantifier="E", left=left, right=right) if _is_state(left) and _is_state(right):
            return f"!({_on_all_paths(spec, left)} U {_settled(spec, right)})"
        case Temporal(path="X"):
            raise Unsaid("it counts single steps, which interleave here")
        case _:
            raise Unsaid("it asks for some run in between, which a formula on all runs cannot")


def _settled(spec: Spec, formula: Formula) -> str:
    """Return what holds in a state; guards count only where their values have been measured."""
    text = _state(spec, formula)
    return f"({SETTLED} && {text})" if _measures(formula) else text


def _measures(formula: Formula) -> bool:
    return isinstance(formula, Enabled) or any(map(_measures, parts(formula)))


def _is_state(formula: Formula) -> bool:
    if isinstance(formula, Temporal | Until):
        return False
    return all(map(_is_state, parts(formula)))


def _state(spec: Spec, formula: Formula) -> str:
    """Return what holds in a state as a condition on the observed entity."""
    match formula:
        case In(name=name):
            return _at(spec, name)
        case Epochs(operator=sign, number=number):
            return f"(epochs[observed] {sign} {number})"
        case TimedOut():
            return _any(_timed_out(spec))
        case Enabled(event=event):
            return _enabled(spec, event)
        case Always():
            return "true"
        case Not(operand=Not(operand=operand)):
            return _state(spec, operand)
        case Not(operand=Both(left=Not(operand=left), right=Not(operand=right))):
            return f"({_state(spec, left)} || {_state(spec, right)})"
        case Not(operand=operand):
            return f"!({_state(spec, operand)})"
        case Both(left=left, right=right):
            return f"({_state(spec, left)} && {_state(spec, right)})"
        case _:
            raise AssertionError(formula)


def _timed_out(spec: Spec) -> Iterator[str]:
    for state in spec.states:
        if state.max_epochs is not None:
            yield f"(state[observed] == S_{state.name} && epochs[observed] >= {state.max_epochs})"


def _enabled(spec: Spec, event: str) -> str:
    """Return that the guard of some edge of an event holds in the measured region."""
    return _any(
        f"(state[observed] == S_{edge.source} && GUARD_{edge.index}(observed, region))"
        for edge in spec.edges
        if edge.event == event
    )


def _any(conditions: Iterator[str]) -> str:
    return f"({' || '.join(conditions) or 'false'})"


def _states(spec: Spec, name: str) -> tuple[str, ...]:
    """Return the states of a group, or the one state of that name."""
    return next((group.states for group in spec.groups if group.name == name), (name,))


def _at(spec: Spec, name: str) -> str:
    """Return that the observed entity is in a state or in one of a group's."""
    if any(group.name == name for group in spec.groups):
        return f"IN_{name}(state[observed])" if _states(spec, name) else "(false)"
    return f"(state[observed] == S_{name})"
