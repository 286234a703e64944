"""From spec files to packages on the disk, or to what is wrong with either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import kasmina_spec
from kasmina_generator.emit.files import Change, apply, changes
from kasmina_generator.emit.render import render
from kasmina_generator.model import Spec
from kasmina_generator.verify import proved_spec

BUILT_IN_COMMAND = "kasmina spec build"


@dataclass(frozen=True, slots=True)
class Target:
    """A spec file, the directory of the package that it gives, and the command that builds it."""

    spec: Path
    directory: Path
    command: str
    templates: Path | None = None  # of the user's own


def built_in_targets(directory: Path) -> list[Target]:
    """Return the specs that Kasmina ships, as packages in and under `directory`."""
    return [
        Target(kasmina_spec.LIFECYCLE, directory, BUILT_IN_COMMAND),
        Target(kasmina_spec.LIFECYCLE_V1, directory / "lifecycle_v1", BUILT_IN_COMMAND),
    ]


def user_target(spec: Path, directory: Path, templates: Path | None = None) -> Target:
    """Return one spec file as a package; the command names no folder, so that it may be moved."""
    command = f"kasmina spec build {spec.name} --out DIR"
    more = " --templates DIR" if templates else ""
    return Target(spec, directory, command + more, templates)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a build changes, and what could not be proved of its specs; nothing is written yet."""

    changes: tuple[Change, ...]
    unproved: tuple[str, ...]  # lines that begin with the spec's name


def checked_spec(path: Path) -> Spec:
    """Return the spec in a file, read and checked.

    Raises:
        SpecErrors: Everything that is wrong with it.
    """
    return proved_spec(path)[0]


def plan(targets: Sequence[Target]) -> Plan:
    """Return what building the targets would change, and what is not proved of them.

    Raises:
        SpecErrors: A spec is wrong.
        TemplateError: A template of the user's is wrong.
        BuildError: A directory cannot be built into.
    """
    planned: list[Change] = []
    unproved: list[str] = []
    for target in targets:
        spec, proof = proved_spec(target.spec)
        outputs = render(spec, target.command, target.templates)
        planned += changes(target.directory, outputs)
        unproved += [f"{spec.name}: not proved: {line}" for line in proof.unproved]
    return Plan(tuple(planned), tuple(unproved))


def planned_changes(targets: Sequence[Target]) -> list[Change]:
    """Return what building the targets would change; see `plan`."""
    return list(plan(targets).changes)


def build(targets: Sequence[Target]) -> list[Change]:
    """Build the targets and return what was changed: everything, or with an error nothing.

    Raises:
        SpecErrors: A spec is wrong.
        TemplateError: A template of the user's is wrong.
        BuildError: A directory cannot be built into.
    """
    planned = planned_changes(targets)
    apply(planned)
    return planned
