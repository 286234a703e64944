"""From generated lines to the lines of the spec.

A template writes `at(record)` where the text of a record begins. The mark that this leaves covers
its line and what hangs on it: the deeper lines that follow, and a closing bracket. Marks are taken
out before a file is stamped, so that nothing but the map knows of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from kasmina_generator.model import Place

_MARK = re.compile("\0([^\0]*)\0")  # no YAML text can hold this character
_CLOSING = tuple(")]}")


class Declared(Protocol):
    """Whatever a spec declares."""

    @property
    def place(self) -> Place:
        """Where it stands."""


class Span(NamedTuple):
    """Lines `first` to `last` of a generated file, counted from 1, and where they come from."""

    first: int
    last: int
    place: Place


def at(declared: Declared) -> str:
    """Return the mark of a record; it belongs before the first character of its text."""
    place = declared.place
    return f"\0{place.file}:{place.line}:{place.column}\0"


def unmarked(text: str) -> str:
    """Return a text without its marks."""
    return _MARK.sub("", text)


def spans(text: str, offset: int = 0) -> list[Span]:
    """Return where the lines of a marked text come from.

    Args:
        text: With its marks.
        offset: How many lines will stand before it.
    """
    lines = text.split("\n")
    bare = [unmarked(line) for line in lines]
    found: dict[int, Place] = {}
    for number, line in enumerate(lines):
        if marks := _MARK.findall(line):
            file, row, column = marks[0].rsplit(":", 2)
            place = Place(file, int(row), int(column))
            found |= dict.fromkeys(range(number, _end(bare, number)), place)
    return _joined(found, offset + 1)


def _end(lines: Sequence[str], start: int) -> int:
    """Return the first line that does not hang on the one at `start`."""
    depth = _depth(lines[start])
    for number in range(start + 1, len(lines)):
        line = lines[number]
        if not line.strip() or _depth(line) <= depth:
            closes = _depth(line) == depth and line.strip().startswith(_CLOSING)
            return number + closes
    return len(lines)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _joined(found: dict[int, Place], offset: int) -> list[Span]:
    joined: list[Span] = []
    for number, place in sorted(found.items()):
        last = joined[-1] if joined else None
        if last and last.place == place and last.last == number + offset - 1:
            joined[-1] = last._replace(last=number + offset)
        else:
            joined.append(Span(number + offset, number + offset, place))
    return joined


def rows(found: Iterable[Span]) -> list[str]:
    """Return spans as source of the map's rows."""
    return [
        f'({s.first}, {s.last}, "{s.place.file}", {s.place.line}, {s.place.column}),' for s in found
    ]
