"""Formulas of computation tree logic (CTL): their trees, and a parser that points at a mistake.

    AG (PAID -> AF shipped)        A and E: on all paths, on some path
    A[open U closed]               X next, F some time, G always, U until
    !EF (broken & epochs >= 3)     ! & | -> <->, or not and or

A path goes on for ever: an entity that has ended stays there. What stands for itself: the name of a
state or group, `epochs >= 3` (any comparison with a number), `timed_out`, `enabled(event)` (the
guard of one of its edges holds), `true` and `false`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from kasmina_generator.finding import alternatives
from kasmina_generator.number import INT16_MAX

MOST_CHARACTERS = 1000
MOST_DEPTH = 40

Quantifier = Literal["A", "E"]
Path = Literal["X", "F", "G"]


@dataclass(frozen=True, slots=True)
class In:
    """The entity is in a state, or in one of a group's."""

    name: str


@dataclass(frozen=True, slots=True)
class Epochs:
    """The ticks spent in the state compare so with a number."""

    operator: str
    number: int


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The state's max_epochs is over."""


@dataclass(frozen=True, slots=True)
class Enabled:
    """The guard of an edge of this event holds."""

    event: str


@dataclass(frozen=True, slots=True)
class Always:
    """`true`."""


@dataclass(frozen=True, slots=True)
class Not:
    """The operand does not hold."""

    operand: Formula


@dataclass(frozen=True, slots=True)
class Both:
    """Both operands hold."""

    left: Formula
    right: Formula


@dataclass(frozen=True, slots=True)
class Temporal:
    """`AX f`, `EF f`, ...: on all paths or on some, next, some time or always."""

    quantifier: Quantifier
    path: Path
    operand: Formula


@dataclass(frozen=True, slots=True)
class Until:
    """`A[left U right]`: `right` some time, and `left` up to there."""

    quantifier: Quantifier
    left: Formula
    right: Formula


Formula = In | Epochs | TimedOut | Enabled | Always | Not | Both | Temporal | Until


class FormulaError(ValueError):
    """A text that is no formula; `offset` counts its characters from 0."""

    def __init__(self, text: str, offset: int, what: str) -> None:
        self.offset = offset
        self.what = what
        super().__init__(f"{what}\n    {text}\n    {' ' * offset}^")


def either(left: Formula, right: Formula) -> Formula:
    """Return `left or right`."""
    return Not(Both(Not(left), Not(right)))


def parse(text: str, places: Collection[str], events: Collection[str]) -> Formula:
    """Return the tree of a formula.

    Args:
        text: One line.
        places: Names of states and groups.
        events: Names of events.

    Raises:
        FormulaError: Where the text is no formula or names something unknown; its message shows
            the text with a caret under the place.
    """
    return _Parser(text, places, events).whole()


_TOKEN = re.compile(r"\s*(<->|->|<=|>=|==|!=|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[()\[\]!&|<>])")
_TEMPORAL: dict[str, tuple[Quantifier, Path]] = {
    "AX": ("A", "X"),
    "AF": ("A", "F"),
    "AG": ("A", "G"),
    "EX": ("E", "X"),
    "EF": ("E", "F"),
    "EG": ("E", "G"),
}
WORDS = (*_TEMPORAL, "A", "E", "U", "epochs", "timed_out", "enabled", "true", "false")


class _Parser:
    def __init__(self, text: str, places: Collection[str], events: Collection[str]) -> None:
        self._text = text
        self._places = places
        self._events = events
        self._tokens = list(self._scan())
        self._next = 0
        self._depth = 0

    def whole(self) -> Formula:
        formula = self._equivalence()
        if self._peek():
            raise self._error(f"unexpected {self._peek()!r} after the formula")
        return formula

    def _scan(self) -> list[tuple[str, int]]:
        if len(self._text) > MOST_CHARACTERS:
            what = f"has {len(self._text)} characters; at most {MOST_CHARACTERS}"
            raise FormulaError(self._text[:60] + "...", 0, what)
        tokens, at = [], 0
        end = len(self._text.rstrip())
        while at < end:
            match = _TOKEN.match(self._text, at)
            if not match:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                what = f"character {self._text[at]!r} is not allowed"
                raise FormulaError(self._text, at, what)
            tokens.append((match[1], match.start(1)))
            at = match.end()
        return tokens

    def _peek(self) -> str:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _accept(self, *tokens: str) -> bool:
        if self._peek() in tokens:
            self._next += 1
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._accept(token):
            raise self._error(f"expected {token!r}, found {self._found()}")

    def _found(self) -> str:
        return repr(self._peek()) if self._peek() else "the end"

    def _error(self, what: str) -> FormulaError:
        known = self._next < len(self._tokens)
        offset = self._tokens[self._next][1] if known else len(self._text.rstrip())
        return FormulaError(self._text, offset, what)

    def _equivalence(self) -> Formula:
        left = self._implication()
        while self._accept("<->"):
            right = self._implication()
            left = either(Both(left, right), Both(Not(left), Not(right)))
        return left

    def _implication(self) -> Formula:
        left = self._disjunction()
        return either(Not(left), self._implication()) if self._accept("->") else left

    def _disjunction(self) -> Formula:
        left = self._conjunction()
        while self._accept("|", "or"):
            left = either(left, self._conjunction())
        return left

    def _conjunction(self) -> Formula:
        left = self._unary()
        while self._accept("&", "and"):
            left = Both(left, self._unary())
        return left

    def _unary(self) -> Formula:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise self._error(f"is nested more than {MOST_DEPTH} deep")
        try:
            return self._unary_formula()
        finally:
            self._depth -= 1

    def _unary_formula(self) -> Formula:
        if self._accept("!", "not"):
            return Not(self._unary())
        if self._peek() in _TEMPORAL:
            quantifier, path = _TEMPORAL[self._take()]
            return Temporal(quantifier, path, self._unary())
        if self._accept("("):
            formula = self._equivalence()
            self._expect(")")
            return formula
        if self._peek() in ("A", "E") and self._is_quantifier():
            return self._until("A" if self._take() == "A" else "E")
        return self._atom()

    def _is_quantifier(self) -> bool:
        """Tell `A[...]` from a state whose name is A."""
        after = self._tokens[self._next + 1 : self._next + 2]
        return self._peek() not in self._places or any(token == "[" for token, _ in after)

    def _until(self, quantifier: Quantifier) -> Formula:
        self._expect("[")
        left = self._equivalence()
        self._expect("U")
        right = self._equivalence()
        self._expect("]")
        return Until(quantifier, left, right)

    def _atom(self) -> Formula:
        token = self._peek()
        if token in self._places:
            self._next += 1
            return In(token)
        match token:
            case "true":
                self._next += 1
                return Always()
            case "false":
                self._next += 1
                return Not(Always())
            case "timed_out":
                self._next += 1
                return TimedOut()
            case "epochs":
                self._next += 1
                return self._comparison()
            case "enabled":
                self._next += 1
                return self._enabled()
        raise self._unknown(token)

    def _unknown(self, token: str) -> FormulaError:
        if not re.match(r"[A-Za-z_]", token):
            return self._error(f"expected a formula, found {self._found()}")
        allowed = (*self._places, *WORDS)
        return self._error(f"unknown name {token!r}{alternatives(allowed, token)}")

    def _comparison(self) -> Formula:
        operators = ("<", "<=", ">", ">=", "==", "!=")
        if self._peek() not in operators:
            raise self._error(f"expected one of {' '.join(operators)}, found {self._found()}")
        operator = self._take()
        if not self._peek().isdigit():
            raise self._error(f"expected a number of epochs, found {self._found()}")
        if len(self._peek()) > 9 or int(self._peek()) > INT16_MAX:
            raise self._error(f"epochs are counted up to {INT16_MAX}; {self._peek()} never come")
        number = int(self._take())
        return Not(Epochs("==", number)) if operator == "!=" else Epochs(operator, number)

    def _enabled(self) -> Formula:
        self._expect("(")
        event = self._peek()
        if event not in self._events:
            what = f"unknown event {event!r}{alternatives(self._events, event)}"
            raise self._error(what if event else "expected an event, found the end")
        self._next += 1
        self._expect(")")
        return Enabled(event)
