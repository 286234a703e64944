"""From a spec's files to its model: strict, with every fault in one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kasmina_generator.declarations import (
    read_attributes,
    read_effects,
    read_events,
    read_states,
)
from kasmina_generator.digest import digest_of
from kasmina_generator.document import Mapping, Unusable, describe, load_document
from kasmina_generator.edges import check_unused_macros, read_edges, read_macros
from kasmina_generator.expression import Field, LimitRef
from kasmina_generator.fields import read_context, read_limits
from kasmina_generator.finding import Log, SpecErrors
from kasmina_generator.guard import Guard, Symbol, Symbols
from kasmina_generator.kernels.kernels_file import read_kernels
from kasmina_generator.messages.messages_file import read_messages
from kasmina_generator.migration import read_migrations
from kasmina_generator.model import ContextField, Limit, Spec, State, StateSchema
from kasmina_generator.record import Record
from kasmina_generator.records_file import MOST_VERSION, read_records
from kasmina_generator.references import (
    Names,
    declared,
    read_capacities,
    read_groups,
    read_properties,
)
from kasmina_generator.state_file import check_schema, read_name, read_state_file
from kasmina_generator.symbols import range_of_declared
from kasmina_generator.vocabulary import LIFECYCLE_SCHEMA, RECORDS

__all__ = ["SpecErrors", "read_spec"]


def read_spec(path: Path) -> Spec:
    """Read a lifecycle file and the state file that it names.

    Structure (unreachable states, traps, ...) is for `check_spec`; what comes back here is well
    formed: see `model` for what holds of it.

    Args:
        path: The lifecycle's YAML file; the state file lies beside it.

    Raises:
        SpecErrors: Where anything is wrong; it holds every fault with file, line and column.
    """
    return _read_file(path, with_migrations=True)


def _read_file(path: Path, *, with_migrations: bool) -> Spec:
    """Read a spec; one that is only migrated from may itself name specs that are gone."""
    log = Log()
    node = load_document(path, log)
    if not isinstance(node, Mapping | Unusable):
        log.add(node.place, f"expected a mapping, found {describe(node)}")
    spec = None
    if isinstance(node, Mapping):
        top = Record(log, "spec", node, RECORDS["lifecycle"])
        if check_schema(top, LIFECYCLE_SCHEMA):
            spec = _read(top, path)
            if with_migrations and "migrations" in top:
                spec = replace(spec, migrations=read_migrations(top, path, spec, _read_old))
            if with_migrations and "records" in top:
                spec = replace(spec, record_files=read_records(top, path))
            if with_migrations and "kernels" in top:
                spec = replace(spec, kernels=read_kernels(top, path, spec))
            if with_migrations and "messages" in top:
                spec = replace(spec, message_file=read_messages(top, path))
    log.raise_if_any()
    assert spec is not None
    return spec


def _read_old(path: Path) -> Spec:
    return _read_file(path, with_migrations=False)


def _read(top: Record, path: Path) -> Spec:
    attributes = read_attributes(top) if "attributes" in top else ()
    states = read_states(top, attributes)
    names = _names(top, states)
    initial = names.reference(top, "initial", names.state_names, "state")
    spec = Spec(
        name=read_name(top),
        version=top.integer("version", 1, MOST_VERSION, default=1),
        meaning=top.text("meaning"),
        initial=initial,
        attributes=attributes,
        states=states,
        groups=tuple(names.groups.values()),
        events=tuple(names.events.values()),
        context=tuple(item for item in names.context.values() if item),
        limits=tuple(item for item in names.limits.values() if item),
        effects=read_effects(top) if "effects" in top else (),
        edges=read_edges(top, names),
        capacities=read_capacities(top, names) if "capacities" in top else (),
        properties=read_properties(top, names),
        columns=_columns(top, path, names.states.get(initial)),
        migrations=(),
        record_files=(),
        kernels=None,
        message_file=None,
        file=path.name,
        digest="",
    )
    check_unused_macros(top, names.symbols)
    return replace(spec, digest=digest_of(spec))


def _names(top: Record, states: tuple[State, ...]) -> Names:
    state_names = declared(top, "states")
    groups = read_groups(top, state_names, states)
    context = read_context(top) if "context" in top else {}
    limits = read_limits(top, context) if "limits" in top else {}
    macros = read_macros(top, (*context, *limits)) if "guards" in top else {}
    return Names(
        state_names=state_names,
        states={state.name: state for state in states},
        groups={group.name: group for group in groups},
        event_names=declared(top, "events"),
        events={event.name: event for event in read_events(top)},
        effect_names=declared(top, "effects"),
        context=context,
        limits=limits,
        symbols=_symbols(context, limits, macros),
    )


def _symbols(
    context: dict[str, ContextField | None],
    limits: dict[str, Limit | None],
    macros: dict[str, Guard | None],
) -> Symbols:
    values: dict[str, Symbol | None] = {}
    for name, item in [*context.items(), *limits.items()]:
        kind = Field if name in context else LimitRef
        values[name] = Symbol(kind(name, item.dtype), range_of_declared(item)) if item else None
    return Symbols(values, macros)


def _columns(top: Record, path: Path, initial: State | None) -> StateSchema | None:
    if "state" not in top:
        return None
    file = top.file_beside("state", path)
    return read_state_file(file, initial.code if initial else 0, top.log) if file else None
