"""The smallest spec that is right, and ways to spoil it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kasmina_generator import Finding, SpecErrors, read_spec
from kasmina_generator.checks import check_structure
from kasmina_generator.model import Spec

HERE = Path(__file__).parent
MACHINES = HERE / "machines"

DOOR = """\
schema: kasmina/lifecycle@1
name: door
version: 1
meaning: A door with a spring.
initial: SHUT
attributes:
  lamp:
    meaning: the light above it
    values: {dark: off, lit: shines}
states:
  SHUT: {code: 0, lamp: dark, max_epochs: unbounded, meaning: Nobody passes.}
  OPEN: {code: 1, lamp: lit, min_epochs: 1, max_epochs: 9, meaning: People pass.}
  LOCKED: {code: 2, lamp: dark, terminal: true, meaning: For good.}
groups:
  usable: [SHUT, OPEN]
events:
  lock: {kind: command, urgent: true, priority: 0, meaning: Turn the key.}
  push: {kind: command, meaning: Somebody comes.}
  close: {kind: automatic, meaning: The spring pulls.}
context:
  wind: {dtype: float32, unit: m/s, range: [0, 50], default: 0, nan: 50, infinity: allowed,
         meaning: Wind at the door.}
  visitors: {dtype: int32, unit: people, range: [0, 99], default: 0, meaning: People waiting.}
  alarm: {dtype: bool, default: false, meaning: The bell rings.}
limits:
  gale: {dtype: float32, default: 20, range: [5, 40], meaning: Too much wind.}
  crowd: {dtype: int32, default: 5, range: [1, 50], meaning: Too many people.}
guards:
  calm: wind < gale
effects:
  ring: {meaning: Ring the bell.}
transitions:
  - {from: usable, on: lock, to: LOCKED}
  - {from: SHUT, on: push, to: OPEN, guard: calm, effects: [ring]}
  - {from: OPEN, on: close, to: SHUT, guard: timed_out}
capacities:
  passage: {states: OPEN, limit: crowd, order: visitors, meaning: Room to pass.}
recycle:
  - {from: LOCKED, to: SHUT, after_epochs: 3}
properties:
  - {name: can be locked, handles: {event: lock, in: usable}}
"""


def spoil(text: str, old: str, new: str) -> str:
    """Replace the one place where `old` stands in `text`."""
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times"
    return text.replace(old, new)


def write(folder: Path, text: str, name: str = "door.yaml") -> Path:
    """Write a spec into `folder` and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read(folder: Path, text: str) -> Spec:
    """Read a spec from its text."""
    return read_spec(write(folder, text))


def faults(folder: Path, text: str) -> list[str]:
    """Return the messages with which the reader refuses a text; none if it takes it."""
    try:
        read(folder, text)
    except SpecErrors as errors:
        return [str(finding) for finding in errors.findings]
    return []


def findings(folder: Path, text: str) -> list[Finding]:
    """Return what the structural checks find in a text that the reader takes."""
    return check_structure(read(folder, text))


def blocks(name: str) -> list[list[str]]:
    """Return the blocks of lines in a file beside this one, comments left out."""
    text = (HERE / name).read_text(encoding="utf-8")
    found = [block.split("\n") for block in text.strip("\n").split("\n\n")]
    return [block for block in found if not block[0].startswith("#")]


def changes(name: str) -> Iterator[pytest.ParameterSet]:
    """Yield (old text, new text, messages) for each block: `-` lines, `+` lines, messages."""
    for block in blocks(name):
        old = [line[1:] for line in block if line.startswith("-")]
        new = [line[1:] for line in block if line.startswith("+")]
        lines = "\n".join(block[len(old) + len(new) :])
        said = re.split(r"\n(?! )", lines) if lines else []  # a hint has a line of its own
        yield pytest.param("\n".join(old), "\n".join(new), said, id=" ".join(new).strip()[:40])
