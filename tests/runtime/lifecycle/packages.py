"""Generated packages of specs that the tests edit."""

from __future__ import annotations

from pathlib import Path

import kasmina_spec
from kasmina.lifecycle import Lifecycle
from kasmina_generator.build import build, user_target

MACHINES = Path(__file__).parents[2] / "generator" / "machines"


def built(spec: Path, directory: Path) -> Lifecycle:
    """Build a spec file into a directory and load what came out."""
    build([user_target(spec, directory)])
    return Lifecycle.from_directory(directory)


def edited(folder: Path, *changes: tuple[str, str]) -> Path:
    """A copy of the default spec in `folder`, with some texts replaced; each must occur."""
    for file in kasmina_spec.FOLDER.glob("*.yaml"):
        (folder / file.name).write_text(file.read_text())
    text = kasmina_spec.LIFECYCLE.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "lifecycle.yaml"
    path.write_text(text)
    return path
