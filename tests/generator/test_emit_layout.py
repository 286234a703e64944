"""Literals, docstrings and lines that fit."""

from __future__ import annotations

import ast
import math

import pytest

from kasmina_generator.emit.layout import (
    call,
    docstring,
    hexadecimal,
    import_from,
    literal,
    quoted,
    sentence,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (True, "True"),
        (None, "None"),
        (0.5, "0.5"),
        (math.inf, "math.inf"),
        (-math.inf, "-math.inf"),
        (math.nan, "math.nan"),
        ("a", '"a"'),
    ],
)
def test_literals(value: float | bool | str | None, text: str) -> None:
    """Each is Python source."""
    assert literal(value) == text


@pytest.mark.parametrize(
    "text",
    ["", "it's", 'a "word"', "both ' and \"", "back\\slash", "tab\tand\nline", "é ∞", "\x1b["],
)
def test_strings_come_back(text: str) -> None:
    """Whatever a meaning holds, its literal evaluates to it and needs no more escapes than it must."""
    source = quoted(text)
    assert ast.literal_eval(source) == text
    assert source.startswith("'") == (text.count('"') > text.count("'"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("idle", '"""Idle."""'),
        ("two\n  lines", '"""Two lines."""'),
        ('says "so"', '"""Says "so"."""'),
        ("ends in a \\", '"""Ends in a \\\\."""'),
        ('a """ in it', '"""A \'\'\' in it."""'),
        ("really?", '"""Really?"""'),
    ],
)
def test_docstrings(text: str, expected: str) -> None:
    """One line that nothing in it can end."""
    assert docstring(text) == expected
    ast.parse(expected)


def test_sentences() -> None:
    """A capital first and a stop last."""
    assert sentence("what  it\ndoes") == "What it does."
    assert sentence("") == "."


def test_calls_fit() -> None:
    """On one line, else the arguments on one line, else one on each."""
    assert call("f", ["a", "b"]) == "f(a, b)"
    assert call("f", ["a" * 50, "b" * 44], 0) == f"f({'a' * 50}, {'b' * 44})"
    assert call("func", ["a" * 50, "b" * 44], 0) == f"func(\n    {'a' * 50}, {'b' * 44}\n)"
    assert call("f", ["a" * 50, "b" * 50], 1, ",") == (
        f"f(\n        {'a' * 50},\n        {'b' * 50},\n    ),"
    )


def test_masks() -> None:
    """Upper-case digits, as the formatter wants them."""
    assert hexadecimal(0x1AF) == "0x1AF"


def test_imports_are_sorted() -> None:
    """Constants before classes; one on each line where they do not fit."""
    assert import_from(".x", ["State", "EDGES"]) == "from .x import EDGES, State"
    many = [f"Name{'x' * 20}{i}" for i in range(5)]
    assert import_from(".x", many).splitlines()[:2] == ["from .x import (", f"    {many[0]},"]
