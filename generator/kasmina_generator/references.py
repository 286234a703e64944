"""The records of a spec that refer to others: groups, edges, capacities, properties."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from kasmina_generator.document import Mapping, Node, Scalar, Sequence, Unusable, describe
from kasmina_generator.guard import Symbols
from kasmina_generator.model import (
    Capacity,
    ContextField,
    Event,
    Group,
    Limit,
    Property,
    State,
)
from kasmina_generator.prove.formula import FormulaError, parse
from kasmina_generator.record import Record
from kasmina_generator.vocabulary import (
    BUILT_IN_GROUPS,
    CAPACITY_ORDERS,
    RECORDS,
)


@dataclass(frozen=True, slots=True)
class Names:
    """What transitions, capacities and properties may refer to.

    A name is known as soon as it is declared, even if its record is wrong, so that one fault is
    told once. Its record is missing then.
    """

    state_names: tuple[str, ...]
    states: dict[str, State]
    groups: dict[str, Group]
    event_names: tuple[str, ...]
    events: dict[str, Event]
    effect_names: tuple[str, ...]
    context: dict[str, ContextField | None]
    limits: dict[str, Limit | None]
    symbols: Symbols

    def reference(self, record: Record, key: str, allowed: Collection[str], what: str) -> str:
        """Return the name at `key`, which must be one of `allowed`; "" where it is not."""
        scalar = record.scalar(key, f"the name of a {what}")
        if scalar is None:
            return ""
        if scalar.text not in allowed:
            record.fault(key, f"unknown {what} {scalar.text!r}", allowed=allowed, given=scalar.text)
            return ""
        return scalar.text

    def expand(self, record: Record, key: str) -> tuple[str, ...]:
        """Return the states that `key` names: a state, a group, or a list of them."""
        expanded: dict[str, None] = {}
        allowed = (*self.state_names, *self.groups)
        for scalar in record.names(key):
            if scalar.text not in allowed:
                what = f"{record.label}: {key}: unknown state or group {scalar.text!r}"
                record.log.add(scalar.place, what, allowed=allowed, given=scalar.text)
                continue
            states = self.members(scalar.text)
            self._check_members(record, key, scalar, states, expanded)
            expanded.update(dict.fromkeys(states))
        return tuple(expanded)

    def members(self, name: str) -> tuple[str, ...]:
        """Return the states of a group, or the state itself."""
        return self.groups[name].states if name in self.groups else (name,)

    def _check_members(
        self,
        record: Record,
        key: str,
        scalar: Scalar,
        states: tuple[str, ...],
        before: Collection[str],
    ) -> None:
        twice = [state for state in states if state in before]
        if twice:
            what = f"{record.label}: {key}: {scalar.text!r} names {twice[0]!r} a second time"
            record.log.add(scalar.place, what)
        if not states and scalar.text in BUILT_IN_GROUPS:
            what = f"{record.label}: {key}: no state is {scalar.text!r}"
            record.log.add(scalar.place, what)


def declared(top: Record, key: str) -> tuple[str, ...]:
    """Return the names that a table declares, whether or not their records are right."""
    node = top.node(key)
    return tuple(name.text for name, _ in node.entries) if isinstance(node, Mapping) else ()


def read_groups(
    top: Record, state_names: tuple[str, ...], states: tuple[State, ...]
) -> tuple[Group, ...]:
    """Return the groups in order, after the built-in `terminal` and `non_terminal`."""
    terminal = tuple(state.name for state in states if state.terminal)
    others = tuple(state.name for state in states if not state.terminal)
    groups = [Group("terminal", terminal, top.at), Group("non_terminal", others, top.at)]
    taken = frozenset({*BUILT_IN_GROUPS, *state_names})
    for name, node in top.table("groups", "group", taken):
        members = tuple(_members(top, name, node, state_names))
        groups.append(Group(name.text, members, name.place))
    return tuple(groups)


def _members(top: Record, name: Scalar, node: Node, state_names: tuple[str, ...]) -> Iterator[str]:
    label = f"group {name.text!r}"
    if isinstance(node, Unusable):
        return
    if not isinstance(node, Sequence) or not node.items:
        top.log.add(node.place, f"{label}: expected a list of states, found {describe(node)}")
        return
    seen: set[str] = set()
    for item in node.items:
        if not isinstance(item, Scalar):
            top.log.add(item.place, f"{label}: expected a state, found {describe(item)}")
        elif item.text not in state_names:
            what = f"{label}: unknown state {item.text!r}"
            top.log.add(item.place, what, allowed=state_names, given=item.text)
        elif item.text in seen:
            top.log.add(item.place, f"{label}: {item.text!r} is named twice")
        else:
            seen.add(item.text)
            yield item.text


def read_capacities(top: Record, names: Names) -> tuple[Capacity, ...]:
    """Return the capacities in the order in which they are arbitrated."""
    capacities = []
    for name, node in top.table("capacities", "capacity"):
        label = f"capacity {name.text!r}"
        if isinstance(node, Mapping):
            record = Record(top.log, label, node, RECORDS["capacity"])
            capacities.append(_capacity(record, name, names))
        elif not isinstance(node, Unusable):
            top.log.add(node.place, f"{label}: expected a mapping, found {describe(node)}")
    return tuple(capacities)


def _capacity(record: Record, name: Scalar, names: Names) -> Capacity:
    limit = names.reference(record, "limit", tuple(names.limits), "limit")
    declaration = names.limits.get(limit)
    if declaration is not None and declaration.dtype != "int32":
        record.fault("limit", f"{limit!r} is {declaration.dtype}; a capacity counts in int32")
    fields = [key for key, item in names.context.items() if item is None or item.dtype != "bool"]
    order = record.choice("order", (*CAPACITY_ORDERS, *fields)) or "slot"
    states = names.expand(record, "states")
    return Capacity(name.text, states, limit, order, record.text("meaning"), name.place)


def read_properties(top: Record, names: Names) -> tuple[Property, ...]:
    """Return the properties to prove."""
    if "properties" not in top:
        return ()
    records = top.records("properties", RECORDS["property"], "property")
    return tuple(found for record in records if (found := _property(record, names)))


def _property(record: Record, names: Names) -> Property | None:
    name = record.text("name")
    record.label = f"property {name!r}" if name else record.label
    kinds = [kind for kind in RECORDS["property"].optional if kind in record]
    if len(kinds) != 1:
        allowed = RECORDS["property"].optional
        what = f"{record.label}: expected one thing to prove, found {len(kinds)}"
        record.log.add(record.at, what, allowed=allowed)
        return None
    arguments = tuple(_arguments(record, kinds[0], names))
    return Property(name, kinds[0], arguments, record.at)


def _formula(record: Record, names: Names) -> str:
    scalar = record.scalar("ctl", "a formula")
    if scalar is None:
        return ""
    text = scalar.text.replace("\n", " ").strip()
    try:
        parse(text, (*names.state_names, *names.groups), names.event_names)
    except FormulaError as error:
        record.log.add(scalar.at(error.offset), f"{record.label}: ctl: {error}")
    return text


def _arguments(record: Record, kind: str, names: Names) -> Iterator[tuple[str, str]]:
    places = (*names.state_names, *names.groups)
    if kind == "ctl":
        yield "formula", _formula(record, names)
        return
    if kind not in RECORDS:
        yield "state", names.reference(record, kind, places, "state or group")
        return
    node = record.node(kind)
    if not isinstance(node, Mapping):
        record.expected(kind, f"a mapping with {' and '.join(RECORDS[kind].all)}")
        return
    inner = Record(record.log, f"{record.label}: {kind}", node, RECORDS[kind])
    for role in RECORDS[kind].all:
        is_event = role == "event"
        allowed = names.event_names if is_event else places
        what = "event" if is_event else "state or group"
        yield role, names.reference(inner, role, allowed, what)
