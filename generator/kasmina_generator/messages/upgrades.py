"""Reading how messages of older versions read under newer ones.

The names that each version had follow backwards from the file as it is: what a step adds was not
there before it, what it renames had another name, what it drops was there. So a step that speaks
of a field that its versions never had is a fault of the file, and not of the first old message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kasmina_generator.document import Mapping, Scalar, Unusable, describe
from kasmina_generator.messages.fields import value_of
from kasmina_generator.messages.model import (
    FieldAddition,
    FieldMove,
    MessageChange,
    MessageEnd,
    MessageField,
    MessageSchema,
    Upgrade,
)
from kasmina_generator.record import Record, named_record
from kasmina_generator.records_file import MOST_VERSION
from kasmina_generator.vocabulary import RECORDS, fault_of_name

ENVELOPE = ""  # stands for the envelope where a message has its name

# The fields of a message in one version by name; None where the file no longer declares one.
Fields = dict[str, MessageField | None]


@dataclass
class _Version:
    """What there was in one version."""

    messages: dict[str, Fields]  # the envelope is there by the name ENVELOPE
    ended: set[str] = field(default_factory=set)


def read_upgrades(top: Record, schema: MessageSchema) -> tuple[Upgrade, ...]:
    """Return the upgrades of a file, the oldest first; `schema` is all else that it says."""
    records = list(top.records("upgrades", RECORDS["upgrade"], "upgrade"))
    starts = [record.integer("from", 1, MOST_VERSION, default=0) for record in records]
    if not top.has_fault("version"):
        _check_versions(top, records, starts, schema.version)
    version = _Version(
        {message.name: _named(schema.fields_of(message)) for message in schema.messages}
    )
    version.messages[ENVELOPE] = _named(schema.envelope.fields)
    found = []
    for record, start in reversed(list(zip(records, starts, strict=True))):
        upgrade, version = _upgrade(record, start, version)
        found.append(upgrade)
    return tuple(reversed(found))


def _named(fields: tuple[MessageField, ...]) -> Fields:
    return {one.name: one for one in fields}


def _check_versions(top: Record, records: list[Record], starts: list[int], version: int) -> None:
    """Hold that the upgrades are one a version, in order, up to the file's own."""
    wanted = list(range(version - len(starts), version))
    for record, start, want in zip(records, starts, wanted, strict=True):
        if start and (start != want or want < 1):
            what = f"is {start}; the upgrades go, one a version, up to {version - 1}"
            record.fault("from", f"{what}: here {want}" if want > 0 else what)
    if "upgrades" in top and not records and not top.has_fault("upgrades"):
        top.fault("upgrades", "is empty; drop the key")


def _upgrade(record: Record, start: int, after: _Version) -> tuple[Upgrade, _Version]:
    record.label = f"upgrade from {start}"
    before = _Version({name: dict(fields) for name, fields in after.messages.items()})
    changes = []
    node = record.node("envelope") if "envelope" in record else None
    if isinstance(node, Mapping):
        inner = Record(record.log, f"{record.label}: envelope", node, RECORDS["envelope_change"])
        changes.append(_change(inner, ENVELOPE, after, before))
    elif "envelope" in record:
        record.expected("envelope", "a mapping")
    for name, one in _messages(record, after):
        changes.append(_change(one, name, after, before))
    ended = tuple(_ended(record, before))
    upgrade = Upgrade(start, tuple(changes), ended, record.text("meaning"), record.at)
    return upgrade, before


def _messages(record: Record, after: _Version) -> Iterator[tuple[str, Record]]:
    known = [name for name in after.messages if name != ENVELOPE]
    what = f"{record.label}: message"
    for name, node in record.table("messages", what) if "messages" in record else ():
        found = named_record(record.log, what, name, node, RECORDS["message_change"])
        if name.text not in known:
            text = f"{what} {name.text!r} is not in version {_next(record)}"
            record.log.add(name.place, text, allowed=known, given=name.text)
        elif found:
            yield name.text, found


def _next(record: Record) -> str:
    return str(int(record.label.rpartition(" ")[2]) + 1)


def _change(record: Record, name: str, after: _Version, before: _Version) -> MessageChange:
    """Read one change, and turn the fields of `before` back by it."""
    fields, faults = before.messages[name], len(record.log)
    added = tuple(_added(record, fields))
    renamed = tuple(_renamed(record, fields))
    dropped = tuple(_dropped(record, fields))
    was = _was(record, name, after, before) if "was" in record else name
    if not (added or renamed or dropped or was != name) and len(record.log) == faults:
        record.log.add(record.at, f"{record.label}: changes nothing; drop it")
    before.messages[was] = before.messages.pop(name)
    return MessageChange(name, was, renamed, added, dropped, record.at)


def _added(record: Record, fields: Fields) -> Iterator[FieldAddition]:
    for name, node in record.table("add", f"{record.label}: add") if "add" in record else ():
        if name.text not in fields:
            _unknown(record, "add", name, fields)
            continue
        declared = fields.pop(name.text)
        if not isinstance(node, Scalar):
            if not isinstance(node, Unusable):
                what = f"{record.label}: add: {name.text}: expected a value, found {describe(node)}"
                record.log.add(node.place, what)
            continue
        if declared is None:
            what = "a field that is gone by now needs no value; drop it here and where it ends"
            record.log.add(name.place, f"{record.label}: add: {name.text}: {what}")
            continue
        yield FieldAddition(name.text, value_of(record, "add", node, declared))


def _renamed(record: Record, fields: Fields) -> Iterator[FieldMove]:
    moves = list(_moves(record))
    found = {new.text: fields.pop(new.text) for _, new in moves if new.text in fields}
    for old, new in moves:
        if new.text not in found:
            _unknown(record, "rename", new, fields)
        elif old.text in fields:
            what = f"{record.label}: rename: {old.text!r} is still a field in the newer version"
            record.log.add(old.place, what)
        else:
            fields[old.text] = found[new.text]
            yield FieldMove(old.text, new.text)


def _moves(record: Record) -> Iterator[tuple[Scalar, Scalar]]:
    for old, node in (
        record.table("rename", f"{record.label}: rename") if "rename" in record else ()
    ):
        if isinstance(node, Scalar) and node.text:
            yield old, node
        elif not isinstance(node, Unusable):
            what = f"{record.label}: rename: {old.text}: expected a name, found {describe(node)}"
            record.log.add(node.place, what)


def _dropped(record: Record, fields: Fields) -> Iterator[str]:
    for name in record.names("drop") if "drop" in record else ():
        fault = fault_of_name(name.text, name.plain, frozenset())
        if fault:
            record.log.add(name.place, f"{record.label}: drop: {name.text!r} {fault}")
        elif name.text in fields:
            what = f"{record.label}: drop: {name.text!r} is a field of the newer version"
            record.log.add(name.place, what)
        else:
            fields[name.text] = None
            yield name.text


def _was(record: Record, name: str, after: _Version, before: _Version) -> str:
    scalar = record.scalar("was", "the name that it had")
    if scalar is None:
        return name
    fault = fault_of_name(scalar.text, scalar.plain, frozenset())
    if fault:
        record.fault("was", f"{scalar.text!r} {fault}")
    elif scalar.text in after.messages or scalar.text in before.messages:
        record.fault("was", f"{scalar.text!r} is a message of the newer version, or named twice")
    else:
        return scalar.text
    return name


def _ended(record: Record, before: _Version) -> Iterator[MessageEnd]:
    for name, node in record.table("ended", f"{record.label}: ended") if "ended" in record else ():
        if name.text in before.messages:
            what = f"{record.label}: ended: {name.text!r} is a message of the newer version"
            record.log.add(name.place, what)
        elif not isinstance(node, Scalar) or not node.text.strip():
            if not isinstance(node, Unusable):
                what = f"{record.label}: ended: {name.text!r}: say what its sender is told"
                record.log.add(node.place, what)
        else:
            before.messages[name.text] = {}
            yield MessageEnd(name.text, " ".join(node.text.split()))


def _unknown(record: Record, key: str, name: Scalar, fields: Fields) -> None:
    what = f"{record.label}: {key}: {name.text!r} is no field of the newer version"
    record.log.add(name.place, what, allowed=list(fields), given=name.text)
