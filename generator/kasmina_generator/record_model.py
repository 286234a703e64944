"""What a records file means: named records of typed fields, for logs, controllers and messages.

Invariants: names are unique in their record or file; a record holds only records that are declared
before it, so nothing holds itself; every axis that a column names is declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kasmina_generator.model import Place

FieldType = Literal["int", "float", "bool", "str", "record", "tuple", "column"]


@dataclass(frozen=True, slots=True)
class RecordField:
    """One field of a record.

    `of` is the record that a field of type record or tuple holds ("str" for a tuple of texts), the
    dtype of a column, and "" otherwise. Numbers lie in `[low, high]`, ends that are not declared
    being infinite. NaN and None are refused unless the spec says what they mean.
    """

    name: str
    type: FieldType
    of: str
    axis: str  # what a column has one entry for
    unit: str
    low: float
    high: float
    nan: bool
    nan_meaning: str
    none: bool
    none_meaning: str
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class RecordType:
    """A record; becomes a class."""

    name: str
    fields: tuple[RecordField, ...]
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class Axis:
    """What the columns that name it have one entry for, so that they are equally long."""

    name: str
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class RecordSchema:
    """A records file, which becomes a module by its name; `digest` covers all but the prose."""

    name: str
    version: int
    meaning: str
    axes: tuple[Axis, ...]
    records: tuple[RecordType, ...]  # each after those that it holds
    file: str
    digest: str
    place: Place
