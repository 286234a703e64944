"""`kasmina checkpoint`: look at, check and tidy up a directory of checkpoints."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from kasmina.checkpoint import (
    LATEST,
    BadDirectory,
    CheckpointManager,
    Entry,
    Manifest,
    NewerFormat,
    Retention,
)
from kasmina.errors import KasminaError, UsageError

app = cyclopts.App(name="checkpoint", help="Look at, check and tidy up saved runs.")

_KEPT = Retention()
FOLDER = "checkpoints"  # of a run directory
_ID = Column("id", no_wrap=True)
_Switch = Annotated[bool, Parameter(negative=())]
_Count = Annotated[int, Parameter(validator=Number(gte=0))]


@app.command(name="list")
def list_(directory: Path, /, *, json: _Switch = False) -> int:
    """List the checkpoints of a directory, the newest first; tensors are not read.

    Args:
        directory: where they lie, or a run directory that has them in `checkpoints`.
        json: print one JSON object instead of a table.

    Returns:
        0, or 1 where a header or manifest is damaged.
    """
    manager = _manager(directory)
    entries = manager.list()
    table = Table(_ID, "created (UTC)", "priority", "bytes", "seeds", "spec", "", box=None)
    for entry in entries:
        table.add_row(*map(_cell, _row(entry)))
    _tell(
        {
            "directory": str(manager.directory),
            "checkpoints": [_as_json(entry) for entry in entries],
        },
        table if entries else f"{manager.directory}: no checkpoints{manager.older_format()}",
        json,
    )
    return int(any(entry.manifest is None for entry in entries))


@app.command
def verify(directory: Path, id: str | None = None, /, *, json: _Switch = False) -> int:
    """Read every byte of the checkpoints and compare it with their digests.

    Args:
        directory: where they lie.
        id: one of them; without it, all.
        json: print one JSON object instead of a table.

    Returns:
        0, or 1 where one is damaged or cannot be read.
    """
    manager = _manager(directory)
    verdicts = manager.verify(id)
    table = Table(_ID, "bytes", "", box=None)
    for verdict in verdicts:
        table.add_row(*map(_cell, (verdict.id, f"{verdict.bytes:,}", _fault(verdict.fault))))
    bad = sum(verdict.fault is not None for verdict in verdicts)
    found = [
        {"id": v.id, "bytes": v.bytes, "intact": v.fault is None, "fault": _text(v.fault)}
        for v in verdicts
    ]
    _tell(
        {"directory": str(manager.directory), "checkpoints": found},
        table if verdicts else f"{manager.directory}: no checkpoints{manager.older_format()}",
        json,
    )
    if verdicts and not json:
        Console().print(f"\n{len(verdicts) - bad} of {len(verdicts)} intact")
    return int(bad > 0)


@app.command
def show(directory: Path, id: str = LATEST, /, *, json: _Switch = False) -> int:
    """Tell everything about one checkpoint, after verifying it.

    Args:
        directory: where it lies.
        id: which one; the newest intact one where none is given.
        json: print its manifest and tensors as one JSON object.
    """
    found = _manager(directory).restore(id)
    blocks = {n: {"dtype": b.dtype, "shape": list(b.shape)} for n, b in found.blocks.items()}
    manifest = msgspec.to_builtins(found.manifest)
    skipped = [str(error) for error in found.skipped]
    if json:
        _print({"manifest": manifest, "tensors": blocks, "skipped": skipped})
        return 0
    console = Console(highlight=False)
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(found.manifest).items():
        facts.add_row(name, _cell(value))
    console.print(facts)
    tensors = Table("tensor", "dtype", "shape", "bytes", box=None)
    for name, block in found.blocks.items():
        tensors.add_row(
            *map(_cell, (name, block.dtype, str(list(block.shape)), f"{len(block.data):,}"))
        )
    console.print("", tensors)
    if found.report:
        console.print(f"\n{found.report}", markup=False, soft_wrap=True)
    return 0


@app.command
def prune(
    directory: Path,
    /,
    *,
    normal: _Count = _KEPT.normal,
    high: _Count = _KEPT.high,
    dry_run: _Switch = False,
    json: _Switch = False,
) -> int:
    """Delete old checkpoints; the newest intact one, archives and those in use stay.

    Args:
        directory: where they lie.
        normal: how many of normal priority stay.
        high: how many of high priority stay.
        dry_run: only tell what would be deleted.
        json: print one JSON object instead of text.
    """
    manager = _manager(directory)
    done = manager.prune(Retention(normal=normal, high=high), dry_run=dry_run)
    verb = "would delete" if dry_run else "deleted"
    lines = [f"{verb} {id_}" for id_ in done.deleted]
    lines += [f"in use, left: {id_}" for id_ in done.in_use]
    if done.last_good is None:
        lines += [f"{manager.directory}: no intact checkpoint, so nothing may be deleted"]
    else:
        lines += [f"{verb} {len(done.deleted)}, {done.freed:,} bytes; newest: {done.last_good}"]
    _tell({"dry_run": dry_run, **_plain(done)}, "\n".join(lines), json)
    return 0


@app.command
def migrate(
    directory: Path,
    /,
    *,
    lifecycle: Path | None = None,
    keep_spec: _Switch = False,
    remove: _Switch = False,
    json: _Switch = False,
) -> int:
    """Take over checkpoints of format 1 and of older specs; each is replaced whole or not at all.

    Args:
        directory: where they lie.
        lifecycle: directory of the lifecycle to migrate to, where it is not the built-in one.
        keep_spec: only the format; the seeds' rows stay under the spec that stored them.
        remove: delete the files of format 1, once what they became was read back.
        json: print one JSON object instead of text.

    Returns:
        0, or 1 where something could not be taken over; it was left as it is.
    """
    manager = _manager(directory)
    convert, digest = (None, None) if keep_spec else _conversion(lifecycle)
    done = manager.migrate(convert, digest=digest, remove=remove)
    lines = [f"taken over from format 1: {id_}" for id_ in done.taken]
    lines += [f"converted to the new spec: {id_}" for id_ in done.converted]
    lines += [f"removed {name}" for name in done.removed]
    lines += [f"left as it is: {error}" for error in done.refused]
    changed = len({*done.taken, *done.converted})
    lines += [f"{changed} changed, {len(done.unchanged)} as they were, {len(done.refused)} refused"]
    _tell(_plain(done), "\n".join(lines), json)
    return int(bool(done.refused))


@app.command
def archive(directory: Path, /, *ids: str, all: _Switch = False, json: _Switch = False) -> int:
    """Compress checkpoints in their place; they keep their ids, and prune leaves them alone.

    Args:
        directory: where they lie.
        ids: which ones.
        all: all but the newest.
        json: print one JSON object instead of text.
    """
    manager = _manager(directory)
    if all == bool(ids):
        raise UsageError(
            "give the ids of the checkpoints, or --all for all but the newest; "
            f"kasmina checkpoint list {directory} shows them"
        )
    chosen = ids or [str(entry.id) for entry in manager.list()[1:] if entry.manifest]
    lines, done = [], []
    for id_ in chosen:
        data = manager.archive(id_).data
        content = data.bytes if data.packed is None else data.packed.bytes
        done.append({"id": id_, "bytes": data.bytes, "content_bytes": content})
        lines.append(f"{id_}: {content:,} bytes of tensors in {data.bytes:,}")
    _tell({"archived": done}, "\n".join(lines) or "nothing to archive", json)
    return 0


def _manager(directory: Path) -> CheckpointManager:
    """The manager of a directory that is there; looking at it changes nothing."""
    inside = directory / FOLDER
    place = inside if inside.is_dir() and not [*directory.glob("*.ckpt")] else directory
    try:
        return CheckpointManager(place, create=False, sweep=False)
    except BadDirectory as error:
        raise UsageError(str(error)) from None


def _conversion(lifecycle: Path | None) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], str]:
    """A function that brings state dicts under a lifecycle, and the lifecycle's digest."""
    import torch

    from kasmina.lifecycle import Lifecycle, migrate

    to = Lifecycle.default() if lifecycle is None else Lifecycle.from_directory(lifecycle)

    def convert(state: dict[str, Any]) -> dict[str, Any]:
        columns = {name: torch.as_tensor(column) for name, column in state["columns"].items()}
        return migrate({**state, "columns": columns}, to)

    return convert, to.digest


def _row(entry: Entry) -> tuple[str, ...]:
    manifest = entry.manifest
    if manifest is None:
        return str(entry.id), "", "", f"{entry.bytes:,}", "", "", _fault(entry.fault)
    spec = "" if manifest.spec is None else f"{manifest.spec.name} {manifest.spec.digest[:8]}"
    return (
        str(entry.id),
        manifest.created.replace("T", " ").removesuffix("Z"),
        manifest.priority,
        f"{entry.bytes:,}",
        _seeds(manifest),
        spec,
        "archived" if manifest.data.packed else "",
    )


def _seeds(manifest: Manifest) -> str:
    column = next(iter(manifest.schema.values()), None)
    return "" if column is None or not column.shape else f"{column.shape[0]:,}"


def _facts(manifest: Manifest) -> dict[str, str]:
    spec = manifest.spec
    return {
        "id": manifest.id,
        "created": manifest.created,
        "priority": manifest.priority,
        "parent": manifest.parent or "none",
        "written by": f"kasmina {manifest.kasmina}, torch {manifest.torch or 'none'}",
        "device": manifest.device,
        "spec": "none" if spec is None else f"{spec.name}, digest {spec.digest}",
        "seeds": _seeds(manifest) or "none",
        "parts": ", ".join(manifest.parts) or "none",
        "migrations": ", ".join(f"{t.what} {t.source} -> {t.result}" for t in manifest.migrations)
        or "none",
        "tensors": f"{manifest.data.bytes:,} bytes"
        + (
            "" if manifest.data.packed is None else f" of {manifest.data.packed.bytes:,}, zstandard"
        ),
        "metadata": json_module.dumps(manifest.metadata)[:200],
    }


def _as_json(entry: Entry) -> dict[str, Any]:
    manifest = entry.manifest
    plain = {"id": str(entry.id), "bytes": entry.bytes, "fault": _text(entry.fault)}
    if manifest is None:
        return plain
    keep = ("created", "priority", "parent", "kasmina", "torch", "device", "spec", "data")
    fields = msgspec.to_builtins(manifest)
    return plain | {name: fields[name] for name in keep}


def _plain(record: Any) -> dict[str, Any]:
    """A record of the store for JSON: errors as their text."""
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return {
        name: [str(each) for each in value] if isinstance(value, tuple) else value
        for name, value in fields.items()
    }


def _text(error: KasminaError | None) -> str | None:
    return None if error is None else str(error)


def _fault(error: KasminaError | None) -> str:
    if error is None:
        return "intact"
    kind = "newer format" if isinstance(error, NewerFormat) else "damaged"
    return f"{kind}: {getattr(error, 'what', error)}"


def _tell(found: dict[str, Any], text: Table | str, json: bool) -> None:
    if json:
        _print(found)
    else:
        Console(highlight=False).print(text, markup=False, soft_wrap=isinstance(text, str))


def _cell(text: str) -> Text:
    """What a file says, without markup, and with its control characters spelled out."""
    return Text("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def _print(found: dict[str, Any]) -> None:
    print(json_module.dumps(found))  # noqa: T201  one line, not wrapped
