"""Format 1, a reconstruction: what the earlier system wrote did not come down to us.

Its states and columns are those of `lifecycle_v1.yaml` and `state_v1.yaml`. A checkpoint is two
files: `checkpoint_000007.json` says `version`, `timestamp`, `torch_version`, `device`, `priority`
and the digest of the spec; `checkpoint_000007.safetensors` holds the four columns `state`,
`blueprint`, `epochs`, `strategy`, [seeds] each, and whatever else the run kept. There are no
checksums, so damage shows only where it breaks the layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from kasmina.checkpoint.disk import read_at, reading
from kasmina.checkpoint.errors import MigrationRefused
from kasmina.checkpoint.manifest import Priority
from kasmina.checkpoint.names import CheckpointId, numbers_in
from kasmina.checkpoint.strict_json import NotStrict, loads
from kasmina.checkpoint.tensors import BadTensors, Block, decode

VERSION = 1
COLUMNS = {"state": "I8", "blueprint": "I16", "epochs": "I16", "strategy": "I8"}
_LIMIT = 1 << 20  # bytes of the JSON file


class About(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON file."""

    version: int
    timestamp: str
    torch_version: str
    device: str
    priority: Priority
    spec: str
    spec_digest: str


@dataclass(frozen=True, slots=True)
class Old:
    """A checkpoint of format 1."""

    id: CheckpointId  # the one it will have: its number, and 8 digits of its digest
    files: tuple[Path, Path]  # JSON, tensors
    about: About
    columns: dict[str, Block]
    others: dict[str, Block]
    blake3: str


def read(path: Path) -> Old:
    """Read a checkpoint of format 1 by its JSON file.

    Raises:
        MigrationRefused: it is none, or is of another version.
    """
    tensors = path.with_suffix(".safetensors")
    about = _about(path, _bytes(path, _LIMIT))
    data = _bytes(tensors)
    try:
        blocks = decode(data)
    except BadTensors as error:
        raise MigrationRefused(f"{tensors}: {error}") from None
    columns = {name: blocks.pop(name) for name in COLUMNS if name in blocks}
    _check_columns(tensors, columns)
    ((number, _),) = numbers_in([path.name])
    value = blake3(data).hexdigest()
    return Old(CheckpointId(number, value[:8]), (path, tensors), about, columns, blocks, value)


def _about(path: Path, text: memoryview) -> About:
    try:
        given = loads(text)
        version = given.get("version") if isinstance(given, dict) else None
        if version != VERSION:
            raise MigrationRefused(f"{path}: says version {version!r}; this reader knows {VERSION}")
        return msgspec.convert(given, About)
    except (NotStrict, msgspec.ValidationError) as error:
        raise MigrationRefused(f"{path}: is no checkpoint of format 1: {error}") from None


def _check_columns(path: Path, columns: dict[str, Block]) -> None:
    found = {name: block.dtype for name, block in columns.items()}
    shapes = {block.shape for block in columns.values()}
    if found != COLUMNS or len(shapes) != 1 or len(next(iter(shapes))) != 1:
        given = {name: (b.dtype, list(b.shape)) for name, b in columns.items()}
        raise MigrationRefused(
            f"{path}: its columns are {given}; format 1 has {COLUMNS}, one number a seed each"
        )


def _bytes(path: Path, limit: int | None = None) -> memoryview:
    try:
        with reading(path) as file:
            size = path.stat().st_size
            if limit is not None and size > limit:
                raise MigrationRefused(f"{path}: has {size} bytes; legal are {limit}")
            return read_at(file, size, 0)
    except EOFError:
        raise MigrationRefused(f"{path}: was cut while it was read") from None
    except OSError as error:
        raise MigrationRefused(f"{path}: cannot be read: {error.strerror}") from error
