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


def parse_guard(scalar: Scalar, label: str, log: Log) -> Guard | None:
    """Return the guard that a scalar holds; None, with a fault in `log`, where it is none."""
    text = scalar.text.replace("\n", " ").strip()
    if len(text) > MOST_CHARACTERS:
        what = f"has {len(text)} characters; at most {MOST_CHARACTERS}: use macros in 'guards'"
        log.add(scalar.place, f"{label}: {what}")
        return None
    at = next((at for at, character in enumerate(text) if not _is_legible(character)), None)
    if at is not None:
        log.add(scalar.at(at), f"{label}: character {text[at]!r} is not allowed")
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        _report_syntax(error, text, scalar, label, log)
        return None
    except (RecursionError, MemoryError):
        log.add(scalar.place, f"{label}: is nested too deeply; use macros in 'guards'")
        return None
    return Guard(label, text, tree, scalar)


def _is_legible(character: str) -> bool:
    """Say whether a guard may hold a character; a comment or an escape would hide something."""
    return character.isascii() and character.isprintable() and character not in "#\\"


def _report_syntax(error: SyntaxError, text: str, scalar: Scalar, label: str, log: Log) -> None:
    at = min(max((error.offset or 1) - 1, 0), len(text))
    rest = repr(text[at : at + 20]) if text[at:] else "its end"
    log.add(scalar.at(at), f"{label}: is no expression at {rest}; {WHAT_IS_ALLOWED}")
