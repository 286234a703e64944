"""What a run puts into a checkpoint, and what it gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kasmina.checkpoint.errors import BadContents, Damaged
from kasmina.checkpoint.manifest import (
    PRIORITIES,
    Column,
    Data,
    Manifest,
    Priority,
    Spec,
    Taken,
    now,
    version_of,
)
from kasmina.checkpoint.memory import room
from kasmina.checkpoint.names import CheckpointId
from kasmina.checkpoint.store import Loaded
from kasmina.checkpoint.tensors import Block, Buffer, encode
from kasmina.checkpoint.trees import BadTree, Flattened, restored

STATE = "state"  # the part that holds the state tensor's columns


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that a run needs to go on.

    Attributes:
        state: what `StateTensor.state_dict()` gives: `spec`, `digest`, and one array a column
            under `columns`; None for a run without seeds.
        parts: nested state dicts by name: host model with its pools, optimizer, random streams,
            data cursor. Arrays are numpy's or torch's; around them lists, tuples, sets, dicts,
            numbers, text, bytes. They come back equal in type and bits.
        architecture: what is needed to build the grown model again, without arrays.
        metadata: whatever else, without arrays: epoch, step, offset of the event log.
        device: where the run computes.
    """

    state: Mapping[str, Any] | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    architecture: Any = None
    metadata: Any = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint that is not laid out yet; its blocks are the arrays that were given."""

    id: CheckpointId
    manifest: Manifest  # its `data` and `parent` are not filled in
    blocks: Mapping[str, Block]

    def copied(self) -> Snapshot:
        """The same in memory of its own.

        Raises:
            BadContents: there is not so much memory.
        """
        whole = sum(len(block.data) for block in self.blocks.values())
        try:
            rest = room(whole)
        except OSError as error:
            raise BadContents("contents", f"there is no memory to copy {whole:,} bytes") from error
        blocks = {}
        for name, block in self.blocks.items():
            size = len(block.data)
            rest[:size] = block.data
            blocks[name] = Block(block.dtype, block.shape, rest[:size])
            rest = rest[size:]
        return Snapshot(self.id, self.manifest, blocks)

    def laid_out(self, parent: str | None = None) -> tuple[Manifest, list[Buffer]]:
        """The whole manifest, and the data piece by piece.

        Args:
            parent: id of the checkpoint that the run stood on before.

        Raises:
            BadContents: the table of tensors is too long.
        """
        data = encode(self.blocks)
        size = Data(bytes=sum(map(len, data)))
        return msgspec.structs.replace(self.manifest, data=size, parent=parent), data


@dataclass(frozen=True, slots=True)
class Restored:
    """A verified checkpoint.

    Attributes:
        id: which one.
        manifest: what it says of itself.
        blocks: its tensors as bytes, by name.
        skipped: what was wrong with newer ones; empty where the newest was intact.
    """

    id: str
    manifest: Manifest
    blocks: Mapping[str, Block]
    skipped: tuple[Damaged, ...]
    _loaded: Loaded = field(repr=False)

    def contents(self) -> Contents:
        """What was saved; arrays lie on the CPU, share no memory with each other, may be written.

        They use the memory of `blocks`, so those of a second call share it with the first's.

        Raises:
            Damaged: the file was written by somebody else, and its parts name what is not there.
        """
        manifest = self.manifest
        try:
            parts = restored(manifest.parts, dict(self.blocks))
            columns = parts.pop(STATE, {})
            architecture, metadata = restored([manifest.architecture, manifest.metadata], {})
        except (BadTree, RecursionError) as error:
            raise Damaged(self._loaded.path, f"its parts cannot be read: {error}") from None
        spec = manifest.spec
        state = (
            None
            if spec is None
            else {
                "spec": spec.name,
                "digest": spec.digest,
                "columns": columns,
            }
        )
        return Contents(state, parts, architecture, metadata, manifest.device)

    @property
    def report(self) -> str:
        """What was skipped and why, "" for nothing."""
        lines = [f"- {error}" for error in self.skipped]
        return "\n".join([f"went back to {self.id}, because:", *lines]) if lines else ""


def snapshot(
    contents: Contents,
    id_: CheckpointId,
    *,
    priority: Priority = "normal",
    created: str | None = None,
    migrations: tuple[Taken, ...] = (),
) -> Snapshot:
    """Take `contents` apart into named blocks and a manifest.

    Raises:
        BadContents: something that no checkpoint holds, with its place.
    """
    if not isinstance(contents, Contents):
        raise BadContents(
            "contents",
            f"a {type(contents).__name__}; give a state dict as Contents(parts={{'model': it}})",
        )
    if priority not in PRIORITIES:
        raise BadContents("priority", f"{priority!r}; legal are {', '.join(PRIORITIES)}")
    flat = Flattened()
    parts = _parts(contents, flat)
    architecture = flat.add("architecture", contents.architecture, arrays=False)
    metadata = flat.add("metadata", contents.metadata, arrays=False)
    manifest = Manifest(
        id=str(id_),
        created=created or now(),
        priority=priority,
        parent=None,
        kasmina=version_of("kasmina") or "unknown",
        torch=version_of("torch"),
        device=str(contents.device),
        spec=_spec(contents.state),
        schema=_schema(parts.get(STATE, {}), flat.blocks),
        architecture=architecture,
        metadata=metadata,
        parts=parts,
        migrations=migrations,
        data=Data(bytes=0),
    )
    return Snapshot(id_, manifest, flat.blocks)


def _parts(contents: Contents, flat: Flattened) -> dict[str, Any]:
    parts = {}
    if contents.state is not None:
        _check_state(contents.state)
        parts[STATE] = flat.add(STATE, dict(contents.state["columns"]))
    if not isinstance(contents.parts, Mapping):
        raise BadContents(
            "parts", f"a {type(contents.parts).__name__}, not a dict of parts by name"
        )
    for name, part in contents.parts.items():
        if not isinstance(name, str) or name.startswith("$") or name in parts:
            raise BadContents(f"part {name!r}", f"no name of a part; {STATE!r} is the state tensor")
        parts[name] = flat.add(name, part)
    return parts


def _check_state(state: Mapping[str, Any]) -> None:
    """Hold that a state is what `StateTensor.state_dict` gives: what is saved must be readable."""
    wanted = {"spec": str, "digest": str, "columns": Mapping}
    if not isinstance(state, Mapping) or state.keys() != wanted.keys():
        raise BadContents(
            STATE, f"not a dict of {', '.join(wanted)}, as StateTensor.state_dict gives"
        )
    for name, kind in wanted.items():
        if not isinstance(state[name], kind):
            raise BadContents(f"{STATE}[{name!r}]", f"a {type(state[name]).__name__}")


def _spec(state: Mapping[str, Any] | None) -> Spec | None:
    return None if state is None else Spec(name=state["spec"], digest=state["digest"])


def _schema(columns: Mapping[str, Any], blocks: Mapping[str, Block]) -> dict[str, Column]:
    schema = {}
    for name, marked in columns.items():
        tag = marked.get("$tensor") or marked.get("$array") if isinstance(marked, dict) else None
        if tag is None:
            raise BadContents(f"state[{name!r}]", "a column is one numpy array or torch tensor")
        schema[name] = Column(dtype=blocks[tag].dtype, shape=blocks[tag].shape)
    return schema
