"""Archives: zstandard with its checksum, and a decompression that cannot be made to swell."""

from __future__ import annotations

import zstandard

from kasmina.checkpoint.memory import room
from kasmina.checkpoint.tensors import Buffer

LEVEL = 3
RATIO_LIMIT = 1024  # content to archive; weights reach 1.2, a state of 10,000 idle seeds some 500
ALWAYS = 1 << 26  # content bytes that are legal at any ratio
_WINDOW_LIMIT = 1 << 27  # bytes; level 3 takes 2 MB


class BadArchive(ValueError):
    """Bytes that do not decompress to what was declared."""


def compress(content: Buffer) -> bytes:
    """One zstandard frame with content size and checksum."""
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(content)


def swells(stored: int, content: int) -> bool:
    """Whether so many content bytes from so many stored ones are more than a reader accepts."""
    return content > max(ALWAYS, RATIO_LIMIT * stored)


def decompress(stored: Buffer, content_bytes: int) -> memoryview:
    """Decompress to exactly `content_bytes`, and never hold more.

    `max_output_size` of zstandard does not stop a frame that declares its size, so the size is
    checked first, and the frame is then read through a stream into a buffer of that size.

    Raises:
        BadArchive: with what is wrong.
    """
    if swells(len(stored), content_bytes):
        raise BadArchive(
            f"would grow from {len(stored)} to {content_bytes} bytes; at most {RATIO_LIMIT} times "
            f"as much, or {ALWAYS} bytes, are accepted"
        )
    try:
        declared = zstandard.get_frame_parameters(bytes(stored[:64])).content_size
        if declared != content_bytes:
            raise BadArchive(f"its archive declares {declared} bytes and not {content_bytes}")
        return _fill(stored, content_bytes)
    except zstandard.ZstdError as error:
        raise BadArchive(f"its archive cannot be read: {error}") from None


def _fill(stored: Buffer, size: int) -> memoryview:
    content = room(size)
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).stream_reader(
        stored, read_across_frames=False
    )
    filled = 0
    while filled < size and (got := reader.readinto(content[filled:])):
        filled += got
    if filled < size or reader.read(1):
        raise BadArchive(f"its archive does not hold the {size} bytes that it declares")
    return content
