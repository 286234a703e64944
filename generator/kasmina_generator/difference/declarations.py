"""Rules on records that stand for themselves, each a line: what changed, its class, what follows."""

from __future__ import annotations

from collections.abc import Iterator

from kasmina_generator.difference.matching import Pair, Row
from kasmina_generator.difference.records import Found
from kasmina_generator.difference.rule import (
    Rule,
    added,
    changed,
    differs,
    members,
    removed,
    reordered,
    same,
)
from kasmina_generator.model import Column

_BUILD = "build again; code that names it by its number must be told"
_NO_ONE = "nothing uses it by itself: an edge or a guard that does is told on its own"
_GONE = "code that names it no longer finds it"
_OTHER_ROWS = "stored rows mean something else or cannot be read; declare a migration"


def _state_attributes(pair: Pair) -> Iterator[Found]:
    for old, new in pair.both("state"):
        before, after = dict(old.record.attributes), dict(new.record.attributes)
        for attribute, _ in pair.both("attribute"):
            name = attribute.record.name
            if not same(before.get(name), after.get(name)):
                yield differs(new.subject, name, before.get(name), after.get(name), old, new)


def _column_defaults(pair: Pair) -> Iterator[Found]:
    for old, new in pair.both("column"):
        one, other = old.record.default, new.record.default
        if new.record.role != "state" and not same(one, other):  # that is the initial state's code
            yield differs(new.subject, "default", one, other, old, new)


def _mapped_states(row: Row) -> list[str]:
    return [f"{move.old} ({move.code}) to {move.new}" for move in row.record.states]


def _mapped_columns(row: Row) -> list[str]:
    return [f"{_stored(move.column)} to {move.new or 'nothing'}" for move in row.record.columns]


def _stored(column: Column) -> str:
    names = f" {', '.join(column.fields)}" if column.fields else ""
    return f"{column.name} ({column.dtype} x {column.length}{names}, {column.role or 'no role'})"


ATTRIBUTES = (
    Rule("attribute_added", "table", "a property of states is new",
         "each state has a value more; what exists reads as before", added("attribute")),
    Rule("attribute_removed", "behaviour", "a property of states is gone",
         "whatever follows it, such as the data path, cannot any more", removed("attribute")),
    Rule("attribute_value_added", "table", "an attribute has a value more", _NO_ONE,
         added("attribute value", "attribute")),
    Rule("attribute_value_removed", "table", "an attribute has a value less", _GONE,
         removed("attribute value", "attribute")),
    Rule("attribute_value_code", "table", "a value of an attribute has another code", _BUILD,
         changed("attribute value", "code")),
)  # fmt: skip

STATES = (
    Rule("state_added", "table", "a state is new",
         "nothing leads there by itself: edges are told on their own", added("state")),
    Rule("state_removed", "stored", "a state is gone",
         "a row that is stored in it can be read no more; declare a migration", removed("state")),
    Rule("state_code", "stored", "a state has another code", _OTHER_ROWS, changed("state", "code")),
    Rule("state_terminal", "behaviour", "a state became an end, or ceased to be one",
         "what is there ends, or goes on", changed("state", "terminal")),
    Rule("state_min_epochs", "behaviour", "the shortest stay in a state changed",
         "edges that are not urgent wait for another number of epochs",
         changed("state", "min_epochs")),
    Rule("state_max_epochs", "behaviour", "the longest stay in a state changed",
         "its time-out comes at another epoch", changed("state", "max_epochs")),
    Rule("state_attribute", "behaviour", "a state has another value of an attribute",
         "what is done with an entity in the state changes", _state_attributes),
)  # fmt: skip

GROUPS = (
    Rule("group_added", "table", "a group is new", _NO_ONE, added("group")),
    Rule("group_removed", "table", "a group is gone", _GONE, removed("group")),
    Rule("group_states", "table", "a group has other members",
         "what is declared for it is told on its own", members("group")),
)  # fmt: skip

EVENTS = (
    Rule("event_added", "table", "an event is new", _NO_ONE, added("event")),
    Rule("event_removed", "table", "an event is gone", _GONE, removed("event")),
    Rule("event_kind", "behaviour", "an event became a command, or automatic",
         "it is asked for, or happens by itself at a tick", changed("event", "kind")),
    Rule("event_urgent", "behaviour", "an event became urgent, or ceased to be",
         "its edges wait for min_epochs, or do not", changed("event", "urgent")),
    Rule("event_priority", "table", "an event has another priority",
         "edges that take it over are told on their own", changed("event", "priority")),
    Rule("event_bit", "table", "an event has another bit",
         "build again; a mask of events that was logged means others", changed("event", "bit")),
)  # fmt: skip

CONTEXT = (
    Rule("field_added", "table", "a context field is new", _NO_ONE, added("context field")),
    Rule("field_removed", "table", "a context field is gone",
         "code that measures it must stop; guards that read it are told on their own",
         removed("context field")),
    Rule("field_dtype", "behaviour", "a field has another dtype",
         "its values round or saturate elsewhere", changed("context field", "dtype")),
    Rule("field_unit", "behaviour", "a field is measured in another unit",
         "the same number means another quantity to every guard", changed("context field", "unit")),
    Rule("field_range", "behaviour", "a field is clamped to another range",
         "guards see other values at its ends", changed("context field", "low", "high")),
    Rule("field_default", "behaviour", "a field that nobody measured has another value",
         "guards see it where nothing is measured", changed("context field", "default")),
    Rule("field_nan", "behaviour", "NaN in a field means something else",
         "an entity without a measurement may take another edge", changed("context field", "nan")),
    Rule("field_infinity", "behaviour", "infinity in a field means something else",
         "an infinite measurement may take another edge, or be refused",
         changed("context field", "infinity")),
)  # fmt: skip

LIMITS = (
    Rule("limit_added", "table", "a limit is new", _NO_ONE, added("limit")),
    Rule("limit_removed", "table", "a limit is gone",
         "code that sets it must stop; guards that read it are told on their own",
         removed("limit")),
    Rule("limit_dtype", "behaviour", "a limit has another dtype",
         "it is rounded elsewhere", changed("limit", "dtype")),
    Rule("limit_default", "behaviour", "a limit has another default",
         "runs that do not set it decide otherwise", changed("limit", "default")),
    Rule("limit_range", "behaviour", "a limit may be set within another range",
         "a setting that was accepted may be refused, or the other way round",
         changed("limit", "low", "high")),
)  # fmt: skip

EFFECTS = (
    Rule("effect_added", "table", "an effect is new", _NO_ONE, added("effect")),
    Rule("effect_removed", "table", "an effect is gone", _GONE, removed("effect")),
    Rule("effect_bit", "table", "an effect has another bit", _BUILD, changed("effect", "bit")),
)  # fmt: skip

CAPACITIES = (
    Rule("capacity_added", "behaviour", "a capacity is new",
         "an entity may now be refused for want of room", added("capacity")),
    Rule("capacity_removed", "behaviour", "a capacity is gone",
         "nothing is refused for want of that room", removed("capacity")),
    Rule("capacity_states", "behaviour", "a capacity counts other states",
         "it is full at another moment", members("capacity")),
    Rule("capacity_limit", "behaviour", "a capacity reads another limit",
         "its size is another number", changed("capacity", "limit")),
    Rule("capacity_order", "behaviour", "a capacity lets in by another order",
         "of those that ask, others enter", changed("capacity", "order")),
    Rule("capacity_sequence", "behaviour", "capacities are arbitrated in another order",
         "an entity that asks two of them may be refused by the other", reordered("capacity")),
)  # fmt: skip

PROPERTIES = (
    Rule("property_added", "source", "a property is new", "it is proved on each build",
         added("property")),
    Rule("property_removed", "source", "a property is gone",
         "nothing proves any more that it holds", removed("property")),
    Rule("property_claim", "source", "a property claims something else",
         "the old claim is not proved any more", changed("property", "kind", "arguments")),
)  # fmt: skip

COLUMNS = (
    Rule("column_added", "stored", "a column is new",
         "rows that were stored lack it; a migration gives them its default", added("column")),
    Rule("column_removed", "stored", "a column is gone",
         "what rows have stored in it is lost; a migration drops it", removed("column")),
    Rule("column_dtype", "stored", "a column has another dtype", _OTHER_ROWS,
         changed("column", "dtype")),
    Rule("column_length", "stored", "a column has another length", _OTHER_ROWS,
         changed("column", "length")),
    Rule("column_fields", "stored", "the entries of a column have other names", _OTHER_ROWS,
         changed("column", "fields")),
    Rule("column_role", "stored", "a column is kept by the step for another purpose", _OTHER_ROWS,
         changed("column", "role")),
    Rule("column_default", "behaviour", "a column begins at another value",
         "new rows, and rows whose slot begins a new generation, hold it",
         _column_defaults),
)  # fmt: skip

MIGRATIONS = (
    Rule("migration_added", "table", "rows of one more old spec can be taken over",
         "what was refused can be migrated", added("migration")),
    Rule("migration_removed", "stored", "rows of an old spec can be taken over no more",
         "rows under that digest are refused", removed("migration")),
    Rule("migration_states", "stored", "a migration maps states otherwise",
         "stored rows become rows in other states", changed("migration", "states", read=_mapped_states)),
    Rule("migration_columns", "stored", "a migration maps columns otherwise",
         "stored values go to other columns, or are dropped",
         changed("migration", "columns", read=_mapped_columns)),
    Rule("migration_origin", "table", "a migration names its old spec otherwise", "build again",
         changed("migration", "spec", "version", "file")),
)  # fmt: skip

DECLARATIONS = (
    *ATTRIBUTES,
    *STATES,
    *GROUPS,
    *EVENTS,
    *CONTEXT,
    *LIMITS,
    *EFFECTS,
    *CAPACITIES,
    *PROPERTIES,
    *COLUMNS,
    *MIGRATIONS,
)
