"""Finds out what a server has lost: by a mark that goes with its data, and by its newest ids.

The mark is a key of ours with a random value. A server that was emptied (FLUSHALL), or that came
back without its data, has none, or another one that somebody else has set since. A server that came
back with data of a moment ago (an append-only file that is written once a second) still has it, but
lacks entries that it had given us ids for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from kasmina.bus.client import Loss, position
from kasmina.bus.losses import Ledger
from kasmina.bus.redis_link import Link
from kasmina.bus.redis_skim import ReplyTooLarge
from kasmina.bus.redis_wire import pack, table

MARK = "kasmina:bus:mark"
REMEMBERED = 4096  # newest ids of a stream, to say how many of them are gone


class Watch:
    """What one client remembers of a server's data."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._mark: bytes | None = None
        self._published: dict[str, deque[str]] = {}

    def published(self, stream: str, ids: Sequence[str]) -> None:
        """Remember ids that the server has given."""
        known = self._published.setdefault(stream, deque(maxlen=REMEMBERED))
        known.extend(ids)

    async def after_connecting(self, link: Link) -> None:
        """Look for losses on a connection that is new."""
        if not await self._marked(await link.talk(self._mark_commands(), 2)):
            return
        for stream, known in list(self._published.items()):
            if known:
                await self._compare_or_leave(link, stream, known)

    async def look(self, link: Link) -> None:
        """Look for losses at any other time."""
        await self._marked(await link.ask(self._mark_commands(), 2, "GET"))

    @staticmethod
    def _mark_commands() -> bytes:
        return pack("SET", MARK, uuid4().hex, "NX") + pack("GET", MARK)

    async def _marked(self, replies: list[Any]) -> bool:
        """Whether the server still has the data that it had when it was last looked at."""
        mark = replies[1]
        if isinstance(mark, Exception):
            return True  # no right to ask: nothing is known
        before, self._mark = self._mark, mark
        if before is None or mark == before:
            return True
        self._wiped()
        return False

    def _wiped(self) -> None:
        known = sum(map(len, self._published.values()))
        self._published.clear()
        detail = (
            "the server has lost all that it held: it was emptied (FLUSHALL), or came back without "
            "its data"
        )
        self._ledger.lost(Loss("wiped", None, None, known or None, detail))

    async def _compare_or_leave(self, link: Link, stream: str, known: deque[str]) -> None:
        try:
            await self._compare(link, stream, known)
        except ReplyTooLarge:  # of an entry of somebody's: nothing is known, on the next connection
            known.clear()
            raise

    async def _compare(self, link: Link, stream: str, known: deque[str]) -> None:
        """Look whether the server still has the newest entry that it has given us an id for."""
        newest = known[-1]
        ask = pack("XRANGE", stream, newest, newest), pack("XRANGE", stream, "-", "+", "COUNT", 1)
        there, first, about = await link.talk(b"".join([*ask, pack("XINFO", "STREAM", stream)]), 3)
        if there or isinstance(there, Exception) or isinstance(first, Exception):
            return
        last = (0, 0)
        if not isinstance(about, Exception):
            last = position(table(about)["last-generated-id"].decode())
        empty_or_younger = not first or position(first[0][0].decode()) > position(newest)
        if last >= position(newest) and empty_or_younger:
            return  # it was trimmed, as streams are
        left = await link.talk(pack("XREVRANGE", stream, newest, "-", "COUNT", 1), 1)
        at = position(left[0][0][0].decode()) if left[0] else (0, 0)
        gone = sum(position(entry_id) > at for entry_id in known)
        known.clear()
        detail = f"stream {stream!r} came back without the entries behind {at[0]}-{at[1]}"
        self._ledger.lost(Loss("rolled back", stream, None, gone, detail))
