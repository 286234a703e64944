"""Replies that are larger than we take: nobody on the bus decides how much memory a reader needs.

What a server sends is parsed as it comes. A reply of more than `LARGEST_REPLY` is given up, with its
connection; of entries that were read alone what had come is kept, so that reading goes on behind
them, and the id of one that is too large by itself is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection, DefaultParser

LARGEST_REPLY = (8 << 20) + (1 << 16)  # bytes: eight of the largest entries, and some more


class ReplyTooLarge(redis_errors.ResponseError):
    """The connection cannot be used any more. `head` is what had come, if that was kept."""

    def __init__(self, head: bytes = b"") -> None:
        super().__init__(
            f"its answer has more than {LARGEST_REPLY} bytes, which nothing of ours has"
        )
        self.head = head


class BoundedParser(DefaultParser):  # type: ignore[misc,valid-type]  # chosen by redis-py
    """Gives up replies that are too large."""

    size = 0  # bytes that came since the reply was asked for

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next reply."""
        self.size = 0
        return await super().read_response(*args, **kwargs)

    async def read_from_socket(self) -> bool:
        """Take in what has come."""
        chunk = await self._stream.read(self._read_size)
        if not chunk:
            raise redis_errors.ConnectionError("the server has closed the connection")
        self.size += len(chunk)
        self._keep(chunk)
        if self.size > LARGEST_REPLY:
            raise ReplyTooLarge(self._head())
        self._reader.feed(chunk)
        return True

    def _keep(self, chunk: bytes) -> None:
        pass

    def _head(self) -> bytes:
        return b""


class SkimmingParser(BoundedParser):
    """Keeps the head of a reply that is too large; for one reply at a time on the connection."""

    def __init__(self, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self._chunks: list[bytes] = []

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next reply."""
        try:
            return await super().read_response(*args, **kwargs)
        finally:
            self._chunks.clear()

    def _keep(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def _head(self) -> bytes:
        return b"".join(self._chunks)


class Cut(list[Any]):
    """A list of which the end is missing."""


class _NoMore(Exception):
    """The head ends here."""


def skim(head: bytes) -> Any:
    """Return what the head of a reply says (RESP2); lists that do not end in it are `Cut`."""
    try:
        return _Skimmer(head).value()
    except _NoMore:
        return Cut()


class _Skimmer:
    def __init__(self, head: bytes) -> None:
        self._head, self._at = head, 0

    def value(self) -> Any:
        end = self._head.find(b"\r\n", self._at)
        if end < 0:
            raise self._no_more()
        kind, text = self._head[self._at : self._at + 1], self._head[self._at + 1 : end]
        self._at = end + 2
        if kind == b"*":
            return self._items(int(text))
        if kind == b"$":
            return self._bulk(int(text))
        return int(text) if kind == b":" else text

    def _bulk(self, size: int) -> bytes | None:
        if size < 0:
            return None
        start, self._at = self._at, self._at + size + 2
        if self._at > len(self._head):
            raise self._no_more()
        return self._head[start : start + size]

    def _items(self, count: int) -> list[Any] | None:
        if count < 0:
            return None
        found: list[Any] = []
        try:
            for _ in range(count):
                found.append(self.value())
        except _NoMore:
            return Cut(found)
        return found

    def _no_more(self) -> _NoMore:
        self._at = len(self._head)  # for whoever reads on
        return _NoMore()


def whole(entries: Sequence[Any]) -> Sequence[Any]:
    """Return the entries of a list that may be cut which came whole; only the last may not have."""
    return entries[:-1] if entries and _is_cut(entries[-1]) else entries


def first_of(entries: Sequence[Any]) -> list[Any]:
    """Return the entry of which a list holds a part only, without its fields; none without an id."""
    return [[each[0], []] for each in entries[:1] if each and _is_cut(each)]


def _is_cut(entry: Any) -> bool:
    return entry is not None and (
        isinstance(entry, Cut) or any(isinstance(part, Cut) for part in entry)
    )


async def reply_of(connection: AbstractConnection) -> Any:
    """Return the next reply; one that is an error stands for itself.

    Raises:
        ReplyTooLarge: the connection must be closed.
    """
    try:
        return await connection.read_response()
    except ReplyTooLarge:
        raise
    except redis_errors.ResponseError as error:
        return error
