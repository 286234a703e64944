"""How generated text is laid out: literals, lines that fit, docstrings.

The layout is the one that `ruff format` would choose, for the forms that the templates use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH = 100
STEP = "    "


def literal(value: float | int | bool | str | None) -> str:
    """Return a value as Python source."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
    return repr(value)


def hexadecimal(mask: int) -> str:
    """Return a bit mask as Python source."""
    return f"0x{mask:X}"


def quoted(text: str) -> str:
    """Return a string literal in the quotes that need fewer escapes, double ones if equal."""
    mark = "'" if text.count('"') > text.count("'") else '"'
    escaped = "".join(_escaped(character, mark) for character in text)
    return f"{mark}{escaped}{mark}"


def _escaped(character: str, mark: str) -> str:
    if character in {"\\", mark}:
        return f"\\{character}"
    return character if character.isprintable() else repr(character)[1:-1]


def docstring(text: str) -> str:
    """Return one sentence as a docstring that no quote or backslash in it can end."""
    body = sentence(text).replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{body} """' if body.endswith('"') else f'"""{body}"""'


def sentence(text: str) -> str:
    """Return the text on one line, with a capital first and a full stop last."""
    line = " ".join(text.split())
    line = line[:1].upper() + line[1:]
    return line if line.endswith((".", "!", "?")) else f"{line}."


def call(head: str, arguments: Sequence[str], depth: int = 0, tail: str = "") -> str:
    """Return `head(arguments)tail`: on one line, else the arguments on one, else one on each.

    Args:
        head: What stands before the parenthesis.
        arguments: Source of each argument.
        depth: Levels of indentation of the first line, which the caller writes.
        tail: What follows on the last line, e.g. a comma.
    """
    outer, inner = STEP * depth, STEP * (depth + 1)
    together = ", ".join(arguments)
    if len(f"{outer}{head}({together}){tail}") <= WIDTH:
        return f"{head}({together}){tail}"
    if len(f"{inner}{together}") <= WIDTH:
        return f"{head}(\n{inner}{together}\n{outer}){tail}"
    each = "".join(f"{inner}{argument},\n" for argument in arguments)
    return f"{head}(\n{each}{outer}){tail}"


def wrapped_boolean(
    head: str, word: str, operands: Sequence[tuple[str, list[str]]], depth: int = 1
) -> list[str]:
    """Return `head operand word operand ...` as lines that fit after `depth` indentations.

    Args:
        head: What stands before, e.g. "return ".
        word: "and" or "or".
        operands: The word inside an operand ("" for a leaf) and its parts.
        depth: Levels of indentation that the caller writes before each line.
    """
    texts = [f"({f' {inner} '.join(parts)})" if inner else parts[0] for inner, parts in operands]
    flat = f"{head}{f' {word} '.join(texts)}"
    if len(STEP * depth + flat) <= WIDTH:
        return [flat]
    inner, parts = operands[-1]
    if inner and len(operands) == 2:
        return [f"{head}{texts[0]} {word} (", *_each(inner, parts), ")"]
    return [f"{head}(", *_each(word, texts), ")"]


def _each(word: str, texts: Sequence[str]) -> list[str]:
    return [f"{STEP}{texts[0]}", *(f"{STEP}{word} {text}" for text in texts[1:])]


def import_from(module: str, names: Sequence[str]) -> str:
    """Return an import in the order and layout of isort: constants first, then classes."""
    ordered = sorted(names, key=lambda name: (not name.isupper(), name))
    flat = f"from {module} import {', '.join(ordered)}"
    if len(flat) <= WIDTH:
        return flat
    return f"from {module} import (\n" + "".join(f"{STEP}{name},\n" for name in ordered) + ")"
