"""Which record of one spec is which record of another.

Records are matched by name. A state that kept its code and everything else but its name counts as
renamed; the old spec is then read under the new name, so that its edges match as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from kasmina_generator.difference.guards import GuardProver
from kasmina_generator.migration import stored_columns
from kasmina_generator.model import Edge, Place, Property, Spec, State
from kasmina_generator.vocabulary import BUILT_IN_GROUPS

TABLES = (
    "attribute",
    "attribute value",
    "state",
    "group",
    "event",
    "context field",
    "limit",
    "effect",
    "capacity",
    "property",
    "column",
    "migration",
    "records file",
    "axis",
    "record",
    "record field",
    "kernels file",
    "kernel states",
    "placement",
    "kind",
    "messages file",
    "message axis",
    "message",
    "message field",
    "upgrade",
    "upgrade step",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a table under the name by which it is matched."""

    subject: str
    record: Any
    place: Place
    inside: str = ""  # the name of the record that holds it, "" for none


Table = dict[str, Row]


def tables(spec: Spec) -> dict[str, Table]:
    """Return the records of a spec by table and name; edges are matched otherwise."""
    found: dict[str, Table] = {
        "attribute": _named("attribute", spec.attributes),
        "attribute value": {
            f"{a.name}.{v.name}": Row(f"value '{a.name}.{v.name}'", v, a.place, a.name)
            for a in spec.attributes
            for v in a.values
        },
        "state": _named("state", spec.states),
        "group": _named("group", (g for g in spec.groups if g.name not in BUILT_IN_GROUPS)),
        "event": _named("event", spec.events),
        "context field": _named("context field", spec.context),
        "limit": _named("limit", spec.limits),
        "effect": _named("effect", spec.effects),
        "capacity": _named("capacity", spec.capacities),
        "property": _properties(spec),
        "column": _named("column", stored_columns(spec)),
        "migration": {
            m.digest: Row(f"migration from '{m.spec}' {m.digest[:12]}", m, m.place)
            for m in spec.migrations
        },
        **_record_tables(spec),
        **_kernel_tables(spec),
        **_message_tables(spec),
    }
    assert tuple(found) == TABLES
    return found


def _named(what: str, records: Any) -> Table:
    return {item.name: Row(f"{what} '{item.name}'", item, item.place) for item in records}


def _record_tables(spec: Spec) -> dict[str, Table]:
    found: dict[str, Table] = {"axis": {}, "record": {}, "record field": {}}
    for file in spec.record_files:
        inside: list[tuple[str, str, Any]] = [
            *(("axis", file.name, axis) for axis in file.axes),
            *(("record", file.name, record) for record in file.records),
            *(("record field", f"{file.name}.{r.name}", f) for r in file.records for f in r.fields),
        ]
        for table, outer, item in inside:
            name = f"{outer}.{item.name}"
            found[table][name] = Row(f"{table} '{name}'", item, item.place, outer)
    return {"records file": _named("records file", spec.record_files), **found}


def _kernel_tables(spec: Spec) -> dict[str, Table]:
    kernels = spec.kernels
    states = (kernels.mixing, kernels.joint) if kernels else ()
    parts = {
        "kernel states": states,
        "placement": kernels.placements if kernels else (),
        "kind": kernels.kinds if kernels else (),
    }
    file = Row(f"kernels file '{kernels.name}'", kernels, kernels.place) if kernels else None
    found: dict[str, Table] = {"kernels file": {"kernels": file} if file else {}}
    for table, items in parts.items():
        rows = (Row(f"{table} '{item.name}'", item, item.place, "kernels") for item in items)
        found[table] = {row.record.name: row for row in rows}
    return found


def _message_tables(spec: Spec) -> dict[str, Table]:
    file = spec.message_file
    names = TABLES[TABLES.index("messages file") :]
    found: dict[str, Table] = {name: {} for name in names}
    if file is None:
        return found
    found["messages file"]["messages"] = Row(f"messages file '{file.name}'", file, file.place)
    holders: list[Any] = [*file.parts, *file.message_groups, *file.messages, file.envelope]
    inside: list[tuple[str, str, str, Any]] = [
        *(("message axis", axis.name, "messages", axis) for axis in file.axes),
        *(("message", holder.name, "messages", holder) for holder in holders),
        *(("message field", f"{h.name}.{f.name}", h.name, f) for h in holders for f in h.fields),
        *(("upgrade", str(upgrade.start), "messages", upgrade) for upgrade in file.upgrades),
        *(
            ("upgrade step", f"{upgrade.start}.{change.name or 'envelope'}", "", change)
            for upgrade in file.upgrades
            for change in upgrade.changes
        ),
    ]
    for table, name, outer, item in inside:
        found[table][name] = Row(f"{table} '{name}'", item, item.place, outer)
    return found


def _properties(spec: Spec) -> Table:
    """Return the properties; of several by one name the second is `name (2)`, and so on."""
    found: Table = {}
    seen: Counter[str] = Counter()
    for item in spec.properties:
        seen[item.name] += 1
        number = f" ({seen[item.name]})" if seen[item.name] > 1 else ""
        found[item.name + number] = Row(f"property '{item.name}'{number}", item, item.place)
    return found


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges that are in both specs, by pairs, and those that are in one."""

    both: tuple[tuple[Edge, Edge], ...]
    removed: tuple[Edge, ...]
    added: tuple[Edge, ...]


@dataclass
class Pair:
    """Two specs and what belongs together; `old` is read under the new names of states."""

    before: Spec
    new: Spec
    renamed: Mapping[str, str] = field(init=False)
    old: Spec = field(init=False)

    def __post_init__(self) -> None:
        self.renamed = _renamed(self.before, self.new)
        self.old = under_names(self.before, self.renamed) if self.renamed else self.before

    @cached_property
    def rows(self) -> tuple[dict[str, Table], dict[str, Table]]:
        """The records of both specs."""
        return tables(self.old), tables(self.new)

    @cached_property
    def prover(self) -> GuardProver:
        """What relates guards."""
        return GuardProver(self.old, self.new)

    @cached_property
    def edges(self) -> Edges:
        """The edges of both specs, matched."""
        return _matched(self.old.edges, self.new.edges)

    def both(self, table: str) -> Iterator[tuple[Row, Row]]:
        """Yield the records that both specs have, in the order of the new one."""
        old, new = (rows[table] for rows in self.rows)
        yield from ((old[name], row) for name, row in new.items() if name in old)

    def removed(self, table: str) -> Iterator[Row]:
        """Yield the records that only the old spec has."""
        old, new = (rows[table] for rows in self.rows)
        yield from (row for name, row in old.items() if name not in new)

    def added(self, table: str) -> Iterator[Row]:
        """Yield the records that only the new spec has."""
        old, new = (rows[table] for rows in self.rows)
        yield from (row for name, row in new.items() if name not in old)


def _renamed(old: Spec, new: Spec) -> dict[str, str]:
    here, there = {s.name for s in new.states}, {s.name for s in old.states}
    codes = {state.code: state for state in new.states}
    return {
        state.name: codes[state.code].name
        for state in old.states
        if state.name not in here
        and state.code in codes
        and codes[state.code].name not in there
        and _same_but_name(state, codes[state.code])
    }


def _same_but_name(one: State, other: State) -> bool:
    parts = [(s.terminal, s.min_epochs, s.max_epochs, s.attributes) for s in (one, other)]
    return parts[0] == parts[1]


def under_names(spec: Spec, names: Mapping[str, str]) -> Spec:
    """Return a spec with other names of states, wherever they stand."""

    def new(name: str) -> str:
        return names.get(name, name)

    def all_new(states: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(new, states))

    return replace(
        spec,
        initial=new(spec.initial),
        states=tuple(replace(s, name=new(s.name)) for s in spec.states),
        groups=tuple(replace(g, states=all_new(g.states)) for g in spec.groups),
        edges=tuple(replace(e, source=new(e.source), target=new(e.target)) for e in spec.edges),
        capacities=tuple(replace(c, states=all_new(c.states)) for c in spec.capacities),
        properties=tuple(_under_names(p, names) for p in spec.properties),
        migrations=tuple(
            replace(m, states=tuple(replace(s, new=new(s.new)) for s in m.states))
            for m in spec.migrations
        ),
    )


def _under_names(claim: Property, names: Mapping[str, str]) -> Property:
    def new(role: str, text: str) -> str:
        if role == "formula":
            return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text)
        return text if role == "event" else names.get(text, text)

    return replace(
        claim, arguments=tuple((role, new(role, text)) for role, text in claim.arguments)
    )


def _matched(old: tuple[Edge, ...], new: tuple[Edge, ...]) -> Edges:
    """Match by source, event, target and turn; then what is left by source, event and turn."""
    both, removed, added = _matched_by(old, new, lambda e: (e.source, e.event, e.target))
    more, removed, added = _matched_by(removed, added, lambda e: (e.source, e.event))
    by_index = sorted([*both, *more], key=lambda pair: pair[1].index)
    return Edges(tuple(by_index), removed, added)


def _matched_by(
    old: tuple[Edge, ...], new: tuple[Edge, ...], key: Any
) -> tuple[list[tuple[Edge, Edge]], tuple[Edge, ...], tuple[Edge, ...]]:
    there, here = _by_turn(old, key), _by_turn(new, key)
    both = [(edge, here[name]) for name, edge in there.items() if name in here]
    removed = tuple(edge for name, edge in there.items() if name not in here)
    return both, removed, tuple(edge for name, edge in here.items() if name not in there)


def _by_turn(edges: tuple[Edge, ...], key: Any) -> dict[tuple[object, int], Edge]:
    """Return the edges by key and how many of the same key came before."""
    seen: Counter[object] = Counter()
    found = {}
    for edge in edges:
        found[key(edge), seen[key(edge)]] = edge
        seen[key(edge)] += 1
    return found


def label(edge: Edge) -> str:
    """Return how an edge is spoken of."""
    return f"edge {edge.source} --{edge.event}--> {edge.target}"
