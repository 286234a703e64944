"""What the templates of the Triton kernels fill in, as text that is ready to stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kasmina_generator.emit.layout import hexadecimal
from kasmina_generator.emit.trial import tested, tried
from kasmina_generator.emit.triton import (
    INFINITE,
    NO_NAN,
    triton_condition,
    triton_literal,
    triton_normalised,
)
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
from kasmina_generator.model import Capacity, Column, ContextField, Limit, Spec
from kasmina_generator.number import integer_range

_CONTROL = 2064  # integers: gates, bounds and a count, and eight histograms of a byte each


@dataclass(frozen=True, slots=True)
class KernelField:
    """A context field that the kernel loads."""

    name: str
    statements: list[str]  # what makes of `raw` the field as guards see it
    refusals: list[tuple[int, str]]  # number of the fault, and its test of `raw`
    readers: list[str]  # what says in `reads` whether a guard of the state `code` reads it


@dataclass(frozen=True, slots=True)
class KernelLimit:
    """A limit that some guard reads, and its dtype in Triton."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True)
class KernelCapacity:
    """A capacity, who is in it, and who asks for its room."""

    capacity: Capacity
    inside: list[str]  # what says in `inside` whether the state `code` is one of its own
    asks: list[str]  # what says in `asks` whether `edge` enters it
    rank: list[str]  # what finds the `rank` of `rows` that ask
    before: list[int]  # later capacities that an edge into this one asks as well
    after: bool  # an earlier one has edges in common with this one


@dataclass(frozen=True, slots=True)
class RecordColumn:
    """A column that follows from the transitions alone."""

    name: str
    pointer: str
    statements: list[str]  # that write it, given `rows`, `moved`, `recycled` and `before`


@dataclass(frozen=True, slots=True)
class KernelView:
    """All that the kernels' templates read besides the package's view."""

    states: int  # codes, those that no state has included
    columns: list[str]  # that a step writes
    fields: list[KernelField]
    limits: list[KernelLimit]
    capacities: list[KernelCapacity]
    ranks: list[str]  # context fields that capacities rank by
    float_ranks: bool  # one of them is a float
    entering: list[tuple[int, int]]  # the edges that ask for room, and the codes they lead to
    records: list[RecordColumn]
    recycled: list[str]  # what says in `recycled` whether `edge` re-arms a slot
    refusals: list[tuple[str, str]]  # field and what of it is refused; fault 0 is an unknown state
    quiet: list[str]  # what says in `quiet` whether the state `code` waits for commands at most
    tests: list[str]  # the statements that test what guards ask
    scan: list[str]  # the statements that try one edge after the other, the first one last
    commands: str  # mask of the events that wait for a command; "" for none
    edge_dtype: str
    control: int = _CONTROL

    @property
    def faults(self) -> int:
        """Return how many kinds of fault there are."""
        return len(self.refusals) + 1

    @property
    def sifted(self) -> list[str]:
        """Return the names of what is read of all rows."""
        events = ["events"] if self.commands else []
        refused = [f"field_{field.name}" for field in self.fields if field.refusals]
        return ["state", "epochs", *events, *refused]

    @property
    def sifted_at(self) -> list[str]:
        """Return the pointers to what is read of all rows."""
        return [f"{name}_at" for name in self.sifted]

    @property
    def record_pointers(self) -> list[str]:
        """Return the parameters of all columns besides state and epochs."""
        return [row.pointer for row in self.records]

    @property
    def control_block(self) -> int:
        """Return the least power of two that covers the control of all capacities."""
        return 1 << (self.control * len(self.capacities) - 1).bit_length()


def kernel_view(spec: Spec) -> KernelView:
    """Return what the kernels' templates fill in."""
    read = {name for edge in spec.edges for name in _names(edge.guard)}
    dtypes = {field.name: field.dtype for field in spec.context}
    ranked = {capacity.order for capacity in spec.capacities}
    fields = [field for field in spec.context if field.name in read or _refused(field)]
    refusals = [(field.name, what) for field in fields for what, _ in _refused(field)]
    records = _records(spec)
    return KernelView(
        states=max(state.code for state in spec.states) + 1,
        columns=[*_stepped(spec), *(row.name for row in records)],
        fields=[_field(spec, field, refusals) for field in fields],
        limits=[_limit(limit) for limit in spec.limits if limit.name in read],
        capacities=[_capacity(spec, capacity) for capacity in spec.capacities],
        ranks=sorted(ranked & dtypes.keys()),
        float_ranks=any(dtypes.get(name) == "float32" for name in ranked),
        entering=_entering(spec),
        records=records,
        recycled=_among("recycled", "edge", [edge.index for edge in spec.edges if edge.recycle]),
        refusals=refusals,
        quiet=_quiet(spec),
        tests=tested(spec, triton_condition),
        scan=tried(spec, "tl.where", "ticking"),
        commands=_commands(spec),
        edge_dtype="int8" if len(spec.edges) <= integer_range("int8")[1] else "int16",
    )


def _among(name: str, value: str, numbers: Iterable[int]) -> list[str]:
    """Return the statements that say in `name` whether a value is one of some numbers."""
    tests = [
        f"{value} == {first}" if first == last else f"({value} >= {first}) & ({value} <= {last})"
        for first, last in _ranges(sorted(numbers))
    ]
    if not tests:
        return [f"{name} = tl.zeros_like({value}) != 0"]
    first, *others = tests
    return [f"{name} = {first}", *(f"{name} |= {test}" for test in others)]


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Return the first and last of each run of numbers without a gap."""
    firsts = [number for number in numbers if number - 1 not in numbers]
    lasts = [number for number in numbers if number + 1 not in numbers]
    return list(zip(firsts, lasts, strict=True))


def _codes(spec: Spec, names: Iterable[str]) -> list[int]:
    wanted = set(names)
    return [state.code for state in spec.states if state.name in wanted]


def _quiet(spec: Spec) -> list[str]:
    """A state is quiet that no edge leaves by itself and that no capacity counts."""
    commands = {event.name for event in spec.events if event.kind == "command"}
    waking = {edge.source for edge in spec.edges if edge.recycle or edge.event not in commands}
    waking |= {name for capacity in spec.capacities for name in capacity.states}
    return _among(
        "quiet", "code", (state.code for state in spec.states if state.name not in waking)
    )


def _commands(spec: Spec) -> str:
    bits = [1 << event.bit for event in spec.events if event.kind == "command"]
    return hexadecimal(sum(bits)) if bits else ""


def kernel_modules(kernel: KernelView) -> list[str]:
    """Return the modules that the kernels of a machine need, by their place in the package."""
    names = ["__init__", "launch", "step"]
    names += ["capacity"] if kernel.capacities else []
    names += ["record"] if kernel.records else []
    return [f"kernels/{name}" for name in names]


def _limit(limit: Limit) -> KernelLimit:
    return KernelLimit(limit.name, "int1" if limit.dtype == "bool" else limit.dtype)


def _field(spec: Spec, field: ContextField, refusals: list[tuple[str, str]]) -> KernelField:
    numbered = [(refusals.index((field.name, what)) + 1, test) for what, test in _refused(field)]
    reading = {edge.source for edge in spec.edges if field.name in _names(edge.guard)}
    readers = [] if numbered else _among("reads", "code", _codes(spec, reading))
    return KernelField(field.name, triton_normalised(field), numbered, readers)


def _refused(field: ContextField) -> list[tuple[str, str]]:
    tests = [
        ("NaN", field.nan, f"({NO_NAN}) == 0"),
        ("infinity", field.infinity, INFINITE),
    ]
    return [(what, test) for what, policy, test in tests if policy == "refuse"]


def _asks(spec: Spec, capacity: Capacity) -> set[int]:
    """Return the edges that enter a capacity from outside."""
    inside = capacity.states
    return {e.index for e in spec.edges if e.target in inside and e.source not in inside}


def _capacity(spec: Spec, capacity: Capacity) -> KernelCapacity:
    asks = _asks(spec, capacity)
    common = [bool(asks & _asks(spec, other)) for other in spec.capacities]
    number = spec.capacities.index(capacity)
    return KernelCapacity(
        capacity=capacity,
        inside=_among("inside", "code", _codes(spec, capacity.states)),
        asks=_among("asks", "edge", asks),
        rank=_rank(spec, capacity.order),
        before=[place for place, meet in enumerate(common) if meet and place > number],
        after=any(common[:number]),
    )


def _rank(spec: Spec, order: str) -> list[str]:
    if order == "slot":
        return ["rank = tl.zeros_like(rows)"]
    if order == "epochs":
        return ["rank = tl.load(epochs_at + rows, mask=asks, other=0).to(tl.int32)"]
    field = next(field for field in spec.context if field.name == order)
    value = f"field_{order}"
    return [
        f"raw = tl.load({value}_at + rows, mask=asks, other=0)",
        *triton_normalised(field, 2),
        f"rank = _ordered({value})" if field.dtype == "float32" else f"rank = {value}.to(tl.int32)",
    ]


def _entering(spec: Spec) -> list[tuple[int, int]]:
    """Return number and target's code of each edge that asks for room."""
    asking = set().union(*(_asks(spec, capacity) for capacity in spec.capacities))
    codes = {state.name: state.code for state in spec.states}
    return [(edge.index, codes[edge.target]) for edge in spec.edges if edge.index in asking]


def _stepped(spec: Spec) -> list[str]:
    """Return the names of the columns of state and epochs, by role where nothing is declared."""
    names = {column.role: column.name for column in _columns(spec)}
    return [names.get(role, role) for role in ("state", "epochs")]


def _columns(spec: Spec) -> tuple[Column, ...]:
    return spec.columns.columns if spec.columns else ()


def _records(spec: Spec) -> list[RecordColumn]:
    """Return the columns that transitions write, those that a new generation resets last."""
    found = {column.role: column for column in _columns(spec) if column.role in _WRITTEN}
    records = [
        RecordColumn(found[role].name, f"{role}_at", write(found))
        for role, write in _WRITTEN.items()
        if role in found
    ]
    if any(edge.recycle for edge in spec.edges):
        records += [_reset(column) for column in _columns(spec) if column.role is None]
    return records


def _reset(column: Column) -> RecordColumn:
    pointer, length = f"column_{column.name}_at", column.length
    value = f"{triton_literal(column.default)}, mask=recycled)"
    if length == 1:
        return RecordColumn(column.name, pointer, [f"tl.store({pointer} + rows, {value}"])
    places = f"rows.to(tl.int64) * {length} + place"
    loop = [
        f"for place in tl.static_range({length}):",
        f"    tl.store({pointer} + {places}, {value}",
    ]
    return RecordColumn(column.name, pointer, loop)


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
        f"place = rows.to(tl.int64) * {length} + turn % {length}",
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
