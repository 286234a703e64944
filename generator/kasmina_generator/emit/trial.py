"""Deciding without a table: test what guards ask, then try one edge after the other.

The tests get names, so that a comparison that several edges ask stands once. The last edge is tried
first, and each that holds takes the place of those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kasmina_generator.emit.layout import call, hexadecimal
from kasmina_generator.expression import All, Any, Comparison, Expression, Flag, Truth
from kasmina_generator.model import Edge, Spec


def tested(spec: Spec, condition: Callable[[Expression], str]) -> list[str]:
    """Return the statements that name what guards test.

    Args:
        spec: Whose guards.
        condition: Emits a comparison or a flag.
    """
    lines = []
    for leaf, name in _tests(spec).items():
        text = condition(leaf)
        lines.append(f"{name} = {text[1:-1] if text.startswith('(') else text}")
    return lines


def origins(spec: Spec) -> list[Edge]:
    """Return the first edge whose guard asks each of the tests, in their order."""
    return [
        next(edge for edge in spec.edges if leaf in _leaves(edge.guard)) for leaf in _tests(spec)
    ]


def tried(spec: Spec, where: str, tick: str) -> list[str]:
    """Return the statements that write `packed`, edge * 256 + target, one an edge.

    Args:
        spec: Whose edges; the last one stands first.
        where: The function that selects.
        tick: What says that an epoch ends.
    """
    codes = {state.name: state.code for state in spec.states}
    tests = _tests(spec)
    return [
        call(
            f"packed = {where}",
            [
                _taken(spec, edge, codes[edge.source], tick, tests),
                str(edge.index * 256 + codes[edge.target]),
                "packed",
            ],
            1,
        )
        for edge in reversed(spec.edges)
    ]


def _tests(spec: Spec) -> dict[Expression, str]:
    found = dict.fromkeys(leaf for edge in spec.edges for leaf in _leaves(edge.guard))
    return {leaf: f"test_{number}" for number, leaf in enumerate(found)}


def _leaves(guard: Expression) -> Iterator[Expression]:
    match guard:
        case All(operands=operands) | Any(operands=operands):
            for operand in operands:
                yield from _leaves(operand)
        case Comparison() | Flag():
            yield guard


def _taken(spec: Spec, edge: Edge, source: int, tick: str, tests: dict[Expression, str]) -> str:
    """Return when an edge is taken if no earlier one is."""
    commands = {event.name: event.bit for event in spec.events if event.kind == "command"}
    bit = None if edge.recycle else commands.get(edge.event)
    asked = tick if bit is None else f"((events & {hexadecimal(1 << bit)}) != 0)"
    guard = edge.guard
    parts = guard.operands if isinstance(guard, All) else () if guard == Truth(True) else (guard,)
    return " & ".join([f"(code == {source})", asked, *(_holds(part, tests) for part in parts)])


def _holds(guard: Expression, tests: dict[Expression, str]) -> str:
    """Return a guard over the names of its tests."""
    match guard:
        case All(operands=operands):
            return "(" + " & ".join(_holds(operand, tests) for operand in operands) + ")"
        case Any(operands=operands):
            return "(" + " | ".join(_holds(operand, tests) for operand in operands) + ")"
        case Truth(value=value):
            return str(value)
    return tests[guard]
