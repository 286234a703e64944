"""What the templates of the Triton kernels fill in, as text that is ready to stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kasmina_generator.emit.layout import call, hexadecimal
from kasmina_generator.emit.triton import (
    INFINITE,
    NO_NAN,
    triton_condition,
    triton_literal,
    triton_normalised,
)
from kasmina_generator.emit.words import Test, Words, plan_words
from kasmina_generator.expression import (
    All,
    Any,
    Arithmetic,
    Comparison,
    Constant,
    Expression,
    Field,
    Flag,
    LimitRef,
    Negative,
    Truth,
    Value,
)
from kasmina_generator.model import Capacity, Column, ContextField, Edge, Limit, Spec
from kasmina_generator.number import integer_range


@dataclass(frozen=True, slots=True)
class KernelField:
    """A context field that the kernel loads."""

    name: str
    statements: list[str]  # what makes of `raw` the field as guards see it
    refusals: list[tuple[int, str]]  # number of the fault, and its test of `raw`


@dataclass(frozen=True, slots=True)
class KernelLimit:
    """A limit that some guard reads, and its dtype in Triton."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class KernelCapacity:
    """A capacity and where the kernel finds what its requesters are ranked by."""

    capacity: Capacity
    rank: str  # source of the pointer to the ranks
    digits: int  # bytes of the key that tells requesters apart
    stored: str  # source of the rank that the first kernel stores; "" for none


@dataclass(frozen=True, slots=True)
class RecordColumn:
    """A column that follows from the transitions alone."""

    role: str
    shape: str
    meaning: str
    statements: list[str]  # that write it, given `edge`, `moved`, `recycled` and `before`


@dataclass(frozen=True, slots=True)
class KernelView:
    """All that the kernels' templates read besides the package's view."""

    states: int  # codes, those that no state has included
    fields: list[KernelField]
    limits: list[KernelLimit]
    capacities: list[KernelCapacity]
    ranks: list[str]  # context fields that capacities rank by
    float_ranks: bool  # one of them is a float
    records: list[RecordColumn]
    refusals: list[tuple[str, str]]  # field and what of it is refused; fault 0 is an unknown state
    gather: list[str]  # the statements that gather the bits of the word
    scan: list[str]  # those that try one edge after the other, the first one last
    commands: bool  # there is an event that waits for a command
    epochs: bool  # some guard compares the epochs itself


def kernel_view(spec: Spec) -> KernelView:
    """Return what the kernels' templates fill in."""
    plan = plan_words(spec)
    read = {name for edge in spec.edges for name in _names(edge.guard)}
    dtypes = {field.name: field.dtype for field in spec.context}
    ranked = {capacity.order for capacity in spec.capacities}
    fields = [field for field in spec.context if field.name in read | ranked or _refused(field)]
    refusals = [(field.name, what) for field in fields for what, _ in _refused(field)]
    tested = {name for test in plan.tests() for name in _names(test)} if plan else read
    return KernelView(
        states=max(state.code for state in spec.states) + 1,
        fields=[_field(field, refusals) for field in fields],
        limits=[_limit(limit) for limit in spec.limits if limit.name in read],
        capacities=[_capacity(capacity, dtypes) for capacity in spec.capacities],
        ranks=sorted(ranked & dtypes.keys()),
        float_ranks=any(dtypes.get(name) == "float32" for name in ranked),
        records=_records(spec),
        refusals=refusals,
        gather=_gather(spec, plan) if plan else [],
        scan=[] if plan else _scan(spec),
        commands=any(event.kind == "command" for event in spec.events),
        epochs="epochs" in tested,
    )


def kernel_modules(kernel: KernelView) -> list[str]:
    """Return the modules that the kernels of a machine need, by their place in the package."""
    names = ["__init__", "launch", "step"]
    names += ["capacity"] if kernel.capacities else []
    names += ["record"] if kernel.records else []
    return [f"kernels/{name}" for name in names]


def _limit(limit: Limit) -> KernelLimit:
    return KernelLimit(limit.name, "int1" if limit.dtype == "bool" else limit.dtype)


def _field(field: ContextField, refusals: list[tuple[str, str]]) -> KernelField:
    numbered = [(refusals.index((field.name, what)) + 1, test) for what, test in _refused(field)]
    return KernelField(field.name, triton_normalised(field), numbered)


def _refused(field: ContextField) -> list[tuple[str, str]]:
    tests = [
        ("NaN", field.nan, f"({NO_NAN}) == 0"),
        ("infinity", field.infinity, INFINITE),
    ]
    return [(what, test) for what, policy, test in tests if policy == "refuse"]


def _capacity(capacity: Capacity, dtypes: dict[str, str]) -> KernelCapacity:
    order = capacity.order
    if order not in dtypes:
        return KernelCapacity(capacity, "epochs_at", 4 if order == "slot" else 8, "")
    value = f"field_{order}"
    stored = f"_ordered({value})" if dtypes[order] == "float32" else f"{value}.to(tl.int32)"
    return KernelCapacity(capacity, f"rank_{order}_at", 8, stored)


def _records(spec: Spec) -> list[RecordColumn]:
    columns = spec.columns.columns if spec.columns else ()
    found = {column.role: column for column in columns if column.role in _WRITTEN}
    return [
        RecordColumn(
            role=role,
            shape=f"{found[role].dtype} [N{f', {found[role].length}' if role == 'history' else ''}]",
            meaning=found[role].meaning,
            statements=_WRITTEN[role](found),
        )
        for role in _WRITTEN
        if role in found
    ]


def _parent(found: Columns) -> list[str]:
    default = triton_literal(found["parent"].default)
    value = f"tl.where(recycled, {default}, before).to(tl.{found['parent'].dtype})"
    return [f"tl.store(parent_at + rows, {value}, mask=moved)"]


def _generation(found: Columns) -> list[str]:
    return [
        "count = tl.load(generation_at + rows, mask=recycled, other=0)",
        f"count = tl.where(count < {integer_range(found['generation'].dtype)[1]}, count + 1, count)",
        "tl.store(generation_at + rows, count, mask=recycled)",
    ]


def _history(found: Columns) -> list[str]:
    length = found["history"].length
    return [
        "turn = tl.load(history_count_at + rows, mask=moved, other=0)",
        f"place = rows * {length} + turn % {length}",
        f"tl.store(history_at + place, before.to(tl.{found['history'].dtype}), mask=moved)",
    ]


def _history_count(found: Columns) -> list[str]:
    """Return the statements that count, and go back by one turn of the ring at the end."""
    length = found["history"].length
    end = integer_range(found["history_count"].dtype)[1] // length * length
    return [
        f"turn = tl.where(turn + 1 == {end}, {end - length}, turn + 1)",
        f"tl.store(history_count_at + rows, turn.to(tl.{found['history_count'].dtype}), mask=moved)",
    ]


Columns = dict[str, Column]
_WRITTEN: dict[str, Callable[[Columns], list[str]]] = {
    "parent": _parent,
    "generation": _generation,
    "history": _history,
    "history_count": _history_count,
}


def _gather(spec: Spec, plan: Words) -> list[str]:
    """Return the statements that gather the bits of `plan`, and lay the layers onto each other."""
    bits = {event.name: event.bit for event in spec.events}
    lines = [f"bits = tl.zeros((BLOCK,), tl.{plan.dtype})"]
    for mask, shift in plan.command_masks(bits):
        moved = f" << {shift}" if shift > 0 else f" >> {-shift}" if shift else ""
        lines.append(f"bits |= (events & {hexadecimal(mask)}).to(tl.{plan.dtype}){moved}")
    lines += [_added(test, plan.position(test)) for test in plan.tests()]
    if plan.folds:
        single, shared = (hexadecimal((1 << count) - 1) for count in (plan.single, plan.shared))
        lines += [
            "bits &= tl.load(masks_at + code)",
            f"shared = bits >> {plan.single}",
            *(f"shared |= shared >> {shift}" for shift in plan.folds),
            f"bits = (bits & {single}) + ((shared & {shared}) << {plan.single})",
        ]
    return lines


def _added(test: Test, position: int) -> str:
    condition = triton_condition(test)
    bare = condition[1:-1] if isinstance(test, Comparison) else condition
    return call("bits |= tl.where", [bare, hexadecimal(1 << position), "0"], 1)


def _scan(spec: Spec) -> list[str]:
    codes = {state.name: state.code for state in spec.states}
    return [
        call(
            "packed = tl.where",
            [_taken(spec, edge, codes), str(edge.index * 256 + codes[edge.target]), "packed"],
            1,
        )
        for edge in reversed(spec.edges)
    ]


def _taken(spec: Spec, edge: Edge, codes: dict[str, int]) -> str:
    """Return when an edge is taken if no earlier one is."""
    commands = {event.name: event.bit for event in spec.events if event.kind == "command"}
    bit = None if edge.recycle else commands.get(edge.event)
    asked = "ticking" if bit is None else f"((events & {hexadecimal(1 << bit)}) != 0)"
    guard = [] if edge.guard == Truth(True) else [triton_condition(edge.guard)]
    return " & ".join([f"(code == {codes[edge.source]})", asked, *guard])


def _names(guard: Expression) -> set[str]:
    match guard:
        case Truth():
            return set()
        case Flag(operand=operand):
            return {operand.name}
        case Comparison(left=left, right=right):
            return _value_names(left) | _value_names(right)
        case All(operands=operands) | Any(operands=operands):
            return {name for operand in operands for name in _names(operand)}


def _value_names(value: Value) -> set[str]:
    match value:
        case Negative(operand=operand):
            return _value_names(operand)
        case Arithmetic(left=left, right=right):
            return _value_names(left) | _value_names(right)
        case Field(name=name) | LimitRef(name=name):
            return {name}
        case Constant():
            return set()
