"""The tree of a formula, and the trees of its gradients.

A gradient is in reverse mode: what each variable gets of the gradient `Incoming` that reaches the
formula's value. So a product with a function's derivative is one node (`Pulled`), which each
function writes in its own way: that of relu selects, where a product would make 0 * inf.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Operator = Literal["+", "-", "*"]


@dataclass(frozen=True, slots=True)
class Variable:
    """What a map gives, a parameter, or the input `x`."""

    name: str


@dataclass(frozen=True, slots=True)
class Number:
    """A literal, rounded to float32."""

    value: float


@dataclass(frozen=True, slots=True)
class Negative:
    """`-a`."""

    operand: Formula


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`a op b`."""

    operator: Operator
    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class Call:
    """`function(a)`; the name of an option until one is chosen."""

    function: str
    operand: Formula


@dataclass(frozen=True, slots=True)
class Incoming:
    """The gradient that reaches the formula's value; only in gradients."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """`gradient * function'(operand)`; only in gradients."""

    function: str
    operand: Formula
    gradient: Formula


Formula = Variable | Number | Negative | Arithmetic | Call | Incoming | Pulled


def parts(formula: Formula) -> Iterator[Formula]:
    """Yield a formula and everything in it, from left to right."""
    yield formula
    match formula:
        case Negative(operand=operand) | Call(operand=operand):
            yield from parts(operand)
        case Arithmetic(left=left, right=right):
            yield from parts(left)
            yield from parts(right)
        case Pulled(operand=operand, gradient=gradient):
            yield from parts(operand)
            yield from parts(gradient)
        case _:
            pass


def variables(formula: Formula) -> tuple[str, ...]:
    """Return the names that a formula reads, in the order in which they first stand in it."""
    return tuple(dict.fromkeys(p.name for p in parts(formula) if isinstance(p, Variable)))


def chosen(formula: Formula, choices: dict[str, str]) -> Formula:
    """Return a formula with the functions that were chosen in the place of the options' names."""
    match formula:
        case Negative(operand=operand):
            return Negative(chosen(operand, choices))
        case Arithmetic(operator=operator, left=left, right=right):
            return Arithmetic(operator, chosen(left, choices), chosen(right, choices))
        case Call(function=function, operand=operand):
            return Call(choices.get(function, function), chosen(operand, choices))
        case _:
            return formula


def gradients(formula: Formula) -> dict[str, Formula]:
    """Return what each variable gets of the gradient that reaches the formula's value."""
    found: dict[str, Formula] = {}
    for name, flow in _flows(formula, Incoming()):
        found[name] = Arithmetic("+", found[name], flow) if name in found else flow
    return found


def _flows(formula: Formula, flow: Formula) -> Iterator[tuple[str, Formula]]:
    """Yield each variable with what one of its places gets."""
    match formula:
        case Variable(name=name):
            yield name, flow
        case Negative(operand=operand):
            yield from _flows(operand, Negative(flow))
        case Arithmetic(operator="*", left=left, right=right):
            yield from _flows(left, Arithmetic("*", flow, right))
            yield from _flows(right, Arithmetic("*", flow, left))
        case Arithmetic(operator=operator, left=left, right=right):
            yield from _flows(left, flow)
            yield from _flows(right, flow if operator == "+" else Negative(flow))
        case Call(function=function, operand=operand):
            yield from _flows(operand, Pulled(function, operand, flow))
        case _:
            pass
