"""A kernels file for the door of `tests.generator.specs`, and how to read it."""

from __future__ import annotations

from pathlib import Path

from kasmina_generator.kernels.model import KernelSet
from tests.generator.specs import DOOR, faults, read

FANS = """\
schema: kasmina/kernels@1
name: fans
version: 4
meaning: What the fans of a door compute.
states:
  mixing: {attribute: lamp, values: [lit, dark], meaning: It turns.}
  joint: {attribute: lamp, values: lit, meaning: Somebody adjusts it.}
placements:
  inline: {files: separate, modes: [replace, residual], out: bias, meaning: In the duct.}
dtypes: [float32, float16]
kinds:
  blade: {maps: {turn: bias, lean: no bias}, hidden: f(turn) * lean, options: {f: [relu, tanh]}, meaning: One.}
  vent: {elementwise: x * width, meaning: None turns.}
"""
WITH_FANS = f"{DOOR}kernels: fans.yaml\n"


def said(folder: Path, text: str, spec: str = WITH_FANS) -> list[str]:
    """Return what is said of the door with this kernels file."""
    (folder / "fans.yaml").write_text(text)
    return faults(folder, spec)


def kernels(folder: Path, text: str = FANS, spec: str = WITH_FANS) -> KernelSet:
    """Return what is read of a kernels file that is right."""
    assert said(folder, text, spec) == []
    found = read(folder, spec).kernels
    assert found is not None
    return found
