"""What the templates fill in: everything that a spec means, as text that is ready to stand."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from kasmina_generator.emit.layout import call, literal
from kasmina_generator.emit.migration_view import MigrationView, view_migration
from kasmina_generator.emit.python import python_return
from kasmina_generator.emit.torch import torch_condition
from kasmina_generator.emit.trial import origins, tested, tried
from kasmina_generator.emit.word_view import WordsView, view_words
from kasmina_generator.emit.wording import passes
from kasmina_generator.emit.words import Words, plan_words
from kasmina_generator.expression import Truth
from kasmina_generator.model import Capacity, Column, ContextField, Edge, Limit, Spec, State
from kasmina_generator.number import LARGEST_FLOAT32
from kasmina_generator.vocabulary import camel

PYTHON_TYPES = {"float32": "float", "int32": "int", "bool": "bool"}
UNBOUNDED = -1
_TABLE_IMPORTS = ("COMMANDS", "EDGES", "TERMINAL", "Event", "State")


@dataclass(frozen=True, slots=True)
class EdgeView:
    """One edge, in every wording."""

    edge: Edge
    event: str  # source of the event; None for one that re-arms a slot
    effects: str
    command: bool
    urgent: bool
    guarded: bool
    label: str
    python: list[str]
    words: str  # which words let it pass, for the table; "" where there is none
    packed: int  # edge and target as the step packs them
    passes: str  # when it is taken, for people


@dataclass(frozen=True, slots=True)
class StateRow:
    """The numbers of a state, in the order of the columns of its table."""

    state: State
    name: str
    numbers: str


@dataclass(frozen=True, slots=True)
class FieldView:
    """A context field, and how it is normalised."""

    field: ContextField
    type: str
    range: str
    default: str
    nan: str
    infinity: str
    python: str  # source of the normalised value in Context
    torch: str  # the argument of VectorContext that normalises it
    refusals: list[tuple[str, str]]  # what is refused in words, and its test


@dataclass(frozen=True, slots=True)
class LimitView:
    """A limit with its literals."""

    limit: Limit
    type: str
    range: str
    default: str


@dataclass(frozen=True, slots=True)
class CapacityView:
    """A capacity with the source of what its requesters are ranked by."""

    capacity: Capacity
    limit: str
    rank: str


@dataclass(frozen=True, slots=True)
class ColumnView:
    """A column of the state tensor with its literals."""

    column: Column
    name: str
    dtype: str
    length: int
    default: str
    role: str
    fields: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Uses:
    """What the text needs, so that nothing is imported or computed in vain."""

    infinity: bool  # lifecycle.py writes `math.inf`
    infinity_in_columns: bool
    infinity_in_vector: bool
    rounding: bool  # guards.py needs `_f32`
    fields: bool  # some guard reads a context field
    epochs: bool  # the words gather what reads the epochs
    edge_epochs: bool  # some test reads the epochs
    refusals: bool
    field_ranks: bool  # some capacity ranks by a context field
    field_dtypes: frozenset[str]
    limit_dtypes: frozenset[str]

    @property
    def dtypes(self) -> frozenset[str]:
        """Return the dtypes of fields and limits."""
        return self.field_dtypes | self.limit_dtypes


@dataclass(frozen=True, slots=True)
class PackageView:
    """All that the templates of one package read."""

    spec: Spec
    attributes: list[tuple[str, str]]  # name, class
    states: list[StateRow]
    edges: list[EdgeView]
    fields: list[FieldView]
    limits: list[LimitView]
    capacities: list[CapacityView]
    columns: list[ColumnView]
    migrations: list[MigrationView]
    words: WordsView | None
    tests: list[tuple[Edge, str]]  # what guards test, where edges are tried, by who asks first
    tried: list[str]  # the statement that tries an edge, the last edge first
    tensors: list[tuple[str, str]]  # what vector.py keeps on each device, and the table of it
    table_imports: list[str]  # what tables.py takes from lifecycle.py
    uses: Uses


def view(spec: Spec) -> PackageView:
    """Return what the templates fill in."""
    plan = plan_words(spec)
    words = view_words(spec, plan) if plan else None
    fields = [_field(field) for field in spec.context]
    limits = [_limit(limit) for limit in spec.limits]
    edges = [_edge(spec, edge, plan) for edge in spec.edges]
    columns = _columns(spec)
    tests = tested(spec, torch_condition)
    return PackageView(
        spec=spec,
        attributes=[(attribute.name, camel(attribute.name)) for attribute in spec.attributes],
        states=[_state(state) for state in spec.states],
        edges=edges,
        fields=fields,
        limits=limits,
        capacities=[_capacity(capacity) for capacity in spec.capacities],
        columns=columns,
        migrations=[view_migration(migration) for migration in spec.migrations],
        words=words,
        tests=list(zip(origins(spec), tests, strict=True)),
        tried=tried(spec, "torch.where", "tick"),
        tensors=_tensors(spec, plan),
        table_imports=[*_TABLE_IMPORTS, *(camel(attribute.name) for attribute in spec.attributes)],
        uses=_uses(spec, edges, fields, limits, columns, words, tests),
    )


def _uses(
    spec: Spec,
    edges: list[EdgeView],
    fields: list[FieldView],
    limits: list[LimitView],
    columns: list[ColumnView],
    words: WordsView | None,
    tests: list[str],
) -> Uses:
    literals = [text for row in fields for text in (row.range, row.default, row.nan, row.python)]
    literals += [text for row in limits for text in (row.range, row.default)]
    return Uses(
        infinity=_infinite(literals),
        infinity_in_columns=_infinite([column.default for column in columns]),
        infinity_in_vector=any(field.dtype == "float32" for field in spec.context),
        rounding=any("_f32(" in line for edge in edges for line in edge.python),
        fields=any("seen." in test for test in tests),
        epochs=words is not None and _reads_epochs(words.gather),
        edge_epochs=_reads_epochs(tests),
        refusals=any(row.refusals for row in fields),
        field_ranks=any(row.order not in ("slot", "epochs") for row in spec.capacities),
        field_dtypes=frozenset(field.dtype for field in spec.context),
        limit_dtypes=frozenset(limit.dtype for limit in spec.limits),
    )


def _reads_epochs(lines: list[str]) -> bool:
    return any(re.search(r"(?<![.\w])ticks\b", line) for line in lines)


def _infinite(literals: list[str]) -> bool:
    return any("math." in text for text in literals)


def _tensors(spec: Spec, plan: Words | None) -> list[tuple[str, str]]:
    kept = {"starts": "WORD_STARTS", "decisions": "WORD_DECISIONS"} if plan else {}
    kept |= {"masks": "WORD_MASKS"} if plan and plan.folds else {}
    kept |= {"asks": "CAPACITY_ASKS", "inside": "CAPACITY_STATES"} if spec.capacities else {}
    return list(kept.items())


def _state(state: State) -> StateRow:
    most = UNBOUNDED if state.max_epochs is None else state.max_epochs
    values = [f"{camel(attribute)}.{value}" for attribute, value in state.attributes]
    numbers = [str(state.min_epochs), str(most), *values]
    return StateRow(state, state.name, ", ".join(numbers))


def _edge(spec: Spec, edge: Edge, words: Words | None) -> EdgeView:
    event = None if edge.recycle else next(e for e in spec.events if e.name == edge.event)
    target = next(state.code for state in spec.states if state.name == edge.target)
    command = event is not None and event.kind == "command"
    return EdgeView(
        edge=edge,
        event=f"Event.{edge.event}" if event else "None",
        effects=" | ".join(f"Effect.{name}" for name in edge.effects) or "Effect(0)",
        command=command,
        urgent=event is not None and event.urgent,
        guarded=edge.guard != Truth(True),
        label=f"{edge.source} --{edge.event}--> {edge.target}",
        python=python_return(edge.guard),
        words=words.condition(edge, command) if words else "",
        packed=edge.index * 256 + target,
        passes=passes(spec, edge),
    )


def _field(field: ContextField) -> FieldView:
    return FieldView(
        field=field,
        type=PYTHON_TYPES[field.dtype],
        range=f"({literal(field.low)}, {literal(field.high)})",
        default=literal(field.default),
        nan=literal(field.nan),
        infinity=literal(field.infinity),
        python=_python_normalised(field),
        torch=_torch_normalised(field),
        refusals=_refusals(field),
    )


def _python_normalised(field: ContextField) -> str:
    bounds = [field.low, field.high] if field.dtype != "bool" else []
    if field.infinity in ("unknown", "refuse"):  # then the ends are no usual values
        bounds = [max(field.low, -LARGEST_FLOAT32), min(field.high, LARGEST_FLOAT32)]
    arguments = [literal(field.name), f"self.{field.name}", *map(literal, bounds)]
    return f"_field_{field.dtype}({', '.join(arguments)})"


def _torch_normalised(field: ContextField) -> str:
    """Return the argument of VectorContext that normalises a field."""
    source, bounds = f"context.{field.name}", [literal(field.low), literal(field.high)]
    if field.dtype == "bool":
        return f"{field.name}={source}.to(torch.bool),"
    if field.dtype == "int32":
        return f"{field.name}={source}.to(torch.int32).clamp({', '.join(bounds)}),"
    nan = field.nan if isinstance(field.nan, float) else math.nan
    end = math.inf if field.infinity == "allowed" else math.nan
    return call(f"{field.name}=_float32", [source, literal(nan), literal(end), *bounds], 2, ",")


def _refusals(field: ContextField) -> list[tuple[str, str]]:
    tests = [("NaN", field.nan, "torch.isnan"), ("infinity", field.infinity, "torch.isinf")]
    return [(what, test) for what, policy, test in tests if policy == "refuse"]


def _limit(limit: Limit) -> LimitView:
    bounds = f"({literal(limit.low)}, {literal(limit.high)})"
    return LimitView(limit, PYTHON_TYPES[limit.dtype], bounds, literal(limit.default))


def _capacity(capacity: Capacity) -> CapacityView:
    ranks = {"slot": "None", "epochs": "epochs[rows[asking]]"}
    rank = ranks.get(capacity.order, f"_seen(context, rows[asking]).{capacity.order}")
    return CapacityView(capacity, f"limits.{capacity.limit}", rank)


def _columns(spec: Spec) -> list[ColumnView]:
    columns = spec.columns.columns if spec.columns else ()
    return [
        ColumnView(
            column=column,
            name=literal(column.name),
            dtype=literal(column.dtype),
            length=column.length,
            default=literal(column.default),
            role=literal(column.role),
            fields=repr(column.fields).replace("'", '"'),
            meaning=literal(column.meaning),
        )
        for column in columns
    ]
