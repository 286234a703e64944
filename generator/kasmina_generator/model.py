"""What a spec means: frozen records that every check and every emitter reads.

Invariants: names are unique in their table; every reference has been resolved; groups have been
expanded, so an `Edge` leaves exactly one state; guards are typed, in negation normal form and hold
no name that is not a field, a limit or the epoch counter; edges of one state are sorted by
(priority, order of declaration), and that order is the order in which they are tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kasmina_generator.expression import Expression
    from kasmina_generator.kernels.model import KernelSet
    from kasmina_generator.messages.model import MessageSchema
    from kasmina_generator.record_model import RecordSchema

EventKind = Literal["command", "automatic"]
InfinityPolicy = Literal["allowed", "unknown", "refuse"]
NanPolicy = float | Literal["unknown", "refuse"]
Scalar = float | int | bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a YAML file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """One legal value of an attribute; `code` counts from 0 as declared."""

    name: str
    code: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Attribute:
    """A property that each state has; becomes an enum and a table by state."""

    name: str
    values: tuple[AttributeValue, ...]
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class State:
    """A state; `max_epochs` is None where the wait is declared unbounded or the state terminal."""

    name: str
    code: int
    meaning: str
    terminal: bool
    min_epochs: int
    max_epochs: int | None
    attributes: tuple[tuple[str, str], ...]  # (attribute, value) in the order of `Spec.attributes`
    place: Place


@dataclass(frozen=True, slots=True)
class Event:
    """An event; `bit` is its place in the step's event mask, as declared from 0."""

    name: str
    bit: int
    kind: EventKind
    urgent: bool  # passes although the state's min_epochs is not over
    priority: int  # lower is tried first
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class ContextField:
    """A measured value of an entity that guards read.

    Before any guard reads it the value is rounded to `dtype`, then NaN becomes `nan` (None: stays
    NaN and every comparison with it is false), then infinity is handled, then the value is clamped
    to `[low, high]`.
    """

    name: str
    dtype: str
    unit: str
    low: Scalar
    high: Scalar
    default: Scalar
    nan: NanPolicy | None  # None for integer and bool fields
    infinity: InfinityPolicy | None
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class Limit:
    """A threshold that may be changed while running, inside `[low, high]`; rounded to `dtype`."""

    name: str
    dtype: str
    default: Scalar
    low: Scalar
    high: Scalar
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that the runtime does when an edge is taken; `bit` as declared from 0."""

    name: str
    bit: int
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class Edge:
    """One way from one state to another; `index` is its number in every backend."""

    index: int
    source: str
    event: str
    target: str
    guard: Expression  # bound to the source: min_epochs of the state is part of it
    text: str  # the guard as written, "" for none
    priority: int
    effects: tuple[str, ...]
    recycle: bool  # re-arms the slot: the generation is counted up
    meaning: str  # "" where the spec says nothing beyond the event's
    place: Place


@dataclass(frozen=True, slots=True)
class Capacity:
    """At most `limit` entities in `states`; of those that ask, `order` says who enters first."""

    name: str
    states: tuple[str, ...]
    limit: str
    order: str  # "slot" (lowest first), "epochs" (longest first) or a context field (largest first)
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class Group:
    """A named set of states; `terminal` and `non_terminal` always exist."""

    name: str
    states: tuple[str, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Property:
    """Something to prove; `kind` is one of the checks and `arguments` are its names by role."""

    name: str
    kind: str
    arguments: tuple[tuple[str, str], ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the state tensor; `length` is 1 for a scalar, `fields` may name the entries."""

    name: str
    dtype: str
    length: int
    default: Scalar
    role: str | None
    fields: tuple[str, ...]
    meaning: str
    place: Place


@dataclass(frozen=True, slots=True)
class StateSchema:
    """The columns that are stored of an entity."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class StateMove:
    """What a stored state of another spec becomes: `code` is the old one, `new` a state here."""

    old: str
    code: int
    new: str


@dataclass(frozen=True, slots=True)
class ColumnMove:
    """A column as another spec stores it, and the column here that takes it; None: dropped."""

    column: Column
    new: str | None


@dataclass(frozen=True, slots=True)
class Migration:
    """How rows that another spec has stored become rows of this one; total over its states."""

    spec: str
    version: int
    digest: str
    states: tuple[StateMove, ...]  # every state of the old spec, by code
    columns: tuple[ColumnMove, ...]  # every column of the old spec, in its order
    meaning: str
    file: str
    place: Place


@dataclass(frozen=True, slots=True)
class Spec:
    """One machine; `digest` covers everything that changes its behaviour or its tables."""

    name: str
    version: int
    meaning: str
    initial: str
    attributes: tuple[Attribute, ...]
    states: tuple[State, ...]  # by code
    groups: tuple[Group, ...]
    events: tuple[Event, ...]  # by bit
    context: tuple[ContextField, ...]
    limits: tuple[Limit, ...]
    effects: tuple[Effect, ...]
    edges: tuple[Edge, ...]  # by (source code, priority, declaration); the index is the place
    capacities: tuple[Capacity, ...]
    properties: tuple[Property, ...]
    columns: StateSchema | None
    migrations: tuple[Migration, ...]
    record_files: tuple[RecordSchema, ...]
    kernels: KernelSet | None
    message_file: MessageSchema | None
    file: str
    digest: str
