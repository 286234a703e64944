"""Writing a checkpoint's bytes: few calls, and a digest of exactly what was written."""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

from kasmina.checkpoint import memory
from kasmina.checkpoint.disk import Disk, write_all
from kasmina.checkpoint.frame import FOOTER, footer
from kasmina.checkpoint.tensors import Buffer


def write_checkpoint(disk: Disk, file: int, head: bytes, data: Sequence[Buffer]) -> None:
    """Write header and manifest, data, footer.

    All is copied before it is hashed and written, so that the digest is that of the file even if
    somebody changes an array meanwhile. What is small goes in one call: between any two calls the
    thread that trains may have to wait.
    """
    whole = len(head) + sum(map(len, data)) + FOOTER
    pieces = _Pieces(disk, file, min(whole, memory.PIECE))
    pieces.add(head)
    pieces.hash_from_here()
    for buffer in data:
        pieces.add(buffer)
    pieces.add(footer(head, pieces.digest()))
    pieces.flush()


class _Pieces:
    """Gathers bytes until they are worth a call."""

    def __init__(self, disk: Disk, file: int, size: int) -> None:
        self._disk, self._file = disk, file
        self._room = memoryview(bytearray(size))
        self._filled = self._hashed = 0
        self._hasher = blake3()

    def add(self, buffer: Buffer) -> None:
        rest = memoryview(buffer)
        while rest:
            taken = rest[: len(self._room) - self._filled]
            self._room[self._filled : self._filled + len(taken)] = taken
            self._filled, rest = self._filled + len(taken), rest[len(taken) :]
            if self._filled == memory.PIECE:
                self.flush()
                self._disk.hasten(self._file, memory.PIECE)

    def hash_from_here(self) -> None:
        self._hashed, self._hasher = self._filled, blake3()

    def digest(self) -> bytes:
        self._hash()
        return self._hasher.digest()

    def flush(self) -> None:
        self._hash()
        write_all(self._disk, self._file, self._room[: self._filled])
        self._filled = self._hashed = 0

    def _hash(self) -> None:
        self._hasher.update(self._room[self._hashed : self._filled])
        self._hashed = self._filled
