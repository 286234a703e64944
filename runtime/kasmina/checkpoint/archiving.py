"""Compressing a checkpoint in its place."""

from __future__ import annotations

from pathlib import Path

import msgspec
from blake3 import blake3

from kasmina.checkpoint.compression import compress, swells
from kasmina.checkpoint.errors import ArchiveRefused
from kasmina.checkpoint.manifest import Data, Manifest, Packed
from kasmina.checkpoint.names import CheckpointId
from kasmina.checkpoint.store import Store
from kasmina.checkpoint.tensors import Buffer


def archive(store: Store, id_: CheckpointId) -> Manifest:
    """Replace a checkpoint by its compressed form; an archive stays as it is.

    Raises:
        ArchiveRefused: it would compress more than a reader accepts.
        NoCheckpoint, Damaged, StoreFailed: it was left as it is, unless the message says otherwise.
    """
    with store.replacing(id_) as loaded:
        if loaded.manifest.data.packed is not None:
            return loaded.manifest
        manifest, data = packed(loaded.path, loaded.manifest, loaded.content)
        store.write(id_, manifest, data, replace=True)
        return manifest


def packed(path: Path, manifest: Manifest, content: Buffer) -> tuple[Manifest, list[Buffer]]:
    """A manifest and its data, compressed.

    Raises:
        ArchiveRefused: as above.
    """
    stored = compress(content)
    if swells(len(stored), len(content)):
        raise ArchiveRefused(
            f"{path}: {len(content)} bytes become {len(stored)}, which a reader would take for a "
            "bomb; it was left as it is"
        )
    inside = Packed(bytes=len(content), blake3=blake3(content).hexdigest())
    data = Data(bytes=len(stored), packed=inside)
    return msgspec.structs.replace(manifest, data=data), [stored]
