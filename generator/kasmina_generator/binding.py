"""From a guard's syntax tree to its typed tree, for one source state.

An allow-list of Python's nodes is translated. `not` is pushed down on the way (see `expression`),
macros are written out, and the words that depend on the source state (`min_epochs`, `max_epochs`,
`timed_out`) become numbers.
"""

from __future__ import annotations

import ast
import math

from kasmina_generator.expression import (
    Arithmetic,
    ArithmeticOperator,
    ComparisonOperator,
    Constant,
    Expression,
    Flag,
    Negative,
    Truth,
    Value,
)
from kasmina_generator.finding import Log, alternatives
from kasmina_generator.guard import WHAT_IS_ALLOWED, Clock, Guard, Symbol, Symbols
from kasmina_generator.interval import RangeError, range_of
from kasmina_generator.normal_form import EPOCHS_IN_STATE, comparison, conjunction, disjunction
from kasmina_generator.number import integer_range, round_to_float32
from kasmina_generator.vocabulary import GUARD_WORDS

MOST_NODES = 500  # macros written out
MOST_DEPTH = 60


def bind(guard: Guard, symbols: Symbols, clock: Clock, log: Log) -> Expression:
    """Return the typed tree of `guard` for edges that leave the state of `clock`.

    Faults go to `log`, each at its column; the tree is then of no use.
    """
    return _Binder(guard, symbols, clock, log).condition(guard.tree, negated=False)


_COMPARISONS: dict[type[ast.cmpop], ComparisonOperator] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
}
_OPPOSITES: dict[ComparisonOperator, ComparisonOperator] = {
    "<": ">=",
    "<=": ">",
    ">": "<=",
    ">=": "<",
}
_ARITHMETIC: dict[type[ast.operator], ArithmeticOperator] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
_REFUSED_NODES: dict[type[ast.expr], str] = {
    ast.Call: "a call",
    ast.Attribute: "an attribute",
    ast.Subscript: "a subscript",
    ast.Lambda: "a lambda",
    ast.IfExp: "an if-else",
    ast.NamedExpr: "an assignment",
    ast.List: "a list",
    ast.Tuple: "a tuple",
    ast.Set: "a set",
    ast.Dict: "a dict",
    ast.JoinedStr: "a string",
    ast.UnaryOp: "this sign",
}


_ALIKE = "declare both with one dtype: nothing is converted in a guard"
_NONZERO = "give the divisor a range that leaves out 0, or multiply instead: a >= 2 * b in place of a / b >= 2"
_NARROWER = "narrow the ranges of the fields and limits in it, or scale its numbers"


class _Refused(Exception):
    """The fault is in the log; go on with the next operand."""


class _Binder:
    """Translates one guard for one source state."""

    def __init__(self, guard: Guard, symbols: Symbols, clock: Clock, log: Log) -> None:
        self._guards = [guard]  # the guard, then the macros that are being written out
        self._symbols = symbols
        self._ranges = symbols.ranges
        self._clock = clock
        self._log = log
        self._nodes = 0
        self._depth = 0

    def condition(self, node: ast.expr, *, negated: bool) -> Expression:
        """Return the tree of a condition, or of its negation."""
        self._depth += 1
        try:
            self._count(node)
            return self._condition(node, negated)
        except _Refused:
            return Truth(True)
        finally:
            self._depth -= 1

    def _condition(self, node: ast.expr, negated: bool) -> Expression:
        match node:
            case ast.BoolOp(op=operator, values=values):
                parts = [self.condition(value, negated=negated) for value in values]
                is_and = isinstance(operator, ast.And) is not negated
                return conjunction(parts) if is_and else disjunction(parts)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.condition(operand, negated=not negated)
            case ast.Compare():
                return self._chain(node, negated)
            case ast.Name(id=name):
                return self._named_condition(node, name, negated)
            case ast.Constant(value=bool()):
                raise self._refusal(node, "a constant is no condition; leave the guard out instead")
            case _:
                self._dtype(node)
                raise self._refusal(
                    node, f"'{self._text(node)}' is a number, no condition; compare it"
                )

    def _named_condition(self, node: ast.Name, name: str, negated: bool) -> Expression:
        if name == "timed_out":
            return self._timed_out(node, negated)
        if name in self._symbols.macros:
            return self._macro(node, name, negated)
        reference = self._symbol(node, name).reference
        if reference.dtype != "bool":
            raise self._refusal(
                node, f"'{name}' is a number ({reference.dtype}), no condition; compare it"
            )
        return Flag(reference, negated)

    def _timed_out(self, node: ast.Name, negated: bool) -> Expression:
        operator: ComparisonOperator = "<" if negated else ">="
        return comparison(operator, EPOCHS_IN_STATE, Constant(self._most(node), "int32"))

    def _macro(self, node: ast.Name, name: str, negated: bool) -> Expression:
        self._symbols.used.add(name)
        macro = self._symbols.macros[name]
        if macro is None:
            raise _Refused
        if macro in self._guards:
            chain = [g.label for g in self._guards[self._guards.index(macro) :]] + [macro.label]
            raise self._refusal(node, f"guards name each other in a circle: {' -> '.join(chain)}")
        self._guards.append(macro)
        try:
            return self.condition(macro.tree, negated=negated)
        finally:
            self._guards.pop()

    def _chain(self, node: ast.Compare, negated: bool) -> Expression:
        operands = [node.left, *node.comparators]
        parts = [
            self._compare(node, operator, left, right, negated)
            for operator, left, right in zip(node.ops, operands[:-1], operands[1:], strict=True)
        ]
        return disjunction(parts) if negated else conjunction(parts)

    def _compare(
        self, node: ast.Compare, operator: ast.cmpop, left: ast.expr, right: ast.expr, negated: bool
    ) -> Expression:
        unequal = isinstance(operator, ast.NotEq)
        kind = ast.Eq if unequal else type(operator)
        if kind not in _COMPARISONS:
            raise self._refusal(node, f"'{_word(operator)}' is not allowed; {WHAT_IS_ALLOWED}")
        dtype = self._common_dtype(node, left, right)
        a, b = self._value(left, dtype), self._value(right, dtype)
        name = _COMPARISONS[kind]
        if name == "==":
            if unequal is negated:
                return comparison("==", a, b)
            return disjunction([comparison("<", a, b), comparison(">", a, b)])
        return comparison(_OPPOSITES[name] if negated else name, a, b)

    def _common_dtype(self, node: ast.expr, left: ast.expr, right: ast.expr) -> str:
        dtype = self._merge(node, left, right)
        if dtype is None:
            raise self._refusal(
                node, f"'{self._text(node)}' compares constants; name a field or a limit"
            )
        return dtype

    def _merge(self, node: ast.expr, left: ast.expr, right: ast.expr) -> str | None:
        a, b = self._dtype(left), self._dtype(right)
        if a and b and a != b:
            sides = f"'{self._text(left)}' is {a}, '{self._text(right)}' is {b}"
            raise self._refusal(node, f"mixes dtypes: {sides}", _ALIKE)
        return a or b

    def _dtype(self, node: ast.expr) -> str | None:
        """Return the dtype of a number, None where it is made of literals only."""
        self._depth += 1
        try:
            self._count(node)
            return self._dtype_of(node)
        finally:
            self._depth -= 1

    def _dtype_of(self, node: ast.expr) -> str | None:
        match node:
            case ast.Constant(value=value) if type(value) in (int, float):
                return None
            case ast.Name(id="epochs" | "min_epochs" | "max_epochs"):
                return "int32"
            case ast.Name(id=name):
                return self._number_dtype(node, name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._dtype(operand)
            case ast.BinOp(op=operator, left=left, right=right):
                if type(operator) not in _ARITHMETIC:
                    raise self._refusal(
                        node, f"'{_word(operator)}' is not allowed; {WHAT_IS_ALLOWED}"
                    )
                return self._merge(node, left, right)
            case ast.BoolOp() | ast.Compare() | ast.UnaryOp(op=ast.Not()):
                raise self._refusal(node, f"'{self._text(node)}' is a condition, no number")
            case _:
                what = f"{_kind(node)} is not allowed: {self._text(node)}"
                raise self._refusal(node, f"{what}; {WHAT_IS_ALLOWED}")

    def _number_dtype(self, node: ast.Name, name: str) -> str:
        if name == "timed_out" or name in self._symbols.macros:
            raise self._refusal(node, f"'{name}' is a condition, no number")
        dtype = self._symbol(node, name).reference.dtype
        if dtype == "bool":
            raise self._refusal(
                node, f"'{name}' is a bool, no number; write it alone or after 'not'"
            )
        return dtype

    def _value(self, node: ast.expr, dtype: str) -> Value:
        literal = _literal(node)
        if literal is not None:
            return self._constant(node, literal, dtype)
        match node:
            case ast.Name(id="epochs"):
                return EPOCHS_IN_STATE
            case ast.Name(id="min_epochs"):
                return Constant(self._clock.least, "int32")
            case ast.Name(id="max_epochs"):
                return Constant(self._most(node), "int32")
            case ast.Name(id=name):
                return self._symbol(node, name).reference
            case ast.UnaryOp(operand=operand):
                return self._computed(node, Negative(self._value(operand, dtype), dtype))
            case ast.BinOp(op=operator, left=left, right=right):
                sign = _ARITHMETIC[type(operator)]
                if sign == "/" and dtype != "float32":
                    raise self._refusal(
                        node,
                        f"'/' of {dtype} values is not allowed",
                        "multiply instead: a >= 2 * b in place of a / b >= 2",
                    )
                a, b = self._value(left, dtype), self._value(right, dtype)
                return self._computed(node, Arithmetic(sign, a, b, dtype))
            case _:  # pragma: no cover - _dtype has refused every other node
                raise AssertionError(ast.dump(node))

    def _computed(self, node: ast.expr, value: Negative | Arithmetic) -> Value:
        """Return a result whose range is safe; a constant where its operands are."""
        try:
            result = range_of(value, self._ranges)
        except RangeError as error:
            hint = _NONZERO if "zero" in str(error) else _NARROWER
            raise self._refusal(node, f"'{self._text(node)}' {error}", hint) from error
        match value:
            case Negative(operand=Constant()) | Arithmetic(left=Constant(), right=Constant()):
                return Constant(result.low, value.dtype)
            case _:
                return value

    def _constant(self, node: ast.expr, literal: float, dtype: str) -> Constant:
        if dtype == "float32":
            stored = _nearest_float32(literal)
            if not math.isfinite(stored):
                what = f"'{self._text(node)}' is too large for float32"
                raise self._refusal(node, what, "float32 ends at 3.4028235e38")
            return Constant(stored, dtype)
        low, high = integer_range(dtype)
        if isinstance(literal, float) or not low <= literal <= high:
            raise self._refusal(node, f"'{self._text(node)}' is no {dtype}, as the other side is")
        return Constant(literal, dtype)

    def _most(self, node: ast.Name) -> int:
        if self._clock.most is None:
            state = self._clock.state
            raise self._refusal(
                node, f"'{node.id}' has no meaning in state '{state}': no max_epochs there"
            )
        return self._clock.most

    def _symbol(self, node: ast.Name, name: str) -> Symbol:
        values, macros = self._symbols.values, self._symbols.macros
        if name in ("nan", "inf") and name not in values:
            what = f"'{name}' is no number here; the keys 'nan' and 'infinity' of a field rule it"
            raise self._refusal(node, what)
        if name not in values:
            allowed = (*values, *macros, *GUARD_WORDS)
            raise self._refusal(node, f"unknown name {name!r}{alternatives(allowed, name)}")
        symbol = values[name]
        if symbol is None:
            raise _Refused
        return symbol

    def _count(self, node: ast.expr) -> None:
        self._nodes += 1
        if self._nodes > MOST_NODES or self._depth > MOST_DEPTH:
            what = f"has more than {MOST_NODES} parts or {MOST_DEPTH} levels, macros written out"
            self._log.add(self._guards[0].scalar.place, f"{self._guards[0].label}: {what}")
            raise _Refused

    def _text(self, node: ast.expr) -> str:
        return self._guards[-1].segment(node)

    def _refusal(self, node: ast.expr, what: str, hint: str = "") -> _Refused:
        guard = self._guards[-1]
        self._log.add(guard.place(node), f"{guard.label}: {what}", hint=hint)
        return _Refused()


def _kind(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return f"a {type(node.value).__name__} literal"
    return _REFUSED_NODES.get(type(node), "this")


def _literal(node: ast.expr) -> int | float | None:
    """Return a number as written, a minus before it included."""
    match node:
        case ast.Constant(value=value) if type(value) in (int, float):
            assert isinstance(value, int | float)
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=value)):
            assert isinstance(value, int | float)
            return -value
        case _:
            return None


def _nearest_float32(literal: float) -> float:
    try:
        return round_to_float32(float(literal))
    except OverflowError:
        return math.inf


def _word(operator: ast.cmpop | ast.operator) -> str:
    return _WORDS.get(type(operator), type(operator).__name__)


_WORDS: dict[type[ast.cmpop | ast.operator], str] = {
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.MatMult: "@",
}
