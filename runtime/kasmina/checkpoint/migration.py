"""Taking older checkpoints over: format 1 to 2, and one spec to another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from kasmina.checkpoint import v1
from kasmina.checkpoint.contents import Contents, Restored, snapshot
from kasmina.checkpoint.errors import (
    Damaged,
    MigrationRefused,
    NewerFormat,
    NoCheckpoint,
)
from kasmina.checkpoint.manifest import FORMAT, Taken
from kasmina.checkpoint.names import CheckpointId, numbers_in
from kasmina.checkpoint.store import Loaded, Store
from kasmina.checkpoint.trees import restored
from kasmina.errors import KasminaError

Convert = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration came to.

    Attributes:
        taken: ids of checkpoints of format 1 that are now checkpoints of this format.
        converted: ids of checkpoints whose rows are now those of the new spec.
        unchanged: ids of checkpoints that needed nothing.
        refused: what could not be taken over, and was left as it is.
        removed: files of format 1 that were deleted.
    """

    taken: tuple[str, ...]
    converted: tuple[str, ...]
    unchanged: tuple[str, ...]
    refused: tuple[KasminaError, ...]
    removed: tuple[str, ...]


def migrate(store: Store, *, convert: Convert | None, digest: str | None, remove: bool) -> Migrated:
    """Take over everything in a directory that is older; see `CheckpointManager.migrate`."""
    taken: list[str] = []
    converted: list[str] = []
    unchanged: list[str] = []
    refused: list[KasminaError] = []
    removed: list[str] = []
    for name in numbers_in(store.names()).values():
        try:
            old = v1.read(store.directory / name)
        except MigrationRefused as error:
            refused.append(error)
            continue
        if _take(store, old):
            taken.append(str(old.id))
        if remove:
            removed += _remove(store, old)
    for id_ in reversed(store.ids()):
        try:
            changed = convert is not None and _convert(store, id_, convert, digest)
            (converted if changed else unchanged).append(str(id_))
        except NoCheckpoint:
            continue  # pruned meanwhile
        except (Damaged, NewerFormat, MigrationRefused) as error:
            refused.append(error)
    return Migrated(
        tuple(taken), tuple(converted), tuple(unchanged), tuple(refused), tuple(removed)
    )


def _take(store: Store, old: v1.Old) -> bool:
    """Write a checkpoint of format 1 in this one; False where that was done before."""
    with suppress(NoCheckpoint, Damaged):
        store.load(old.id)
        return False
    about = old.about
    columns = {name: _numpy(block) for name, block in old.columns.items()}
    others = {name: _numpy(block) for name, block in old.others.items()}
    contents = Contents(
        state={"spec": about.spec, "digest": about.spec_digest, "columns": columns},
        parts={"tensors": others} if others else {},
        metadata={"torch_version": about.torch_version, "format_1": old.files[0].name},
        device=about.device,
    )
    step = Taken(what="format", source=old.files[1].name, result=str(FORMAT), blake3=old.blake3)
    made = snapshot(
        contents, old.id, priority=about.priority, created=about.timestamp, migrations=(step,)
    )
    store.write(made.id, *made.laid_out(), replace=True)
    return True


def _convert(store: Store, id_: CheckpointId, convert: Convert, digest: str | None) -> bool:
    """Bring the rows of a checkpoint under another spec, in its place; False where they are."""
    manifest = store.load(id_).manifest
    if manifest.spec is None or manifest.spec.digest == digest:
        return False
    with store.replacing(id_) as loaded:
        before = _contents(loaded)
        assert before.state is not None
        try:
            after = convert(dict(before.state))
        except KasminaError as error:
            raise MigrationRefused(f"{loaded.path}: {error}") from error
        if after["digest"] == manifest.spec.digest:
            return False
        step = Taken(
            what="spec",
            source=manifest.spec.digest,
            result=after["digest"],
            blake3=blake3(loaded.content).hexdigest(),
        )
        contents = Contents(
            after, before.parts, before.architecture, before.metadata, before.device
        )
        made = snapshot(
            contents,
            id_,
            priority=manifest.priority,
            parent=manifest.parent,
            created=manifest.created,
            migrations=(*manifest.migrations, step),
        )
        store.write(made.id, *made.laid_out(), replace=True)
    return True


def _contents(loaded: Loaded) -> Contents:
    return Restored(str(loaded.id), loaded.manifest, loaded.blocks, (), loaded).contents()


def _remove(store: Store, old: v1.Old) -> list[str]:
    """Delete the two files of format 1, once what they became is known to be sound.

    The JSON file goes first: without it the other is no checkpoint any more.
    """
    store.load(old.id)
    for path in old.files:
        store.delete(path)
    return [path.name for path in old.files]


def _numpy(block: Any) -> Any:
    return restored({"$array": "it"}, {"it": block})
