"""A guard as Python's own parser reads it, and the names that it may use; see `binding` for more.

Nothing is ever evaluated: the text becomes a tree, and `binding` translates the nodes on its
allow-list.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

from kasmina_generator.document import Scalar
from kasmina_generator.expression import Field, LimitRef
from kasmina_generator.finding import Log
from kasmina_generator.interval import EPOCHS, Range
from kasmina_generator.model import Place

MOST_CHARACTERS = 1000
WHAT_IS_ALLOWED = "allowed: names, numbers, < <= > >= == !=, and or not, + - * /, parentheses"
_ADVICE = "use macros in 'guards'"


@dataclass(frozen=True, slots=True)
class Guard:
    """A guard that parses; `label` says whose it is."""

    label: str
    text: str
    tree: ast.expr
    scalar: Scalar

    def place(self, node: ast.AST) -> Place:
        """Return where a node of the tree stands in the YAML file."""
        return self.scalar.at(getattr(node, "col_offset", 0))

    def segment(self, node: ast.expr) -> str:
        """Return the text of a node, shortened to a line."""
        text = self.text[node.col_offset : node.end_col_offset]
        return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True, slots=True)
class Symbol:
    """A field or a limit that a guard may name; a bool has no range."""

    reference: Field | LimitRef
    range: Range | None


@dataclass(frozen=True, slots=True)
class Symbols:
    """Every name that guards may use, besides the words of the source state.

    None stands for a name whose own declaration is wrong; guards that use it are passed over.
    """

    values: Mapping[str, Symbol | None]
    macros: Mapping[str, Guard | None]
    used: set[str] = field(default_factory=set)  # macros that some guard has named

    @property
    def ranges(self) -> dict[str, Range]:
        """Return the range of each number by name, `epochs` included."""
        known = {name: s.range for name, s in self.values.items() if s is not None and s.range}
        return {"epochs": EPOCHS, **known}


@dataclass(frozen=True, slots=True)
class Clock:
    """The source state's bounds in epochs; `most` is None where it has none."""

    state: str
    least: int
    most: int | None


class NoExpression(ValueError):
    """A text that is none; `at` counts its characters from 0, None stands for all of it."""

    def __init__(self, what: str, at: int | None = None) -> None:
        super().__init__(what)
        self.what, self.at = what, at


def parse_guard(scalar: Scalar, label: str, log: Log) -> Guard | None:
    """Return the guard that a scalar holds; None, with a fault in `log`, where it is none."""
    text = one_line(scalar)
    try:
        return Guard(label, text, parse_expression(text, WHAT_IS_ALLOWED, _ADVICE), scalar)
    except NoExpression as error:
        place = scalar.place if error.at is None else scalar.at(error.at)
        log.add(place, f"{label}: {error.what}")
        return None


def one_line(scalar: Scalar) -> str:
    """Return the text of an expression, whose offsets `scalar.at` knows."""
    return scalar.text.replace("\n", " ").strip()


def parse_expression(text: str, allowed: str, advice: str) -> ast.expr:
    """Return a text as Python's parser reads it; nothing of it is evaluated.

    Args:
        text: One line.
        allowed: What to say of the language where the text is no expression.
        advice: What to do where it is too long.

    Raises:
        NoExpression: It is none, too long, or holds a character that would hide something.
    """
    if len(text) > MOST_CHARACTERS:
        raise NoExpression(f"has {len(text)} characters; at most {MOST_CHARACTERS}: {advice}")
    at = next((at for at, character in enumerate(text) if not _is_legible(character)), None)
    if at is not None:
        raise NoExpression(f"character {text[at]!r} is not allowed", at)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        at = min(max((error.offset or 1) - 1, 0), len(text))
        rest = repr(text[at : at + 20]) if text[at:] else "its end"
        raise NoExpression(f"is no expression at {rest}; {allowed}", at) from error
    except (RecursionError, MemoryError) as error:
        raise NoExpression(f"is nested too deeply; {advice}") from error


def _is_legible(character: str) -> bool:
    """Say whether a guard may hold a character; a comment or an escape would hide something."""
    return character.isascii() and character.isprintable() and character not in "#\\"
