"""One checkpoint as bytes: header, manifest, tensors, footer. `docs/checkpoints.md` says it in full.

    header    64 bytes, checked by 16 bytes of BLAKE3 of its own
    manifest  JSON, padded with spaces to a multiple of 64
    data      tensors in the safetensors layout
    footer    72 bytes: BLAKE3 of the data; BLAKE3 of header, manifest and that; an end mark

So every byte is under a digest, a listing reads no tensors, and a file is written front to back.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from kasmina.checkpoint import strict_json
from kasmina.checkpoint.compression import BadArchive, decompress
from kasmina.checkpoint.disk import read_at
from kasmina.checkpoint.errors import BadContents, Damaged, NewerFormat
from kasmina.checkpoint.manifest import FORMAT, Manifest, version_of
from kasmina.checkpoint.names import CheckpointId
from kasmina.checkpoint.tensors import BadTensors, Block, decode

MAGIC = b"\x89KSM\r\n\x1a\n"  # as PNG's: a transfer in text mode changes it
END = b"KSM-END\n"
MANIFEST_LIMIT = 1 << 26  # bytes
_FIELDS = struct.Struct("<8sHHIQQ16s")  # magic, format, needs, 0, manifest and data bytes, writer
_CHECK = 16
HEADER = _FIELDS.size + _CHECK
FOOTER = 32 + 32 + len(END)
_OTHERS = {  # what a file that is none of ours often is
    b"PK\x03\x04": "a zip archive, as torch.save writes them; it may hold a pickle and was not opened",
    b"\x80": "a pickle; it could run code and was not opened",
    b"\x28\xb5\x2f\xfd": "a bare zstandard stream; kasmina checkpoint archive keeps its own header",
    b"{": "JSON text",
}


@dataclass(frozen=True, slots=True)
class Head:
    """A verified header and manifest, and where the data lies."""

    manifest: Manifest
    start: int  # of the data
    blake3: bytes  # of the data


def header_and_manifest(manifest: Manifest) -> bytes:
    """What stands before the data.

    Raises:
        BadContents: the manifest is over `MANIFEST_LIMIT`.
    """
    text = strict_json.dumps(msgspec.to_builtins(manifest))
    text += b" " * (-len(text) % HEADER)
    if len(text) > MANIFEST_LIMIT:
        raise BadContents("metadata", f"{len(text)} bytes as JSON; legal are {MANIFEST_LIMIT}")
    writer = (version_of("kasmina") or "unknown").encode()[:16]
    fields = _FIELDS.pack(MAGIC, FORMAT, FORMAT, 0, len(text), manifest.data.bytes, writer)
    return fields + blake3(fields).digest(_CHECK) + text


def footer(head: bytes, data: bytes) -> bytes:
    """What stands behind the data, given all that stands before it and the data's BLAKE3."""
    return data + blake3(head).update(data).digest() + END


def read_head(file: int, size: int, path: Path) -> Head:
    """Read and verify everything but the data.

    Args:
        file: open for reading.
        size: of the file in bytes.
        path: where the file lies; its name says which checkpoint it must be.

    Raises:
        Damaged: with what is wrong.
        NewerFormat: the file is sound and needs a newer reader.
    """
    try:
        header = bytes(read_at(file, min(size, HEADER), 0))
        manifest_bytes, data_bytes = _lengths(header, path)
        if size != HEADER + manifest_bytes + data_bytes + FOOTER:
            raise Damaged(
                path,
                f"has {size} bytes, its header says {HEADER + manifest_bytes + data_bytes + FOOTER}",
            )
        text = bytes(read_at(file, manifest_bytes, HEADER))
        foot = bytes(read_at(file, FOOTER, size - FOOTER))
    except EOFError:
        raise Damaged(path, "was cut while it was read") from None
    value = foot[:32]
    if foot != footer(header + text, value):
        raise Damaged(path, "header, manifest or footer differ from their digest")
    manifest = _manifest(text, path)
    if manifest.data.bytes != data_bytes:
        raise Damaged(path, "header and manifest say different lengths of the data")
    return Head(manifest, HEADER + manifest_bytes, value)


def _lengths(header: bytes, path: Path) -> tuple[int, int]:
    """Bytes of manifest and data, once the header is sound and its format is ours."""
    if not header:
        raise Damaged(path, "is empty")
    for mark, what in _OTHERS.items():
        if header.startswith(mark):
            raise Damaged(path, f"is no checkpoint: it is {what}")
    if header[: len(MAGIC)] != MAGIC[: len(header)]:
        raise Damaged(path, "is no checkpoint: it does not begin with the mark of one")
    if len(header) < HEADER:
        raise Damaged(path, f"is cut: it has {len(header)} bytes, the header alone has {HEADER}")
    fields = header[: _FIELDS.size]
    if blake3(fields).digest(_CHECK) != header[_FIELDS.size :]:
        raise Damaged(path, "its header differs from its digest")
    _, written, needs, zero, manifest_bytes, data_bytes, writer = _FIELDS.unpack(fields)
    if needs > FORMAT:
        name = writer.rstrip(b"\0").decode("ascii", "replace")
        raise NewerFormat(path, needs, name, FORMAT)
    if written < FORMAT or needs < FORMAT or zero or manifest_bytes > MANIFEST_LIMIT:
        raise Damaged(path, f"its header is none of format {FORMAT}: format {written}")
    return manifest_bytes, data_bytes


def _manifest(text: bytes, path: Path) -> Manifest:
    try:
        manifest = msgspec.convert(strict_json.loads(text), Manifest)
    except (strict_json.NotStrict, msgspec.ValidationError, RecursionError) as error:
        raise Damaged(path, f"its manifest cannot be read: {error}") from None
    expected = CheckpointId.of_file(path.name)
    if expected is None or manifest.id != str(expected):
        raise Damaged(
            path,
            f"holds checkpoint {manifest.id[:40]!r}; it was renamed or exchanged, so give it its "
            "own name back",
        )
    return manifest


def read_data(file: int, head: Head, path: Path) -> memoryview:
    """Read and verify the bytes of the tensors, whatever their encoding.

    Raises:
        Damaged: with what is wrong.
    """
    data = head.manifest.data
    hasher = blake3()
    try:
        stored = read_at(file, data.bytes, head.start, hasher.update)
    except EOFError:
        raise Damaged(path, "was cut while it was read") from None
    if hasher.digest() != head.blake3:
        raise Damaged(path, "its tensors differ from their digest")
    if data.packed is None:
        return stored
    try:
        content = decompress(stored, data.packed.bytes)
    except BadArchive as error:
        raise Damaged(path, str(error)) from None
    if blake3(content).hexdigest() != data.packed.blake3:
        raise Damaged(path, "its tensors, decompressed, differ from their digest")
    return content


def blocks_in(data: memoryview, path: Path) -> dict[str, Block]:
    """The tensors in verified data; raises `Damaged`."""
    try:
        return decode(data)
    except BadTensors as error:
        raise Damaged(path, str(error)) from None
