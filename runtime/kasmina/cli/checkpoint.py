"""`kasmina checkpoint`: look at, check and tidy up a directory of checkpoints."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Mapping
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
    CheckpointError,
    CheckpointManager,
    Entry,
    Manifest,
    NewerFormat,
    NoCheckpoint,
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
    tags = {entry.id: _tag(entry.manifest) or "" for entry in entries}
    tagged = ["tag"] if any(tags.values()) else []
    columns = "created (UTC)", "priority", _number("size"), _number("seeds"), "spec"
    table = _table(_ID, *columns, *tagged)
    for entry in entries:
        table.add_row(*map(_cell, (*_row(entry), *([tags[entry.id]] * len(tagged)))))
    _tell(
        {
            "directory": str(manager.directory),
            "checkpoints": [_as_json(entry) for entry in entries],
        },
        table if entries else f"{manager.directory}: no checkpoints{manager.older_format()}",
        json,
    )
    return _tell_faults({str(entry.id): entry.fault for entry in entries}, json)


@app.command
def verify(directory: Path, id: str | None = None, /, *, json: _Switch = False) -> int:
    """Read every byte of the checkpoints and compare it with their digests.

    Args:
        directory: where they lie.
        id: one of them; without it, all.
        json: print one JSON object instead of a table.

    Returns:
        0, or 1 where one is damaged or cannot be read, and where there is none.
    """
    manager = _manager(directory)
    verdicts = manager.verify(id)
    if not verdicts:
        raise NoCheckpoint(f"{manager.directory}: there is no checkpoint{manager.older_format()}")
    table = _table(_ID, _number("size"), "")
    for verdict in verdicts:
        table.add_row(verdict.id, _size(verdict.bytes), _kind(verdict.fault) or "intact")
    found = [
        {"id": v.id, "bytes": v.bytes, "intact": v.fault is None, "fault": _text(v.fault)}
        for v in verdicts
    ]
    _tell({"directory": str(manager.directory), "checkpoints": found}, table, json)
    code = _tell_faults({verdict.id: verdict.fault for verdict in verdicts}, json)
    if not json:
        intact = sum(verdict.fault is None for verdict in verdicts)
        Console().print(f"\n{intact} of {len(verdicts)} intact")
    return code


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
    tensors = _table("tensor", "dtype", "shape", _number("bytes"))
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

    Returns:
        0, or 1 where one could not be deleted; the others are gone.
    """
    manager = _manager(directory)
    done = manager.prune(Retention(normal=normal, high=high), dry_run=dry_run)
    verb = "would delete" if dry_run else "deleted"
    lines = [f"{verb} {id_}" for id_ in done.deleted]
    lines += [f"in use, left: {id_}" for id_ in done.in_use]
    lines += [str(error) for error in done.failed]
    if done.last_good is None:
        lines += [f"{manager.directory}: no intact checkpoint, so there is nothing to delete"]
    else:
        lines += [f"{verb} {len(done.deleted)}, {done.freed:,} bytes; newest: {done.last_good}"]
    _tell({"dry_run": dry_run, **_plain(done)}, "\n".join(lines), json)
    return int(bool(done.failed))


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

    What fails is told, and the others are taken over all the same.

    Args:
        directory: where they lie.
        lifecycle: directory of the lifecycle to migrate to, where it is not the built-in one.
        keep_spec: only the format; the seeds' rows stay under the spec that stored them.
        remove: delete the files of format 1, once what they became was read back.
        json: print one JSON object instead of text.

    Returns:
        0, or 1 where something could not be taken over.
    """
    manager = _manager(directory)
    convert, digest = (None, None) if keep_spec else _conversion(lifecycle)
    done = manager.migrate(convert, digest=digest, remove=remove)
    lines = [f"taken over from format 1: {id_}" for id_ in done.taken]
    lines += [f"converted to the new spec: {id_}" for id_ in done.converted]
    lines += [f"removed {name}" for name in done.removed]
    lines += [f"refused: {error}" for error in done.refused]
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
        all: all but the newest intact one.
        json: print one JSON object instead of text.

    Returns:
        0, or 1 where one is damaged or could not be compressed; the others are archives.
    """
    manager = _manager(directory)
    if all == bool(ids):
        raise UsageError(
            "give the ids of the checkpoints, or --all for all but the newest; "
            f"kasmina checkpoint list {directory} shows them"
        )
    done: list[dict[str, Any]] = []
    refused: list[str] = []
    for id_ in _chosen(manager, ids):
        try:
            data = manager.archive(id_).data
        except CheckpointError as error:
            refused.append(str(error))
            line = f"refused: {error}"
        else:
            content = data.bytes if data.packed is None else data.packed.bytes
            done.append({"id": id_, "bytes": data.bytes, "content_bytes": content})
            line = f"{id_}: {_size(content)} of tensors in {_size(data.bytes)}"
        if not json:
            _tell({}, line, json)  # at once, so that it is known after Ctrl-C
    _tell({"archived": done, "refused": refused}, f"{len(done)} archived", json)
    return int(bool(refused))


def _chosen(manager: CheckpointManager, ids: tuple[str, ...]) -> list[str]:
    """Those that are to be archived, all of them there; without ids all but the newest intact."""
    there = [str(entry.id) for entry in manager.list()]
    if not ids:
        newest = manager.restore().id if there else None
        return [id_ for id_ in there if id_ != newest]
    for id_ in {*ids} - {*there}:
        manager.restore(id_)  # says what is wrong with it
    return list(dict.fromkeys(ids))


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
        return str(entry.id), "", _kind(entry.fault), _size(entry.bytes), "", ""
    return (
        str(entry.id),
        manifest.created.replace("T", " ")[:19],
        "archived" if entry.is_archived else manifest.priority,
        _size(entry.bytes),
        _seeds(manifest),
        "" if manifest.spec is None else manifest.spec.digest[:8],
    )


def _tag(manifest: Manifest | None) -> str | None:
    """What a checkpoint was called by whoever asked for it."""
    known = manifest.metadata if manifest and isinstance(manifest.metadata, dict) else {}
    tag = known.get("tag")
    return tag if isinstance(tag, str) else None


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
    return plain | {name: fields[name] for name in keep} | {"tag": _tag(manifest)}


def _plain(record: Any) -> dict[str, Any]:
    """A record of the store for JSON: errors as their text."""
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return {
        name: [str(each) for each in value] if isinstance(value, tuple) else value
        for name, value in fields.items()
    }


def _text(error: KasminaError | None) -> str | None:
    return None if error is None else str(error)


def _kind(error: KasminaError | None) -> str:
    if error is None:
        return ""
    return "newer" if isinstance(error, NewerFormat) else "damaged"


def _tell_faults(faults: Mapping[str, KasminaError | None], json: bool) -> int:
    """Say below a table what is wrong with which; returns the exit code."""
    lines = [f"{id_}: {getattr(e, 'what', e)}" for id_, e in faults.items() if e is not None]
    if lines and not json:
        _tell({}, "\n" + "\n".join(lines), json)
    return int(bool(lines))


def _table(*columns: Column | str) -> Table:
    """As narrow as it can be: a listing fits a terminal of 80 columns."""
    return Table(*columns, box=None, padding=(0, 1, 0, 0), pad_edge=False)


def _number(heading: str) -> Column:
    return Column(heading, justify="right", no_wrap=True)


def _size(count: int) -> str:
    """Bytes in three or four digits."""
    size, units = float(count), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 999.5 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{count} B" if unit == "B" else f"{size:.3g} {unit}"


def _tell(found: dict[str, Any], text: Table | str, json: bool) -> None:
    if json:
        _print(found)
    else:
        shown = _cell(text) if isinstance(text, str) else text
        Console(highlight=False).print(shown, soft_wrap=isinstance(text, str))


def _cell(text: str) -> Text:
    """What a file says, without markup, and with its control characters spelled out."""
    return Text("".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text))


def _print(found: dict[str, Any]) -> None:
    print(json_module.dumps(found))  # noqa: T201  one line, not wrapped
