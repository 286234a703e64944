"""From the text of a formula to its tree: an allow-list of Python's nodes, nothing is evaluated."""

from __future__ import annotations

import ast
import math
from collections.abc import Collection

from kasmina_generator.document import Scalar
from kasmina_generator.finding import Log, alternatives
from kasmina_generator.guard import NoExpression, one_line, parse_expression
from kasmina_generator.kernels.formula import (
    Arithmetic,
    Call,
    Formula,
    Negative,
    Number,
    Operator,
    Variable,
)
from kasmina_generator.number import round_to_float32

MOST_NODES = 100
MOST_DEPTH = 30
WHAT_IS_ALLOWED = "allowed: names, numbers, + - *, parentheses, functions of one value"
_ADVICE = "a kind is one small module; cut the formula"

_OPERATORS: dict[type[ast.operator], Operator] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}


def read_formula(
    scalar: Scalar, label: str, names: Collection[str] | None, functions: Collection[str], log: Log
) -> Formula | None:
    """Return the formula that a scalar holds; None, with a fault in `log`, where it holds none.

    Args:
        scalar: Where it stands.
        label: What the formula belongs to, for messages.
        names: The variables that it may read; None allows any.
        functions: The functions and options that it may call.
        log: Takes the fault: its place, and the text with a caret under it.
    """
    text = one_line(scalar)
    try:
        tree = parse_expression(text, WHAT_IS_ALLOWED, _ADVICE)
        return _Reader(text, names, functions).read(tree, 0)
    except NoExpression as error:
        if error.at is None:
            log.add(scalar.place, f"{label}: {error.what}")
        else:
            caret = f"\n    {text}\n    {' ' * error.at}^"
            log.add(scalar.at(error.at), f"{label}: {error.what}{caret}")
        return None


class _Reader:
    """Translates one formula."""

    def __init__(
        self, text: str, names: Collection[str] | None, functions: Collection[str]
    ) -> None:
        self._text, self._names, self._functions = text, names, functions
        self._nodes = 0

    def read(self, node: ast.expr, depth: int) -> Formula:
        """Return the tree of a node.

        Raises:
            NoExpression: The node, or one in it, is not on the allow-list.
        """
        self._nodes += 1
        if self._nodes > MOST_NODES or depth > MOST_DEPTH:
            what = f"has more than {MOST_NODES} parts or {MOST_DEPTH} levels; {_ADVICE}"
            raise NoExpression(what)
        match node:
            case ast.Constant(value=value) if type(value) in (int, float):
                return self._number(node, value)
            case ast.Name(id=name):
                return self._variable(node, name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return Negative(self.read(operand, depth + 1))
            case ast.BinOp(op=operator, left=left, right=right) if type(operator) in _OPERATORS:
                sign = _OPERATORS[type(operator)]
                return Arithmetic(sign, self.read(left, depth + 1), self.read(right, depth + 1))
            case ast.Call(func=ast.Name(id=name), args=[operand], keywords=[]):
                self._known(node, "function", name, self._functions)
                return Call(name, self.read(operand, depth + 1))
            case ast.Call(func=ast.Name(id=name)):
                raise self._refusal(node, f"'{name}' takes one value, as in {name}(up)")
            case _:
                what = f"'{self._segment(node)}' is not allowed; {WHAT_IS_ALLOWED}"
                raise self._refusal(node, what)

    def _number(self, node: ast.expr, value: object) -> Number:
        assert isinstance(value, int | float)
        stored = round_to_float32(value) if abs(value) < 1e39 else math.inf
        if not math.isfinite(stored):
            raise self._refusal(node, f"'{self._segment(node)}' is too large for float32")
        return Number(stored)

    def _variable(self, node: ast.expr, name: str) -> Variable:
        if name in self._functions:
            raise self._refusal(node, f"'{name}' is a function; write what it is of: {name}(...)")
        if self._names is not None:
            self._known(node, "name", name, self._names)
        return Variable(name)

    def _known(self, node: ast.expr, what: str, name: str, known: Collection[str]) -> None:
        if name not in known:
            raise self._refusal(node, f"unknown {what} {name!r}{alternatives(known, name)}")

    def _segment(self, node: ast.expr) -> str:
        text = self._text[node.col_offset : node.end_col_offset]
        return text if len(text) <= 60 else text[:57] + "..."

    def _refusal(self, node: ast.expr, what: str) -> NoExpression:
        return NoExpression(what, node.col_offset)
