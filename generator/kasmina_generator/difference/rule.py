"""One rule of the comparison, and the kinds of which there are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kasmina_generator.difference.matching import Pair, Row
from kasmina_generator.difference.records import Change, Class, Found
from kasmina_generator.model import Place
from kasmina_generator.prove.domain import show

Find = Callable[[Pair], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of change: `says` what it is, and `follows` what comes of it."""

    name: str
    kind: Class
    says: str
    follows: str
    find: Find

    def changes(self, pair: Pair) -> Iterator[Change]:
        """Yield the changes that the rule finds."""
        for found in self.find(pair):
            yield Change(
                rule=self.name,
                kind=self.kind,
                subject=found.subject,
                what=found.what,
                follows=found.follows or self.follows,
                old=found.old,
                new=found.new,
                proof=found.proof,
                witnesses=found.witnesses,
            )


def added(table: str, outer: str = "") -> Find:
    """Return what finds the records that only the new spec has.

    Args:
        table: Where the records are.
        outer: The table of the records that hold them, if any: a new one is told alone.
    """

    def find(pair: Pair) -> Iterator[Found]:
        for row in pair.added(table):
            if not outer or row.inside in pair.rows[0][outer]:
                yield Found(row.subject, "is new", None, row.place)

    return find


def removed(table: str, outer: str = "") -> Find:
    """Return what finds the records that only the old spec has; see `added`."""

    def find(pair: Pair) -> Iterator[Found]:
        for row in pair.removed(table):
            if not outer or row.inside in pair.rows[1][outer]:
                yield Found(row.subject, "is gone", row.place, None)

    return find


def changed(table: str, *fields: str, read: Callable[[Row], object] | None = None) -> Find:
    """Return what finds records of which a value changed.

    Args:
        table: Where the records are.
        fields: Names of one value, or of several that are shown together.
        read: Gives the value instead.
    """

    def value(row: Row) -> object:
        parts = tuple(getattr(row.record, name) for name in fields)
        return read(row) if read else parts[0] if len(parts) == 1 else list(parts)

    def find(pair: Pair) -> Iterator[Found]:
        for old, new in pair.both(table):
            if not same(value(old), value(new)):
                yield differs(new.subject, _said(fields), value(old), value(new), old, new)

    return find


def reordered(*names: str) -> Find:
    """Return what finds tables whose common records stand in another order."""

    def find(pair: Pair) -> Iterator[Found]:
        for table in names:
            old, new = (list(rows[table]) for rows in pair.rows)
            before = [name for name in old if name in set(new)]
            after = [name for name in new if name in set(old)]
            if before != after:
                place = next(p for p in zip(before, after, strict=True) if p[0] != p[1])
                rows = (pair.rows[0][table][place[0]], pair.rows[1][table][place[1]])
                what = f"the order changed: {rows[1].subject} stands where {rows[0].subject} stood"
                yield Found(f"{table} table", what, rows[0].place, rows[1].place)

    return find


def members(table: str) -> Find:
    """Return what finds sets of states that changed."""
    return changed(table, "states", read=lambda row: frozenset(row.record.states))


def differs(subject: str, name: str, old: object, new: object, a: Row, b: Row) -> Found:
    """Return that a value was one thing and is another."""
    what = f"{name} was {shown(old)}, is {shown(new)}"
    return Found(subject, what, a.place, b.place)


def same(one: object, other: object) -> bool:
    """Compare two values; NaN equals itself, and 1 is neither 1.0 nor true."""
    return repr(one) == repr(other) if not isinstance(one, frozenset) else one == other


def shown(value: object) -> str:
    """Return a value as one would write it in a spec."""
    if value is None:
        return "none"
    if isinstance(value, bool | int | float):
        return show(value)
    if isinstance(value, frozenset):
        return f"[{', '.join(sorted(value))}]"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def _said(fields: tuple[str, ...]) -> str:
    return "range" if fields == ("low", "high") else " and ".join(fields).replace("_", " ")


def place_of(pair: Pair, *, old: bool) -> Place:
    """Return the place that stands for a whole spec."""
    return Place((pair.before if old else pair.new).file, 1, 1)
