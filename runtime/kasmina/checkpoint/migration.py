"""Taking older checkpoints over: format 1 to 2, and one spec to another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from kasmina.checkpoint import v1
from kasmina.checkpoint.archiving import packed
from kasmina.checkpoint.contents import Contents, Restored, snapshot
from kasmina.checkpoint.errors import CheckpointError, Damaged, MigrationRefused, NoCheckpoint
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
        refused: what could not be taken over, converted or deleted, and why.
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
    for _, name in numbers_in(store.names()):
        try:
            old = v1.read(store.directory / name)
            if _take(store, old):
                taken.append(str(old.id))
            if remove:
                _remove(store, old, removed)
        except CheckpointError as error:
            refused.append(error)
    for id_ in reversed(store.ids()):
        try:
            changed = convert is not None and _convert(store, id_, convert, digest)
            (converted if changed else unchanged).append(str(id_))
        except NoCheckpoint:
            continue  # pruned meanwhile
        except CheckpointError as error:
            refused.append(error)
    return Migrated(
        tuple(taken), tuple(converted), tuple(unchanged), tuple(refused), tuple(removed)
    )


def _take(store: Store, old: v1.Old) -> bool:
    """Write a checkpoint of format 1 in this one; False where that was done before.

    Raises:
        MigrationRefused: another one, of the same number and with the same tensors, was taken over.
    """
    about, source = old.about, old.files[1].name
    with suppress(NoCheckpoint, Damaged):
        steps = store.load(old.id).manifest.migrations
        if any((s.what, s.source) == ("format", source) for s in steps):
            return False
        raise MigrationRefused(
            f"{old.files[0]}: has the number and the tensors of another one, which became {old.id}; "
            "move one of them to a directory of its own"
        )
    columns = {name: _numpy(block) for name, block in old.columns.items()}
    others = {name: _numpy(block) for name, block in old.others.items()}
    contents = Contents(
        state={"spec": about.spec, "digest": about.spec_digest, "columns": columns},
        parts={"tensors": others} if others else {},
        metadata={"torch_version": about.torch_version, "format_1": old.files[0].name},
        device=about.device,
    )
    step = Taken(what="format", source=source, result=str(FORMAT), blake3=old.blake3)
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
            created=manifest.created,
            migrations=(*manifest.migrations, step),
        )
        after_manifest, data = made.laid_out(manifest.parent)
        if manifest.data.packed is not None:
            after_manifest, data = packed(loaded.path, after_manifest, b"".join(data))
        store.write(made.id, after_manifest, data, replace=True)
    return True


def _contents(loaded: Loaded) -> Contents:
    return Restored(str(loaded.id), loaded.manifest, loaded.blocks, (), loaded).contents()


def _remove(store: Store, old: v1.Old, removed: list[str]) -> None:
    """Delete the two files of format 1, once what they became is known to be sound.

    The JSON file goes first: without it the other is no checkpoint any more.

    Raises:
        MigrationRefused: somebody uses one of them.
    """
    store.load(old.id)
    for path in old.files:
        if not store.delete(path):
            raise MigrationRefused(
                f"{path}: somebody reads it, so it was not deleted; {old.id} holds all of it, so "
                "it may be deleted by hand"
            )
        removed.append(path.name)


def _numpy(block: Any) -> Any:
    return restored({"$array": "it"}, {"it": block})
