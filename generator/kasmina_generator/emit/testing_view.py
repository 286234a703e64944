"""What the templates of a machine's tests fill in: what its guards ask, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kasmina_generator.emit.layout import call, literal
from kasmina_generator.emit.prose import prose
from kasmina_generator.emit.python import python_return
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
    Value,
)
from kasmina_generator.model import Capacity, Spec

TESTING_MODULES = ("__init__", "regions", "sequential", "strategies", "walk", "stateful")

Leaf = Comparison | Flag


@dataclass(frozen=True, slots=True)
class FormulaView:
    """A comparison that computes, or that reads several values."""

    number: int
    text: str
    python: list[str]


@dataclass(frozen=True, slots=True)
class TestingView:
    """All that the templates of the tests read besides the package's view."""

    tests: list[str]  # source of each `Comparison`, with a comma
    formulas: list[FormulaView]
    formula_rows: list[str]  # source of each `Formula`, with a comma
    capacities: list[str]  # source of each `Capacity`, with a comma
    rounding: bool  # some formula needs `_f32`


def testing_view(spec: Spec) -> TestingView:
    """Return what the templates of the tests fill in."""
    asked = [(state.name, leaf) for state in spec.states for leaf in _asked(spec, state.name)]
    formulas = list(dict.fromkeys(leaf for _, leaf in asked if _simple(leaf) is None))
    views = [
        FormulaView(number, prose(leaf), python_return(leaf, 1))
        for number, leaf in enumerate(formulas)
    ]
    return TestingView(
        tests=[row for state, leaf in asked for row in _test(state, leaf)],
        formulas=views,
        formula_rows=[
            _formula(state, leaf, formulas.index(leaf)) for state, leaf in asked if leaf in formulas
        ],
        capacities=[_capacity(capacity) for capacity in spec.capacities],
        rounding=any("_f32(" in line for row in views for line in row.python),
    )


def _asked(spec: Spec, state: str) -> Iterator[Leaf]:
    """Yield what the guards of a state ask, each once."""
    guards = (edge.guard for edge in spec.edges if edge.source == state)
    yield from dict.fromkeys(leaf for guard in guards for leaf in _leaves(guard))


def _leaves(guard: Expression) -> Iterator[Leaf]:
    match guard:
        case All(operands=operands) | Any(operands=operands):
            for operand in operands:
                yield from _leaves(operand)
        case Flag(operand=operand):
            yield Flag(operand, negated=False)
        case Comparison():
            yield guard
        case _:
            pass


def _simple(leaf: Leaf) -> tuple[str, str] | None:
    """Return subject and source of the threshold; None for a test that is a formula."""
    match leaf:
        case Flag(operand=operand):
            return operand.name, "None"
        case Comparison(left=Field(name=name), right=(LimitRef() | Constant()) as threshold):
            return name, _threshold(threshold)
        case Comparison(left=(LimitRef() | Constant()) as threshold, right=Field(name=name)):
            return name, _threshold(threshold)
        case Comparison(left=LimitRef(name=name), right=Constant() as threshold):
            return name, _threshold(threshold)
        case Comparison(left=Constant() as threshold, right=LimitRef(name=name)):
            return name, _threshold(threshold)
        case _:
            return None


def _threshold(value: LimitRef | Constant) -> str:
    return literal(value.name if isinstance(value, LimitRef) else value.value)


def _test(state: str, leaf: Leaf) -> Iterator[str]:
    simple = _simple(leaf)
    if simple is not None:
        subject, threshold = simple
        arguments = [f"State.{state}", literal(prose(leaf)), literal(subject), threshold]
        yield call("Comparison", arguments, 1, ",")


def _formula(state: str, leaf: Leaf, number: int) -> str:
    assert isinstance(leaf, Comparison)  # a flag is simple
    parts = dict.fromkeys([*_parts(leaf.left), *_parts(leaf.right)])
    fields = ", ".join(literal(part.name) for part in parts if isinstance(part, Field))
    near = ", ".join(_threshold(part) for part in parts if not isinstance(part, Field))
    arguments = [f"State.{state}", literal(prose(leaf)), f"[{fields}]", f"[{near}]"]
    return call("Formula", [*arguments, f"formula_{number}"], 1, ",")


def _parts(value: Value) -> Iterator[Field | LimitRef | Constant]:
    match value:
        case Negative(operand=operand):
            yield from _parts(operand)
        case Arithmetic(left=left, right=right):
            yield from _parts(left)
            yield from _parts(right)
        case _:
            yield value


def _capacity(capacity: Capacity) -> str:
    states = ", ".join(f"State.{state}" for state in capacity.states)
    arguments = [literal(capacity.name), f"[{states}]", literal(capacity.limit)]
    return call("Capacity", [*arguments, literal(capacity.order)], 1, ",")
