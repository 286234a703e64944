"""`kasmina spec`: check, build, show or copy the YAML that declares a lifecycle."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

import kasmina_spec
from kasmina.cli.saying import say, warn
from kasmina.cli.telling import existing, told
from kasmina.cli.watch import watch as keep_watch
from kasmina.errors import KasminaError, UsageError
from kasmina_generator import build as builder
from kasmina_generator.difference import compare
from kasmina_generator.difference.report import as_json, text
from kasmina_generator.emit.export import EXPORTS
from kasmina_generator.emit.files import apply
from kasmina_generator.emit.user import SUFFIX
from kasmina_generator.emit.wording import passes
from kasmina_generator.finding import SpecErrors, counted
from kasmina_generator.model import Spec
from kasmina_generator.prove.report import heading, summary
from kasmina_generator.reader import read_spec
from kasmina_generator.verify import check_spec, proved_spec

app = cyclopts.App(name="spec", help="Check, build, show or copy a spec.")
app.command("kasmina.cli.prove:prove", name="prove", help="Prove a spec in full, also by SPIN.")
app.command("kasmina.cli.where:where", name="where", help="Lead from a generated line to the YAML.")

_Switch = Annotated[bool, Parameter(negative=())]
_Format = Literal["table", "mermaid", "dot", "svg", "scxml", "promela", "kernels", "json"]


@app.command
def check(file: Path | None = None, /, *, strict: _Switch = False, verbose: _Switch = False) -> int:
    """Read a spec and prove it; every fault is told with its line and a way to fail.

    Args:
        file: the spec; without one, those that Kasmina ships.
        strict: what could not be proved, because z3 is missing or gave up, counts as a fault.
        verbose: tell every proved statement, what it was proved by, and the times.

    Returns:
        0, or 1 where there are findings, or with --strict anything unproved.
    """
    files = [existing(file)] if file else [kasmina_spec.LIFECYCLE, kasmina_spec.LIFECYCLE_V1]
    unproved = 0
    for each in files:
        with told():
            spec, proof = proved_spec(each)
        say(f"{each.name}: {heading(spec, proof)}")
        for line in summary(proof, everything=verbose):
            say(line)
        unproved += len(proof.unproved)
    return int(strict and unproved > 0)


@app.command
def build(
    file: Path | None = None,
    /,
    *,
    out: Path | None = None,
    templates: Path | None = None,
    check: _Switch = False,
    strict: _Switch = False,
    watch: _Switch = False,
) -> int:
    """Check a spec and write the Python package that it gives.

    Args:
        file: the spec; without one, those that Kasmina ships.
        out: directory of the package; it is needed with a file. Without both, the package that
            Kasmina itself uses is built.
        templates: directory of your own templates: NAME.EXT.jinja gives NAME.EXT in the package,
            filled with the same model as Kasmina's own.
        check: write nothing, but print what would change.
        strict: write nothing where something could not be proved, because z3 is missing or gave
            up; without it, that is told and the package is built.
        watch: build again after each change of the spec or a template, until Ctrl-C.

    Returns:
        0, or 1 where the spec has faults, or with --strict anything unproved, or where with
        --check the directory differs.
    """
    targets = _targets(file, out, templates)
    if watch and check:
        raise UsageError("--watch writes and --check does not; give one of them")
    if watch:
        return keep_watch(lambda: _sources(targets), lambda: _build(targets, strict=strict))
    return _build(targets, check=check, strict=strict)


def _sources(targets: list[builder.Target]) -> Iterator[Path]:
    """Yield the specs, what lies beside them and may be named by them, and the templates."""
    for target in targets:
        yield target.spec
        if target.templates is not None:
            yield from sorted(target.templates.rglob(f"*{SUFFIX}"))
        yield from sorted(target.spec.parent.glob("*.yaml"))


def _build(targets: list[builder.Target], *, check: bool = False, strict: bool = False) -> int:
    with told():
        planned = builder.plan(targets)
        for line in planned.unproved:
            warn(line)
        if strict and planned.unproved:
            count = counted(len(planned.unproved), "statement")
            raise KasminaError(f"{count} not proved; nothing is written under --strict")
        if not check:
            apply(planned.changes)
    changes = planned.changes
    for change in changes:
        say(
            str(change)
            if check
            else f"{'removed' if change.new is None else 'wrote'} {change.path}"
        )
    if not changes:
        say("nothing to do: every file is as the spec says")
    return int(check and bool(changes))


def _targets(file: Path | None, out: Path | None, templates: Path | None) -> list[builder.Target]:
    if file is None and templates is not None:
        raise UsageError(
            "--templates needs a spec and a directory: kasmina spec build FILE --out DIR"
        )
    if file is None:
        return builder.built_in_targets(out or _installed())
    if out is None:
        raise UsageError(f"{file}: say where to build it: kasmina spec build {file} --out DIR")
    return [builder.user_target(existing(file), out, templates)]


def _installed() -> Path:
    """Return the directory of the generated package, which need not be importable yet."""
    found = importlib.util.find_spec("kasmina_generated")
    if found is None or not found.submodule_search_locations:
        raise KasminaError(
            "the package kasmina_generated is not installed; name a directory: --out"
        )
    return Path(found.submodule_search_locations[0])


@app.command
def show(file: Path | None = None, /, *, format: _Format = "table", strict: _Switch = False) -> int:
    """Show a spec as a diagram, as a table of its edges, or as other programs read it.

    A machine with faults is shown too, for then a picture helps most; its faults go to standard
    error.

    Args:
        file: the spec; without one, the lifecycle that Kasmina uses.
        format: mermaid and dot print a diagram's source, svg the picture itself; scxml runs in any
            interpreter of that standard, promela in SPIN; kernels lists what is compiled for which
            kinds; json is the whole model.
        strict: end with 1 where the machine has faults.

    Returns:
        0; 1 where the file is no spec, or with --strict where it has faults.
    """
    with told():
        spec = read_spec(existing(file) if file else kasmina_spec.LIFECYCLE)
    findings = check_spec(spec)
    for finding in findings:
        warn(str(finding))
    if format == "table":
        Console(highlight=False).print(_table(spec))
    else:
        say(EXPORTS[format](spec).rstrip("\n"))
    return int(strict and bool(findings))


def _table(spec: Spec) -> Table:
    title = f"{spec.name} version {spec.version}: {spec.meaning}"
    table = Table(title=title, title_justify="left")
    for name in ("from", "on", "to"):
        table.add_column(name, no_wrap=True)
    table.add_column("passes")
    table.add_column("effects")
    for edge in spec.edges:
        text = passes(spec, edge).replace("`", "")
        table.add_row(edge.source, edge.event, edge.target, text, ", ".join(edge.effects))
    return table


@app.command
def diff(
    old: Path,
    new: Path,
    /,
    *,
    json: _Switch = False,
    fail_on: Literal["source", "table", "stored", "behaviour"] | None = None,
) -> int:
    """Tell what differs between two specs, what follows, and what becomes of stored rows.

    Each change has a class. source: words and places. table: what is generated changes, what it
    decides does not. stored: rows that were stored mean something else or cannot be read.
    behaviour: some step is another one. How a guard changed is proved, with values that show it.

    Args:
        old: the spec as it was.
        new: the spec as it is.
        json: print one JSON object instead.
        fail_on: end with 1 where a change of this class or a worse one is found.

    Returns:
        0; 1 by --fail-on; 2 where a file is missing or is no spec.
    """
    comparison = compare(_readable(old), _readable(new))
    if json:
        say(dumps(as_json(comparison), indent=2))
    else:
        for line in text(comparison):
            say(line)
    return int(fail_on is not None and comparison.reaches(fail_on))


def _readable(file: Path) -> Spec:
    """Return the spec in a file; it is read, not proved: an unsound one can be compared as well."""
    try:
        return read_spec(existing(file))
    except SpecErrors as error:
        raise UsageError(f"{file} is no spec that can be compared:\n{error}") from error


@app.command
def init(directory: Path, /) -> int:
    """Copy the spec that Kasmina uses, the files that it names and the schemas, for editing.

    Args:
        directory: where to; nothing in it is overwritten.
    """
    root = kasmina_spec.FOLDER
    sources = [
        kasmina_spec.LIFECYCLE,
        kasmina_spec.STATE,
        kasmina_spec.OBSERVATION,
        kasmina_spec.KERNELS,
        kasmina_spec.MESSAGES,
        kasmina_spec.LIFECYCLE_V1,  # the default spec declares a migration from it
        kasmina_spec.STATE_V1,
        kasmina_spec.LIFECYCLE_SCHEMA,
        kasmina_spec.STATE_SCHEMA,
        kasmina_spec.RECORDS_SCHEMA,
        kasmina_spec.KERNELS_SCHEMA,
        kasmina_spec.MESSAGES_SCHEMA,
    ]
    copies = {source: directory / source.relative_to(root) for source in sources}
    if taken := [str(copy) for copy in copies.values() if copy.exists()]:
        raise UsageError(f"{', '.join(taken)}: exists already; choose an empty or new directory")
    try:
        for source, copy in copies.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written: {error.strerror}") from error
    spec = copies[kasmina_spec.LIFECYCLE]
    say(
        f"copied the default spec to {directory}. Edit {spec}, then: kasmina spec build {spec} --out DIR"
    )
    return 0
