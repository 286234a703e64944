"""The manifest: what a checkpoint says of itself, as JSON between header and tensors."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import msgspec

FORMAT = 2
Priority = Literal["normal", "high"]
PRIORITIES: tuple[Priority, ...] = ("normal", "high")


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """The lifecycle under which the seeds' rows were stored."""

    name: str
    digest: str


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """A column of the state tensor as it is stored."""

    dtype: str  # as safetensors writes it
    shape: tuple[int, ...]


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes that follow the manifest; their digest stands in the footer."""

    bytes: int
    packed: Packed | None = None  # None where they are the tensors as they are


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """The tensors inside of compressed bytes."""

    encoding: Literal["zstd"] = "zstd"
    bytes: int
    blake3: str


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """A migration that the checkpoint has gone through."""

    what: Literal["format", "spec"]
    source: str  # file name or spec digest before
    result: str  # format or spec digest after
    blake3: str  # of the tensors before


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All of a checkpoint but its tensors. Unknown fields of later writers are passed over."""

    format: int = FORMAT
    id: str
    created: str  # UTC to the millisecond, ISO 8601
    priority: Priority
    parent: str | None  # the checkpoint that the run stood on before
    kasmina: str
    torch: str | None
    device: str
    spec: Spec | None
    schema: dict[str, Column]
    architecture: Any  # what is needed to build the grown model again
    metadata: Any
    parts: dict[str, Any]  # nested containers, their tensors by name
    migrations: tuple[Taken, ...] = ()
    data: Data


def now() -> str:
    """The time in UTC, to the millisecond."""
    text = datetime.now(UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


@cache
def version_of(package: str) -> str | None:
    """The installed version of a package, found without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
