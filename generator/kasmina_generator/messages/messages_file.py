"""Reading a messages file: what travels, in which envelope, and how old ones are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from kasmina_generator.digest import digest_of
from kasmina_generator.document import Mapping, Scalar, Unusable, describe, load_document
from kasmina_generator.finding import Log
from kasmina_generator.messages.fields import Around, read_fields
from kasmina_generator.messages.model import (
    MessageGroup,
    MessagePart,
    MessageSchema,
    MessageType,
)
from kasmina_generator.messages.upgrades import read_upgrades
from kasmina_generator.record import Record, named_record
from kasmina_generator.record_model import Axis
from kasmina_generator.records_file import MOST_VERSION
from kasmina_generator.references import declared
from kasmina_generator.state_file import check_schema, read_name
from kasmina_generator.vocabulary import MESSAGE_CLASS_WORDS, MESSAGES_SCHEMA, RECORDS, camel

_CLASS = re.compile(r"[A-Z][A-Za-z0-9]*")


def read_messages(top: Record, path: Path) -> MessageSchema | None:
    """Return the messages file that a spec names, which lies beside it; None, with faults."""
    file = top.file_beside("messages", path)
    return read_messages_file(file, top.log) if file else None


def read_messages_file(path: Path, log: Log) -> MessageSchema | None:
    """Return the messages in the file at `path`; None, with faults in `log`, if it has none."""
    node = load_document(path, log)
    if not isinstance(node, Mapping):
        if not isinstance(node, Unusable):
            log.add(node.place, f"expected a mapping, found {describe(node)}")
        return None
    top = Record(log, "messages file", node, RECORDS["messages_file"])
    if not check_schema(top, MESSAGES_SCHEMA):
        return None
    schema = _read(top, path)
    if "upgrades" in top:
        schema = replace(schema, upgrades=read_upgrades(top, schema))
    return replace(schema, digest=digest_of(schema))


def _read(top: Record, path: Path) -> MessageSchema:
    axes = declared(top, "axes") if "axes" in top else ()
    names = declared(top, "records") if "records" in top else ()
    around = Around(names, (), axes)
    groups = tuple(_groups(top, around)) if "groups" in top else ()
    return MessageSchema(
        name=read_name(top),
        version=top.integer("version", 1, MOST_VERSION, default=1),
        meaning=top.text("meaning"),
        axes=tuple(_axes(top)) if "axes" in top else (),
        parts=tuple(_parts(top, names, axes)) if "records" in top else (),
        envelope=_envelope(top, around),
        message_groups=groups,
        messages=tuple(_messages(top, groups, around)),
        upgrades=(),
        file=path.name,
        digest="",
        place=top.place("name"),
    )


def _axes(top: Record) -> Iterator[Axis]:
    for name, node in top.table("axes", "axis"):
        if isinstance(node, Scalar) and node.text.strip():
            yield Axis(name.text, " ".join(node.text.split()), name.place)
        elif not isinstance(node, Unusable):
            what = f"axis {name.text!r}: expected its meaning, found {describe(node)}"
            top.log.add(node.place, what)


def _parts(top: Record, names: tuple[str, ...], axes: tuple[str, ...]) -> Iterator[MessagePart]:
    for index, (name, node) in enumerate(top.table("records", "record", MESSAGE_CLASS_WORDS)):
        _check_class(top, "record", name)
        record = named_record(top.log, "record", name, node, RECORDS["message_record"])
        if record:
            around = Around(names[:index], names[index:], axes)
            fields = read_fields(record, around)
            _refuse_nothing(record)
            yield MessagePart(name.text, fields, record.text("meaning"), name.place)


def _envelope(top: Record, around: Around) -> MessagePart:
    node = top.node("envelope")
    if not isinstance(node, Mapping):
        top.expected("envelope", "a mapping")
        return MessagePart("Envelope", (), "", top.at)
    record = Record(top.log, "envelope", node, RECORDS["message_envelope"])
    fields = read_fields(record, around)
    return MessagePart("Envelope", fields, record.text("meaning"), record.at)


def _groups(top: Record, around: Around) -> Iterator[MessageGroup]:
    classes = {*declared(top, "messages"), *around.above}
    for name, node in top.table("groups", "group"):
        if name.text != name.text.lower():
            top.log.add(name.place, f"group {name.text!r} is not in lower case")
        if camel(name.text) in classes | MESSAGE_CLASS_WORDS:
            what = f"becomes {camel(name.text)!r}, which is a class already"
            top.log.add(name.place, f"group {name.text!r} {what}; choose another name")
        record = named_record(top.log, "group", name, node, RECORDS["message_group"])
        if record:
            fields = read_fields(record, around) if "fields" in record else ()
            yield MessageGroup(name.text, fields, record.text("meaning"), name.place)


def _messages(
    top: Record, groups: tuple[MessageGroup, ...], around: Around
) -> Iterator[MessageType]:
    taken = {group.name: frozenset(one.name for one in group.fields) for group in groups}
    entries = list(top.table("messages", "message", MESSAGE_CLASS_WORDS | {*around.above}))
    if not entries and isinstance(top.node("messages"), Mapping):
        top.fault("messages", "is empty; declare a message")
    tags: dict[str, str] = {}
    for name, node in entries:
        _check_class(top, "message", name)
        record = named_record(top.log, "message", name, node, RECORDS["message"])
        other = tags.setdefault(tag(name.text), name.text)
        if other != name.text:
            what = f"is written {tag(name.text)!r} on the wire, as {other!r} is"
            top.log.add(name.place, f"message {name.text!r} {what}; choose another name")
        if record:
            group = _group(record, tuple(taken))
            inside = replace(around, taken=taken.get(group, frozenset()))
            fields = read_fields(record, inside) if "fields" in record else ()
            yield MessageType(name.text, group, fields, record.text("meaning"), name.place)


def _group(record: Record, groups: tuple[str, ...]) -> str:
    if not groups and record.scalar("group", "the name of a group"):
        record.fault("group", "the file has no 'groups'; declare it there")
        return ""
    return record.choice("group", groups) or ""


def _check_class(top: Record, what: str, name: Scalar) -> None:
    if not _CLASS.fullmatch(name.text):
        text = f"{what} {name.text!r} becomes a class: begin with a capital, without '_'"
        top.log.add(name.place, text)


def _refuse_nothing(record: Record) -> None:
    node = record.node("fields")
    if isinstance(node, Mapping) and not node.entries:
        record.fault("fields", "is empty; a record has at least one field")


def tag(name: str) -> str:
    """Return how a message is called on the wire: `SetLimit` is "set_limit"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return spaced.lower()
