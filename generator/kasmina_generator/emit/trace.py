"""Which line of a template a line of its text comes from; asked only where something has gone wrong.

The template is filled once more, from sources in which each line of plain text begins with a mark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import jinja2

from kasmina_generator.emit.source_map import unmarked

_MARK = re.compile("\1([^\1]*)\1")
_SEAM = "\2"  # keeps a brace of the text apart from the tag that follows it


class TemplateLine(NamedTuple):
    """A line of a template, counted from 1."""

    template: str
    line: int

    def __str__(self) -> str:
        return f"{self.template}:{self.line}"


def template_lines(
    environment: jinja2.Environment, template: str, variables: Mapping[str, object]
) -> list[TemplateLine]:
    """Return where each line of a filled template comes from, leading blank lines left out."""
    traced = environment.overlay(
        loader=jinja2.FunctionLoader(lambda name: _marked(environment, name)),
        trim_blocks=False,  # done already, see `_marked`
        lstrip_blocks=False,
    )
    text = unmarked(traced.get_template(template).render(variables)).replace(_SEAM, "")
    found: list[TemplateLine] = []
    last = TemplateLine(template, 1)
    for line in text.split("\n"):
        if marks := _MARK.findall(line):
            name, _, number = marks[0].rpartition(":")
            last = TemplateLine(name, int(number))
        if found or _MARK.sub("", line).strip():
            found.append(last)
    return found


def _marked(environment: jinja2.Environment, name: str) -> str:
    """Return a template's source with a mark where a line of plain text begins."""
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, name)
    out, fresh = [], True
    for number, token, value in environment.lex(source):
        if token == "block_end":
            out.append(value.rstrip("\n"))
            fresh = value.endswith("\n") or fresh
            continue
        if token == "data":
            lines = value.split("\n")
            marks = [f"\1{name}:{number + offset}\1" for offset in range(len(lines))]
            marks[0] = marks[0] if fresh else ""
            marks[-1] = marks[-1] if lines[-1] else ""  # else the line begins with a tag
            fresh = len(lines) > 1 and not lines[-1]
            value = "\n".join(mark + line for mark, line in zip(marks, lines, strict=True))
        elif token == "variable_begin":
            value = (f"\1{name}:{number}\1" if fresh else _SEAM) + value
            fresh = False
        elif token == "block_begin":
            value = _SEAM + value
        out.append(value)
    return "".join(out)
