"""What the templates of a messages file fill in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kasmina_generator.emit.layout import STEP, WIDTH, literal, names, sentence
from kasmina_generator.emit.wording import plain
from kasmina_generator.messages.messages_file import tag
from kasmina_generator.messages.model import (
    MessageChange,
    MessageEnd,
    MessageField,
    MessagePart,
    MessageSchema,
    MessageType,
    Upgrade,
)
from kasmina_generator.number import INTEGER_BITS
from kasmina_generator.vocabulary import camel

ITEM_BYTES = {"bool": 1, "uint8": 1, "float32": 4, "float64": 8} | {
    name: bits // 8 for name, bits in INTEGER_BITS.items()
}


@dataclass(frozen=True, slots=True)
class FieldView:
    """One field: its line in the class, its docstring, and the arguments that tell it as data."""

    line: str
    doc: str
    data: list[str]


@dataclass(frozen=True, slots=True)
class ColumnsView:
    """The columns of one axis: how many entries the first has, and what says that one differs."""

    entries: str
    differ: list[str]


@dataclass(frozen=True, slots=True)
class ClassView:
    """A part or a message; `columns` and `floats` say what it checks besides its types."""

    record: MessagePart | MessageType
    tag: str  # "" for a part
    fields: list[FieldView]
    columns: list[ColumnsView]  # whose lengths it checks
    floats: list[tuple[str, str]]  # numbers that no type holds, and when they are not legal


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group: what its messages may be, as a type and as a tuple."""

    name: str
    classname: str
    meaning: str
    classes: list[str]


@dataclass(frozen=True, slots=True)
class ChangeView:
    """What becomes of one message in one step, as lines of source; `tag` is its old one."""

    tag: str
    lines: list[str]


@dataclass(frozen=True, slots=True)
class StepView:
    """One upgrade."""

    upgrade: Upgrade
    envelope: list[str]
    changes: list[ChangeView]
    ended: list[tuple[str, str]]  # tag, and what its sender is told


@dataclass(frozen=True, slots=True)
class MessagesView:
    """All that the templates read."""

    schema: MessageSchema
    parts: list[ClassView]
    messages: list[ClassView]
    envelope: ClassView
    groups: list[GroupView]
    steps: list[StepView]
    helpers: list[str]  # what the upgrades use
    checks_columns: bool
    checks_floats: bool


def view_messages(schema: MessageSchema) -> MessagesView:
    """Return what the templates fill in."""
    parts = [_class(part, part.fields, "") for part in schema.parts]
    messages = [_class(one, schema.fields_of(one), tag(one.name)) for one in schema.messages]
    envelope = _class(schema.envelope, schema.envelope.fields, "")
    every = [*parts, *messages, envelope]
    steps = [_step(upgrade) for upgrade in schema.upgrades]
    return MessagesView(
        schema=schema,
        parts=parts,
        messages=messages,
        envelope=envelope,
        groups=[_group(schema, name) for name in dict.fromkeys(m.group for m in schema.messages)],
        steps=steps,
        helpers=_helpers(steps),
        checks_columns=any(one.columns for one in every),
        checks_floats=any(one.floats for one in every),
    )


def _group(schema: MessageSchema, name: str) -> GroupView:
    (group,) = (one for one in schema.message_groups if one.name == name)
    classes = [message.name for message in schema.messages if message.group == name]
    return GroupView(name, camel(name), group.meaning, classes)


def _class(
    record: MessagePart | MessageType, fields: Iterable[MessageField], name: str
) -> ClassView:
    fields = list(fields)
    return ClassView(
        record=record,
        tag=name,
        fields=[_field(field) for field in fields],
        columns=list(_columns(fields)),
        floats=[_illegal(one) for one in fields if _by_hand(one) and not _free(one)],
    )


def _columns(fields: list[MessageField]) -> Iterator[ColumnsView]:
    for axis in dict.fromkeys(field.axis for field in fields if field.type == "column"):
        sizes = {f.name: ITEM_BYTES[f.of] for f in fields if f.type == "column" and f.axis == axis}
        first = next(iter(sizes))
        entries = f"len(self.{first}) // {sizes[first]}"
        yield ColumnsView(entries, [f"len(self.{n}) != {size} * n" for n, size in sizes.items()])


def _illegal(field: MessageField) -> tuple[str, str]:
    """Return a number's name, and the condition under which `value` is not legal for it."""
    wrong = "math.isnan(value)"
    if field.nan:
        wrong = f"not (math.isnan(value) or {literal(field.low)} <= value <= {literal(field.high)})"
    return field.name, f"value is not None and {wrong}" if field.none else wrong


def _field(field: MessageField) -> FieldView:
    texts = {
        "name": field.name,
        "type": field.type,
        "meaning": field.meaning,
        "of": field.of,
        "axis": field.axis,
        "unit": field.unit,
        "nan": field.nan_meaning,
        "none": field.none_meaning,
    }
    data = {key: literal(text) for key, text in texts.items() if text}
    if field.unit:  # what has one is a number
        data["range"] = f"({literal(field.low)}, {literal(field.high)})"
    if field.type in ("str", "bytes", "tuple"):
        data["length"] = f"({field.least}, {field.most})"
    if field.values:
        data["values"] = names(field.values, "values=", 3, ",")[len("values=") : -1]
    return FieldView(
        line=_line(field),
        doc=_doc(field),
        data=[f"{key}={value}" for key, value in data.items()],
    )


def _line(field: MessageField) -> str:
    """Return the field as it stands in the class; a long choice has a line for each text."""
    flat = f"{field.name}: {_annotation(field)}{_default(field)}"
    if field.type != "choice" or len(STEP + flat) <= WIDTH:
        return flat
    each = "".join(f"{STEP * 2}{literal(text)},\n" for text in field.values)
    tail = flat.rpartition("]")[2]
    return f"{field.name}: Literal[\n{each}{STEP}]{tail}"


def _annotation(field: MessageField) -> str:
    return _type(field) + (" | None" if field.none else "")


def _type(field: MessageField) -> str:
    match field.type:
        case "int":
            return f"Annotated[int, Meta(ge={literal(field.low)}, le={literal(field.high)})]"
        case "float":
            return "float" if _by_hand(field) else f"Annotated[float, Meta({_finite_ends(field)})]"
        case "str" | "bytes":
            return f"Annotated[{field.type}, {_length(field)}]"
        case "tuple":
            return f"Annotated[tuple[{field.of}, ...], {_length(field)}]"
        case "choice":
            return f"Literal[{', '.join(map(literal, field.values))}]"
        case "column":
            return "bytes"
        case "record":
            return field.of
    return field.type


def _by_hand(field: MessageField) -> bool:
    """Say whether msgspec cannot hold the range: a bound of its refuses NaN, and none lets it pass."""
    return field.nan or (math.isinf(field.low) and math.isinf(field.high))


def _free(field: MessageField) -> bool:
    """Say whether every number is legal, NaN too."""
    return field.type != "float" or (field.nan and math.isinf(field.low) and math.isinf(field.high))


def _finite_ends(field: MessageField) -> str:
    ends = {"ge": field.low, "le": field.high}
    return ", ".join(f"{key}={literal(end)}" for key, end in ends.items() if math.isfinite(end))


def _length(field: MessageField) -> str:
    least = f"min_length={field.least}, " if field.least else ""
    return f"Meta({least}max_length={field.most})"


def _default(field: MessageField) -> str:
    if field.none:
        return " = None"
    if field.has_default:
        return f" = {literal(field.default)}"
    return " = ()" if field.type == "tuple" and not field.least else ""


def _doc(field: MessageField) -> str:
    """Return the meaning, shape, unit and range, and what is special."""
    shape = f"{field.of} [{field.axis}], little-endian" if field.type == "column" else ""
    unit = "" if field.unit == "1" else field.unit
    facts = ", ".join(filter(None, [shape, unit, _span(field)]))
    meaning = field.meaning.removesuffix(".") + (f" ({facts})" if facts else "")
    empty = [("NaN", field.nan_meaning), ("None", field.none_meaning)]
    told = [meaning, *(f"{name}: {text}" for name, text in empty if text)]
    return " ".join(map(sentence, told))


def _span(field: MessageField) -> str:
    low, high = (_end(field, end) for end in (field.low, field.high))
    if field.type not in ("int", "float", "column") or (math.isinf(low) and math.isinf(high)):
        return ""
    if math.isinf(high):
        return f"{plain(low)} or more"
    return f"up to {plain(high)}" if math.isinf(low) else f"from {plain(low)} to {plain(high)}"


def _end(field: MessageField, end: float) -> float:
    """Return an end of a range; one that is the dtype's own counts as open."""
    if isinstance(end, int) and end in (-(1 << 63), (1 << 63) - 1):
        return math.copysign(math.inf, end)
    if field.type == "column" and "int" in field.of:
        bits = 8 if field.of == "uint8" else INTEGER_BITS[field.of]
        most = 255 if field.of == "uint8" else (1 << (bits - 1)) - 1
        return math.copysign(math.inf, end) if end in (most, -most - 1) else end
    return end


def _step(upgrade: Upgrade) -> StepView:
    changes = [change for change in upgrade.changes if change.name]
    envelope = next((change for change in upgrade.changes if not change.name), None)
    return StepView(
        upgrade=upgrade,
        envelope=list(_lines(envelope, "head")) if envelope else [],
        changes=[ChangeView(tag(c.was), list(_lines(c, "body"))) for c in changes],
        ended=[_ended(end) for end in upgrade.ended],
    )


def _ended(end: MessageEnd) -> tuple[str, str]:
    return tag(end.name), end.says


def _lines(change: MessageChange, target: str) -> Iterator[str]:
    """Yield the statements that bring a plain message to the next version."""
    for name in change.dropped:
        yield f"{target}.pop({literal(name)}, None)"
    if change.renamed:
        moves = ", ".join(f"{literal(m.old)}: {literal(m.new)}" for m in change.renamed)
        yield f"_rename({target}, {{{moves}}})"
    if change.added:
        values = ", ".join(f"{literal(a.name)}: {literal(a.value)}" for a in change.added)
        yield f"_add({target}, {{{values}}})"
    if change.name and change.was != change.name:
        yield f'body["kind"] = {literal(tag(change.name))}'


def _helpers(steps: list[StepView]) -> list[str]:
    lines = [line for step in steps for line in step.envelope]
    lines += [line for step in steps for change in step.changes for line in change.lines]
    return [name for name in ("_rename", "_add") if any(f"{name}(" in x for x in lines)]


def union(head: str, classes: list[str]) -> str:
    """Return `head = A | B`, over several lines where it does not fit."""
    flat = " | ".join(classes)
    if len(f"{head} = {flat}") <= WIDTH:
        return f"{head} = {flat}"
    if len(STEP + flat) <= WIDTH:
        return f"{head} = (\n{STEP}{flat}\n)"
    return f"{head} = (\n{STEP}" + f"\n{STEP}| ".join(classes) + "\n)"
