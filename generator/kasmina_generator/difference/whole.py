"""Rules on a spec as a whole: its name, what begins, what stands where, prose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kasmina_generator.difference.matching import TABLES, Pair, label
from kasmina_generator.difference.records import Found
from kasmina_generator.difference.rule import Find, Rule, place_of, reordered, same, shown
from kasmina_generator.migration import stored_columns
from kasmina_generator.model import Place, Spec

Placed = tuple[str, Place, Place]  # a subject in both specs


def _spec(name: str) -> Find:
    def find(pair: Pair) -> Iterator[Found]:
        old, new = getattr(pair.old, name), getattr(pair.new, name)
        if not same(old, new):
            what = f"{name} was {shown(old)}, is {shown(new)}"
            yield Found("spec", what, place_of(pair, old=True), place_of(pair, old=False))

    return find


def _renamed(pair: Pair) -> Iterator[Found]:
    states = {state.name: state.place for state in pair.new.states}
    for state in pair.before.states:
        if state.name in pair.renamed:
            name = pair.renamed[state.name]
            what = f"was '{state.name}' with the same code {state.code}"
            yield Found(f"state '{name}'", what, state.place, states[name])


def _recycled(pair: Pair) -> Iterator[Found]:
    """Find codes whose state is gone and that another state has now."""
    codes = {state.code: state for state in pair.new.states}
    names = {state.name for state in pair.new.states}
    for state in pair.old.states:
        if state.name not in names and state.code in codes:
            other = codes[state.code]
            what = f"was that of '{state.name}', is that of '{other.name}'"
            yield Found(f"code {state.code}", what, state.place, other.place)


def _meanings(pair: Pair) -> Iterator[Found]:
    for subject, old, new, a, b in _prose(pair):
        if old != new:
            yield Found(subject, f"meaning was {old!r}, is {new!r}", a, b)


def _prose(pair: Pair) -> Iterator[tuple[str, str, str, Place, Place]]:
    """Yield subject, meanings and places of all that has a meaning."""
    places = (place_of(pair, old=True), place_of(pair, old=False))
    yield "spec", pair.old.meaning, pair.new.meaning, *places
    one, other = pair.old.columns, pair.new.columns
    if one and other:
        yield "state file", one.meaning, other.meaning, one.place, other.place
    for table in TABLES:
        if table not in ("group", "property"):
            for a, b in pair.both(table):
                yield b.subject, _said(a.record), _said(b.record), a.place, b.place
    for old, new in pair.edges.both:
        yield label(new), old.meaning, new.meaning, old.place, new.place


def _said(record: Any) -> str:
    """Return what a record says it means, and what NaN and None mean in it."""
    texts = [getattr(record, name, "") for name in ("meaning", "nan_meaning", "none_meaning")]
    return " / ".join(text for text in texts if text)


def _moved(pair: Pair) -> Iterator[Found]:
    """One finding for all: a line more moves everything below it."""
    moved = [item for item in _placed(pair) if _elsewhere(pair, *item[1:])]
    if moved:
        subject, old, new = moved[0]
        records = "1 record" if len(moved) == 1 else f"{len(moved)} records"
        yield Found(records, f"the first is {subject}", old, new)


def _placed(pair: Pair) -> Iterator[Placed]:
    for table in TABLES:
        yield from ((b.subject, a.place, b.place) for a, b in pair.both(table))
    yield from ((label(new), old.place, new.place) for old, new in pair.edges.both)
    if pair.old.columns and pair.new.columns:
        yield "state file", pair.old.columns.place, pair.new.columns.place


def _elsewhere(pair: Pair, old: Place, new: Place) -> bool:
    """Say whether a place changed by more than the name of its file."""
    files = (_files(pair.old), _files(pair.new))
    kinds = (files[0].get(old.file, old.file), files[1].get(new.file, new.file))
    return (kinds[0], old.line, old.column) != (kinds[1], new.line, new.column)


def _files(spec: Spec) -> dict[str, str]:
    """Return what the files of a spec are, by name."""
    columns = {spec.columns.place.file: "<columns>"} if spec.columns else {}
    records = {file.file: f"<{file.name}>" for file in spec.record_files}
    kernels = {spec.kernels.file: "<kernels>"} if spec.kernels else {}
    messages = {spec.message_file.file: "<messages>"} if spec.message_file else {}
    return {**records, **kernels, **messages, **columns, spec.file: "<spec>"}


def _member_order(pair: Pair) -> Iterator[Found]:
    """Find lists of names that hold the same names in another order."""
    for table in ("group", "capacity"):
        for a, b in pair.both(table):
            yield from _permuted(b.subject, a.record.states, b.record.states, a.place, b.place)
    for old, new in pair.edges.both:
        yield from _permuted(label(new), old.effects, new.effects, old.place, new.place)


def _permuted(
    subject: str, old: tuple[str, ...], new: tuple[str, ...], a: Place, b: Place
) -> Iterator[Found]:
    if old != new and set(old) == set(new):
        yield Found(subject, f"names {shown(new)} in another order than {shown(old)}", a, b)


def _state_file(pair: Pair) -> Iterator[Found]:
    """Find a state file that is named in one spec only; its columns are told on their own."""
    files = [spec.columns for spec in (pair.old, pair.new)]
    if (files[0] is None) != (files[1] is None):
        found = [columns.place if columns else None for columns in files]
        names = [f"'{columns.name}'" if columns else "none" for columns in files]
        what = f"was {names[0]}, is {names[1]}"
        count = len(stored_columns(pair.new))
        follows = f"rows are stored in the {count} columns of the new one; declare a migration"
        yield Found("state file", what, found[0], found[1], follows)


def _state_file_name(pair: Pair) -> Iterator[Found]:
    one, other = pair.old.columns, pair.new.columns
    if one and other and one.name != other.name:
        yield Found("state file", f"name was {one.name}, is {other.name}", one.place, other.place)


WHOLE = (
    Rule("name", "table", "the spec has another name", "the generated package says so",
         _spec("name")),
    Rule("version", "table", "the spec has another version", "the generated package says so",
         _spec("version")),
    Rule("initial", "behaviour", "an entity begins in another state",
         "new rows, and slots that are reset, are in it", _spec("initial")),
    Rule("state_renamed", "table", "a state has another name under the same code",
         "stored rows read as before; code and logs that name it do not", _renamed),
    Rule("code_recycled", "stored", "the code of a state that is gone is another state's",
         "a stored row is silently taken for the other state; declare a migration", _recycled),
    Rule("state_file", "stored", "the spec names a state file, or names none any more", "",
         _state_file),
    Rule("state_file_name", "table", "the state file has another name",
         "generated text says so", _state_file_name),
    Rule("position", "table", "what is passed or listed by position has another order",
         "build again; code that passes values by position must be told",
         reordered("context field", "limit", "column", "migration", "axis", "record",
                   "record field", "message axis", "message", "message field")),
    Rule("meaning", "source", "what something means is said in other words",
         "generated comments change", _meanings),
    Rule("members", "table", "a list names the same in another order",
         "generated text and the digest change, what is decided does not", _member_order),
    Rule("order", "source", "tables by name stand in another order", "nothing",
         reordered("attribute", "group", "property", "records file", "placement", "kind")),
    Rule("moved", "source", "records stand elsewhere in their file",
         "errors and generated line numbers point to the new place", _moved),
    Rule("file", "source", "the spec is in a file by another name",
         "errors and generated headers say so", _spec("file")),
)  # fmt: skip
