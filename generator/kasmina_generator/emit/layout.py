"""How generated text is laid out: literals, lines that fit, docstrings.

The layout is the one that `ruff format` would choose, for the forms that the templates use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

WIDTH = 100
STEP = "    "


def literal(value: float | bool | str | None) -> str:
    """Return a value as Python source."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
    return repr(value)


def names(values: Sequence[str], head: str = "", depth: int = 0, tail: str = "") -> str:
    """Return a tuple of names as Python source; see `call` for what stands around it."""
    quotes = [quoted(value) for value in values]
    inside = ", ".join(quotes) + ("," if len(quotes) == 1 else "")
    outer, inner = STEP * depth, STEP * (depth + 1)
    if len(f"{outer}{head}({inside}){tail}") <= WIDTH:
        return f"{head}({inside}){tail}"
    each = "".join(f"{inner}{name},\n" for name in quotes)
    return f"{head}(\n{each}{outer}){tail}"


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


# A condition as it is laid out: the text of one, or "and"/"or" with at least two conditions.
Condition = str | tuple[str, list["Condition"]]


def boolean(head: str, condition: Condition, depth: int = 1) -> list[str]:
    """Return `head condition` as lines that fit after `depth` indentations.

    Args:
        head: What stands before, e.g. "return ".
        condition: The condition.
        depth: Levels of indentation that the caller writes before each line.
    """
    flat = head + _flat(condition)
    if isinstance(condition, str) or len(STEP * depth + flat) <= WIDTH:
        return [flat]
    word, parts = condition
    if len(parts) == 2 and not isinstance(parts[1], str):  # the last parentheses are split first
        return [f"{head}{_operand(parts[0])} {word} (", *_inside(parts[1], depth), ")"]
    return [f"{head}(", *_inside(condition, depth), ")"]


def _inside(condition: tuple[str, list[Condition]], depth: int) -> list[str]:
    """Return what stands between parentheses, one level deeper: on one line, or on one each."""
    if len(STEP * (depth + 1) + _flat(condition)) <= WIDTH:
        return [STEP + _flat(condition)]
    word, parts = condition
    lines = _split("", parts[0], depth + 1)
    for part in parts[1:]:
        lines += _split(f"{word} ", part, depth + 1)
    return [STEP + line for line in lines]


def _split(head: str, operand: Condition, depth: int) -> list[str]:
    flat = head + _operand(operand)
    if isinstance(operand, str) or len(STEP * depth + flat) <= WIDTH:
        return [flat]
    return [f"{head}(", *_inside(operand, depth), ")"]


def _flat(condition: Condition) -> str:
    if isinstance(condition, str):
        return condition
    word, parts = condition
    return f" {word} ".join(map(_operand, parts))


def _operand(condition: Condition) -> str:
    return condition if isinstance(condition, str) else f"({_flat(condition)})"


def import_from(module: str, names: Sequence[str]) -> str:
    """Return an import in the order and layout of isort: constants first, then classes."""
    ordered = sorted(names, key=lambda name: (not name.isupper(), name))
    flat = f"from {module} import {', '.join(ordered)}"
    if len(flat) <= WIDTH:
        return flat
    return f"from {module} import (\n" + "".join(f"{STEP}{name},\n" for name in ordered) + ")"
