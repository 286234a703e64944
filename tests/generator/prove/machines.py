"""Small machines for one check each."""

from __future__ import annotations

from pathlib import Path

from kasmina_generator.model import Spec
from kasmina_generator.prove import Proof, prove
from tests.generator.specs import read

HEAD = """\
schema: kasmina/lifecycle@1
name: small
version: 1
meaning: A machine for one check.
initial: A
states:
  A: {code: 0, max_epochs: 3, meaning: First.}
  B: {code: 1, max_epochs: 2, meaning: Second.}
  END: {code: 2, terminal: true, meaning: The end.}
events:
  stop: {kind: command, urgent: true, priority: 0, meaning: Stop.}
  go: {kind: automatic, priority: 20, meaning: Go on.}
  late: {kind: automatic, priority: 10, meaning: Too late.}
context:
  x: {dtype: float32, unit: m, range: [0.0, 10.0], default: 0.0, nan: unknown, infinity: unknown,
      meaning: A length.}
  y: {dtype: float32, unit: m, range: [0.5, 10.0], default: 1.0, nan: 1.0, infinity: refuse,
      meaning: Another.}
limits:
  edge: {dtype: float32, default: 0.7, range: [0.1, 5.0], meaning: A threshold.}
  room: {dtype: int32, default: 1, range: [1, 9], meaning: Places.}
transitions:
  - {from: non_terminal, on: stop, to: END}
  - {from: A, on: go, to: B, guard: x >= edge}
  - {from: A, on: late, to: END, guard: timed_out}
  - {from: B, on: go, to: END, guard: timed_out}
"""


def machine(folder: Path, *changes: tuple[str, str], more: str = "") -> Spec:
    """Return the small machine with some changes; `more` is appended to the file."""
    text = HEAD + more
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return read(folder, text)


def proved(folder: Path, *changes: tuple[str, str], more: str = "", use_z3: bool = True) -> Proof:
    """Return the proof of the small machine with some changes."""
    return prove(machine(folder, *changes, more=more), use_z3=use_z3)


def said(proof: Proof) -> str:
    """Return all findings as they are printed."""
    return "\n".join(map(str, proof.findings))
