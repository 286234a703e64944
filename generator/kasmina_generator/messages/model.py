"""What a messages file means.

Invariants: names are unique in their table; a part holds only parts that are declared before it;
every axis that a column names is declared; the upgrades begin at some version and go on, one each,
to the file's own, and the names that they speak of exist in the versions between which they stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kasmina_generator.model import Place
from kasmina_generator.model import Scalar as Value
from kasmina_generator.record_model import Axis

ValueType = Literal["int", "float", "bool", "str", "bytes", "choice", "record", "tuple", "column"]


@dataclass(frozen=True, slots=True)
class MessageField:
    """One field of a message.

    `of` is the record that a field of type record or tuple holds ("str" for a tuple of texts), the
    dtype of a column, and "" otherwise. Numbers lie in `[low, high]`; `least` and `most` bound what
    has a length. NaN and None are refused unless the file says what they mean.
    """

    name: str
    type: ValueType
    of: str
    axis: str  # what a column has one entry for
    unit: str
    low: float
    high: float
    least: int  # characters, bytes or items
    most: int
    values: tuple[str, ...]  # of a choice
    default: Value | str | None  # what stands for it where it is not given
    has_default: bool
    nan: bool
    nan_meaning: str
    none: bool
    none_meaning: str
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A record that messages hold; becomes a class."""

    name: str
    fields: tuple[MessageField, ...]
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class MessageGroup:
    """Messages that are read by the same hands; `fields` are those that each of them begins with."""

    name: str
    fields: tuple[MessageField, ...]
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class MessageType:
    """A message; becomes a class, with the fields of its group before its own."""

    name: str
    group: str
    fields: tuple[MessageField, ...]
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class FieldMove:
    """A field that is called otherwise since."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class FieldAddition:
    """A field that is new, and what it is in a message that was written before."""

    name: str
    value: Value | str | None


@dataclass(frozen=True, slots=True)
class MessageChange:
    """What became of one message, or of the envelope, from one version to the next."""

    name: str  # in the newer version; "" for the envelope
    was: str  # its name in the older version
    renamed: tuple[FieldMove, ...]
    added: tuple[FieldAddition, ...]
    dropped: tuple[str, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """A message that is there no more, and what its sender is told."""

    name: str
    says: str


@dataclass(frozen=True, slots=True)
class Upgrade:
    """How what was written under version `start` reads under the one after it."""

    start: int
    changes: tuple[MessageChange, ...]
    ended: tuple[MessageEnd, ...]
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class MessageSchema:
    """A messages file; `digest` covers all but the prose."""

    name: str
    version: int
    meaning: str
    axes: tuple[Axis, ...]
    parts: tuple[MessagePart, ...]  # each after those that it holds
    envelope: MessagePart
    message_groups: tuple[MessageGroup, ...]
    messages: tuple[MessageType, ...]
    upgrades: tuple[Upgrade, ...]  # by version, the oldest first
    file: str
    digest: str
    place: Place

    @property
    def oldest(self) -> int:
        """The oldest version that can be read."""
        return self.upgrades[0].start if self.upgrades else self.version

    def fields_of(self, message: MessageType) -> tuple[MessageField, ...]:
        """Return the fields of a message, those of its group first."""
        groups = {group.name: group.fields for group in self.message_groups}
        return (*groups.get(message.group, ()), *message.fields)
