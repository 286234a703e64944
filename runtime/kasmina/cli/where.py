"""`kasmina spec where`: from a generated line to the line of the YAML."""

from __future__ import annotations

from pathlib import Path

import kasmina_spec
from kasmina.cli.saying import say
from kasmina.cli.telling import told
from kasmina.errors import UsageError
from kasmina_generator.model import Place
from kasmina_generator.where import where as origin_of


def where(line: str, /) -> int:
    """Tell which line of the spec a generated line comes from.

    Args:
        line: a generated file and a line of it, as tracebacks name them: FILE:LINE.

    Returns:
        0; 1 where the line is the template's own and comes from no line of the spec.
    """
    file, number = _split(line)
    with told():
        origin = origin_of(file, number)
    if origin.edited:
        say(f"{file}: was edited by hand since it was built; lines may have moved")
    if origin.place is None:
        say(f"{file}:{number}: comes from the template, not from a line of the spec")
        return 1
    say(str(origin.place))
    if origin.shipped and (text := _declared(origin.place)):
        say(f"    {text}")
    return 0


def _split(line: str) -> tuple[Path, int]:
    file, _, number = line.rpartition(":")
    if not file or not number.isdecimal():
        raise UsageError(f"{line}: give a generated file and a line: FILE:LINE")
    return Path(file), int(number)


def _declared(place: Place) -> str:
    """Return the text at a place of a spec that Kasmina ships, "" of any other."""
    path = kasmina_spec.FOLDER / place.file
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return lines[place.line - 1].strip() if place.line <= len(lines) else ""
