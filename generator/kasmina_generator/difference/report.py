"""A comparison in text for people, and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from kasmina_generator.difference.records import Change, Comparison
from kasmina_generator.model import Place, Scalar
from kasmina_generator.prove.paths import values

MOST_SUBJECTS = 4  # of a change that is the same for many


def text(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of a report: each change, then the counts and what becomes of stored rows."""
    for _, group in groupby(comparison.changes, key=_alike):
        yield from _block(list(group))
    counts = [f"{count} {kind}" for kind, count in comparison.counts().items() if count]
    yield f"{comparison.old} to {comparison.new}: {', '.join(counts) or 'no difference'}"
    yield f"stored rows: {_READABLE[comparison.readable].format(c=comparison)}"


_READABLE = {
    "as they are": "read as they are, under the same digest {c.new_digest}",
    "by migration": "the new spec declares a migration from {c.old_digest}",
    "not at all": "refused: the new spec declares no migration from {c.old_digest}",
}


def _alike(change: Change) -> tuple[object, ...]:
    """Return what changes share that are told together: one transition may be many edges."""
    rows = tuple((w.says, tuple(w.values.items())) for w in change.witnesses)
    return (change.rule, change.old, change.new, change.what, change.proof, repr(rows))


def _block(changes: list[Change]) -> Iterator[str]:
    first = changes[0]
    subjects = [change.subject for change in changes]
    rest = len(subjects) - MOST_SUBJECTS
    more = f" and {rest} more" if rest > 0 else ""
    yield f"{first.kind}: {first.rule}: {', '.join(subjects[:MOST_SUBJECTS])}{more}"
    yield f"    {_where(first)}"
    yield f"    {first.what}" + (f" ({first.proof})" if first.proof else "")
    for witness in first.witnesses:
        yield f"    {witness.says}: {values(witness.values) or 'whatever the values'}"
    yield f"    so {first.follows}"
    yield ""


def _where(change: Change) -> str:
    if change.old is None:
        return f"new: {change.new}"
    return f"{change.old} -> {change.new}" if change.new else f"gone: {change.old}"


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain data; NaN and infinities are strings, which JSON lacks."""
    return {
        "old": {"spec": comparison.old, "digest": comparison.old_digest},
        "new": {"spec": comparison.new, "digest": comparison.new_digest},
        "stored_rows": comparison.readable,
        "worst": comparison.worst(),
        "counts": comparison.counts(),
        "changes": [_change(change) for change in comparison.changes],
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "class": change.kind,
        "rule": change.rule,
        "subject": change.subject,
        "old": _place(change.old),
        "new": _place(change.new),
        "what": change.what,
        "follows": change.follows,
        "proof": change.proof or None,
        "witnesses": [
            {"says": w.says, "values": {name: _number(value) for name, value in w.values.items()}}
            for w in change.witnesses
        ],
    }


def _place(place: Place | None) -> dict[str, Any] | None:
    return {"file": place.file, "line": place.line, "column": place.column} if place else None


def _number(value: Scalar) -> Scalar | str:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
