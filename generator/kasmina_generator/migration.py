"""Reading `migrations`: how rows that an older spec has stored become rows of this one.

The old spec is a file beside the new one, so that nothing about it has to be believed: its states
and columns are read, and its digest, by which stored rows say where they come from, must be the
one that the migration names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from kasmina_generator.document import Mapping, Scalar, Unusable, describe
from kasmina_generator.finding import SpecErrors
from kasmina_generator.model import Column, ColumnMove, Migration, Place, Spec, StateMove
from kasmina_generator.record import Record
from kasmina_generator.references import declared
from kasmina_generator.vocabulary import RECORDS

Read = Callable[[Path], Spec]


def stored_columns(spec: Spec) -> tuple[Column, ...]:
    """Return the columns that are stored; a step needs two where the spec names no state file."""
    if spec.columns:
        return spec.columns.columns
    place = Place(spec.file, 1, 1)
    initial = next((state.code for state in spec.states if state.name == spec.initial), 0)
    state = Column("state", "int8", 1, initial, "state", (), "The code of the state.", place)
    ticks = "Ticks since the state was entered; saturates."
    return (state, Column("epochs", "int16", 1, 0, "epochs", (), ticks, place))


def read_migrations(top: Record, path: Path, spec: Spec, read: Read) -> tuple[Migration, ...]:
    """Return the declared migrations, each total over the states of its old spec.

    Args:
        top: The spec's record, which has `migrations`.
        path: The spec's file.
        spec: What was read of it so far.
        read: Reads an old spec, its own migrations left out.
    """
    found: list[Migration] = []
    for record in top.records("migrations", RECORDS["migration"], "migration"):
        migration = _migration(record, path, spec, read, top)
        if migration and any(migration.digest == other.digest for other in found):
            what = f"a second migration from digest {migration.digest[:12]}; drop one"
            top.log.add(record.at, f"{record.label}: {what}")
        elif migration:
            found.append(migration)
    return tuple(found)


def _migration(record: Record, path: Path, spec: Spec, read: Read, top: Record) -> Migration | None:
    columns_known = spec.columns is not None or "state" not in top
    meaning, old = record.text("meaning"), _old_spec(record, path, spec, read)
    if old is None:
        return None
    return Migration(
        spec=old.name,
        version=old.version,
        digest=old.digest,
        states=tuple(_states(record, old, declared(top, "states"))),
        columns=_columns(record, old, stored_columns(spec)) if columns_known else (),
        meaning=meaning,
        file=old.file,
        place=record.at,
    )


def _old_spec(record: Record, path: Path, spec: Spec, read: Read) -> Spec | None:
    node = record.node("from")
    if not isinstance(node, Mapping):
        record.expected("from", "a mapping with file and digest")
        return None
    origin = Record(record.log, f"{record.label}: from", node, RECORDS["migration_from"])
    file = origin.file_beside("file", path)
    if file is None:
        return None
    if file.name == path.name:
        origin.fault("file", "is this spec itself; keep the old text as a file of its own")
        return None
    try:
        old = read(file)
    except SpecErrors as errors:
        origin.fault("file", _cannot_be_read(file.name, errors))
        return None
    _check_digest(origin, old, spec)
    return old


def _cannot_be_read(name: str, errors: SpecErrors) -> str:
    rest = len(errors.findings) - 1
    more = f", and {rest} more" if rest else ""
    return f"{name!r} cannot be read: {errors.findings[0]}{more}"


def _check_digest(origin: Record, old: Spec, spec: Spec) -> None:
    """Hold that the file still is the spec under which rows were stored."""
    scalar = origin.scalar("digest", "the digest of the old spec")
    if scalar is None:
        return
    if scalar.text != old.digest:
        what = f"is not that of {old.file}, which is {old.digest}"
        hint = "give that one, or bring the file back to what it was when the rows were stored"
        origin.fault("digest", f"{what}; {hint}")
    elif old.digest == spec.digest:
        what = f"{old.file} stores what this spec stores, under the same digest"
        origin.fault("digest", f"{what}; drop the migration")


def _states(record: Record, old: Spec, targets: Sequence[str]) -> Iterator[StateMove]:
    """Yield what each old state becomes."""
    names_there = [state.name for state in old.states]
    given = dict(_pairs(record, "states", old.file, names_there, targets))
    forgotten = [state.name for state in old.states if state.name not in given]
    if forgotten and isinstance(record.node("states"), Mapping):
        names = ", ".join(repr(name) for name in forgotten)
        what = f"forgets {names} of {old.file}; each old state becomes a state of this spec"
        record.fault("states", what)
    yield from (StateMove(s.name, s.code, given[s.name]) for s in old.states if s.name in given)


def _pairs(
    record: Record, key: str, file: str, sources: Sequence[str], targets: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield (old, new) of the mapping at `key`; names that nobody has are faults."""
    node = record.node(key)
    if not isinstance(node, Mapping):
        record.expected(key, "a mapping from old names to new ones")
        return
    for name, value in node.entries:
        if name.text not in sources:
            what = f"{record.label}: {key}: {file} has no {name.text!r}"
            record.log.add(name.place, what, allowed=sources, given=name.text)
        elif not isinstance(value, Scalar):
            if not isinstance(value, Unusable):
                what = f"{record.label}: {key}: expected a name, found {describe(value)}"
                record.log.add(value.place, what)
            yield name.text, ""  # it is told that this is wrong, not that it is forgotten
        else:
            if value.text not in targets:
                what = f"{record.label}: {key}: this spec has no {value.text!r}"
                record.log.add(value.place, what, allowed=targets, given=value.text)
            yield name.text, value.text


def _columns(record: Record, spec: Spec, new: Sequence[Column]) -> tuple[ColumnMove, ...]:
    """Return where each old column goes: as declared, else by its role, else by its name."""
    old = stored_columns(spec)
    given = _declared_columns(record, spec.file, old, new)
    taken = _matched(old, new, given)
    for column in new:
        source = taken.get(column.name)
        fault = _mismatch(source, column) if source else None
        if source and fault:
            label = f"{record.label}: column {source.name!r} to {column.name!r}"
            record.log.add(record.place("columns"), f"{label}: {fault}")
    where = {source.name: name for name, source in taken.items()}
    return tuple(ColumnMove(column, where.get(column.name)) for column in old)


def _declared_columns(
    record: Record, file: str, old: Sequence[Column], new: Sequence[Column]
) -> dict[str, Column]:
    """Return the old column by the new name, as far as the migration says so."""
    if "columns" not in record:
        return {}
    named = {column.name: column for column in old}
    given: dict[str, Column] = {}
    for source, target in _pairs(record, "columns", file, list(named), [c.name for c in new]):
        if target in given:
            what = f"{target!r} cannot take both {given[target].name!r} and {source!r}"
            record.fault("columns", what)
        given.setdefault(target, named[source])
    return given


def _matched(
    old: Sequence[Column], new: Sequence[Column], given: dict[str, Column]
) -> dict[str, Column]:
    free = [column for column in old if column not in given.values()]
    roles = {column.role: column for column in free if column.role}
    names = {column.name: column for column in free if not column.role}
    taken = {}
    for column in new:
        own = roles.get(column.role) if column.role else names.get(column.name)
        source = given.get(column.name, own)
        if source is not None:
            taken[column.name] = source
    return taken


def _mismatch(old: Column, new: Column) -> str | None:
    """Say why the values of one column cannot become those of another; None where they can."""
    if not new.dtype:
        return None  # the fault is in the state file, and told there
    if old.role != new.role:
        return f"its role is {old.role or 'none'} there and {new.role or 'none'} here"
    kinds = (_kind(old.dtype), _kind(new.dtype))
    if kinds not in _CONVERTIBLE:
        return f"{old.dtype} does not become {new.dtype}; give the new column another name"
    by_name = old.fields and new.fields
    if old.length != new.length and new.role != "history" and not by_name:
        lengths = f"length {old.length} does not become {new.length}"
        return f"{lengths}; name the entries under 'fields', or give the new column another name"
    return None


_CONVERTIBLE = {("bool", "bool"), ("int", "int"), ("float", "float"), ("int", "float")}


def _kind(dtype: str) -> str:
    return dtype.lstrip("u").rstrip("0123456789")
