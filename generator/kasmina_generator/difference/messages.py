"""Rules on the messages file: what travels between processes, and how old messages are read."""

from __future__ import annotations

from collections.abc import Iterator

from kasmina_generator.difference.matching import Pair, Row
from kasmina_generator.difference.records import Found
from kasmina_generator.difference.rule import Rule, added, changed, differs, removed

_FILE = "messages file"
_PEERS = "a message of one side is refused by the other, unless the version and an upgrade say so"


def _axes(row: Row) -> object:
    return [axis.name for axis in row.record.axes]


def _kind(row: Row) -> str:
    """Return the group of a message, or what a record is that is none."""
    return str(getattr(row.record, "group", f"a {type(row.record).__name__}"))


def _groups(pair: Pair) -> Iterator[Found]:
    for old, new in pair.both("message"):
        if _kind(old) != _kind(new):
            yield differs(new.subject, "group", _kind(old), _kind(new), old, new)


def _upgrades(row: Row) -> object:
    """Return what the upgrades do, as one would say it."""
    return [
        f"from {upgrade.start}: {change.was or 'envelope'} to {change.name or 'envelope'}: "
        f"{change.renamed} {change.added} {change.dropped}"
        for upgrade in row.record.upgrades
        for change in upgrade.changes
    ] + [f"from {upgrade.start}: {upgrade.ended}" for upgrade in row.record.upgrades]


MESSAGES = (
    Rule("messages_added", "table", "the spec names a messages file", "its modules are generated",
         added(_FILE)),
    Rule("messages_removed", "behaviour", "the spec names its messages file no more",
         "its modules are removed, and what imports them fails", removed(_FILE)),
    Rule("messages_version", "table", "the messages file has another name, version or file name",
         "messages are written in the new version", changed(_FILE, "name", "version", "file")),
    Rule("message_axes", "table", "the messages file has other axes",
         "columns that name them are told on their own", changed(_FILE, "axes", read=_axes)),
    Rule("message_added", "table", "a message, a group or a record of messages is new",
         "its class is generated; readers of the old version refuse it", added("message", _FILE)),
    Rule("message_removed", "behaviour", "a message, a group or a record of messages is gone",
         _PEERS, removed("message", _FILE)),
    Rule("message_group", "behaviour", "a message is of another group",
         "it is read by other hands, and has the fields of its new group",
         _groups),
    Rule("message_field_added", "behaviour", "a message has a field more", _PEERS,
         added("message field", "message")),
    Rule("message_field_removed", "behaviour", "a message has a field less", _PEERS,
         removed("message field", "message")),
    Rule("message_field_type", "behaviour", "a field of a message is of another type",
         _PEERS, changed("message field", "type", "of", "axis", "values")),
    Rule("message_field_unit", "behaviour", "a field of a message is in another unit",
         "the same number means another quantity", changed("message field", "unit")),
    Rule("message_field_bounds", "behaviour", "a field of a message has another range or length",
         _PEERS, changed("message field", "low", "high", "least", "most")),
    Rule("message_field_missing", "behaviour",
         "a field of a message takes NaN or None or has a default, or does not",
         _PEERS, changed("message field", "nan", "none", "has_default", "default")),
    Rule("message_upgrades", "behaviour", "messages of older versions are read otherwise",
         "what was sent before and is read now means something else, or is refused",
         changed(_FILE, "upgrades", read=_upgrades)),
)  # fmt: skip
