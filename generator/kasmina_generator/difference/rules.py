"""All rules, and the comparison of two specs by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from kasmina_generator.difference.declarations import DECLARATIONS
from kasmina_generator.difference.edges import EDGES
from kasmina_generator.difference.kernels import KERNELS
from kasmina_generator.difference.matching import Pair
from kasmina_generator.difference.messages import MESSAGES
from kasmina_generator.difference.record_files import RECORD_FILES
from kasmina_generator.difference.records import CLASSES, Change, Comparison, Found
from kasmina_generator.difference.rule import Rule, place_of
from kasmina_generator.difference.whole import WHOLE
from kasmina_generator.model import Spec

RULES: tuple[Rule, ...] = (*WHOLE, *DECLARATIONS, *EDGES, *RECORD_FILES, *KERNELS, *MESSAGES)


def compare(old: Spec, new: Spec) -> Comparison:
    """Return everything that differs between two specs, the worst first."""
    pair = Pair(old, new)
    found = [change for rule in RULES for change in rule.changes(pair)]
    found += UNEXPLAINED.changes(pair) if _unexplained(old, new, found) else ()
    return Comparison(
        old=f"{old.name} version {old.version}",
        new=f"{new.name} version {new.version}",
        old_digest=old.digest,
        new_digest=new.digest,
        readable=_readable(old, new),
        changes=tuple(sorted(found, key=_worst_first)),
    )


def _unexplained(old: Spec, new: Spec, found: list[Change]) -> bool:
    digests = [_digests(spec) for spec in (old, new)]
    return digests[0] != digests[1] and all(change.kind == "source" for change in found)


def _digests(spec: Spec) -> set[str]:
    named = [*spec.record_files, spec.kernels, spec.message_file]
    return {spec.digest, *(file.digest for file in named if file)}


def _digest(pair: Pair) -> Iterator[Found]:
    digests = f"{pair.before.digest}, is {pair.new.digest}"
    what = f"digest was {digests} (or one of a file that it names), and no other rule says why"
    yield Found("spec", what, place_of(pair, old=True), place_of(pair, old=False))


# The net under all others: what the digest covers and no rule knows must not pass as harmless.
UNEXPLAINED = Rule(
    "digest",
    "behaviour",
    "the digests differ, and no rule says why",
    "take it for another machine, and report it: a rule is missing",
    _digest,
)


def _readable(old: Spec, new: Spec) -> Literal["as they are", "by migration", "not at all"]:
    if old.digest == new.digest:
        return "as they are"
    declared = any(migration.digest == old.digest for migration in new.migrations)
    return "by migration" if declared else "not at all"


def _worst_first(change: Change) -> tuple[int, str, int, int]:
    place = change.new or change.old
    where = (place.file, place.line, place.column) if place else ("", 0, 0)
    return (-CLASSES.index(change.kind), *where)
