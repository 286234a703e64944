"""Groups of consumers on a server: made, made again where they vanish, and given entries."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kasmina.bus.client import FIRST, Delivery, StreamInfo
from kasmina.bus.losses import Ledger, no_such_group, vanished
from kasmina.bus.redis_asking import Asker
from kasmina.bus.redis_reading import Entries
from kasmina.bus.redis_wire import Argument, groups_of, is_no_group, is_no_key, pack, table
from kasmina.bus.streams import NO_STREAM


class Groups:
    """Those of one client.

    Args:
        asker: sends commands.
        entries: takes entries out of replies.
        ledger: hears of groups that have vanished.
    """

    def __init__(self, asker: Asker, entries: Entries, ledger: Ledger) -> None:
        self._asker, self._entries, self._ledger = asker, entries, ledger
        self._ours: set[tuple[str, str]] = set()  # that this client has made

    async def create(self, stream: str, group: str, start: str) -> bool:
        """Make a group, and its stream, where they do not exist; say whether the group is new."""
        new = await self._create(stream, group, start)
        self._ours.add((stream, group))
        return new

    async def consume(
        self, streams: Sequence[str], group: str, consumer: str, count: int, wait_s: float
    ) -> list[Delivery]:
        """Give a consumer entries that the group has given to nobody yet."""
        count = self._entries.at_once(streams, count)
        head: list[Argument] = ["XREADGROUP", "GROUP", group, consumer, "COUNT", count]
        tail: list[Argument] = ["STREAMS", *streams, *(">" for _ in streams)]
        reply = await self._asker.read(head, tail, wait_s)
        if isinstance(reply, Exception) and is_no_group(reply):
            for stream in streams:
                await self.make_again(stream, group)
            reply = await self._asker.read(head, tail, wait_s)
        self._asker.raise_first([reply], "XREADGROUP", *streams)
        taken = self._entries.by_stream(reply)
        self._ledger.counters["delivered"] += len(taken)
        return taken

    async def info(self, stream: str) -> StreamInfo:
        """Return where a stream and its groups stand."""
        about, (groups,) = await asyncio.gather(  # the first holds two entries
            self._asker.lines.ask(pack("XINFO", "STREAM", stream), "XINFO"),
            self._asker.ask(pack("XINFO", "GROUPS", stream), 1, "XINFO"),
        )
        replies = [about, groups]
        if any(isinstance(reply, Exception) and is_no_key(reply) for reply in replies):
            return NO_STREAM
        self._asker.raise_first(replies, "XINFO", stream)
        about = table(replies[0])
        first, last = about["first-entry"], about["last-generated-id"].decode()
        oldest = first[0].decode() if first else None
        return StreamInfo(about["length"], oldest, last, groups_of(replies[1], last))

    async def make_again(self, stream: str, group: str) -> None:
        """Make a group of ours that has vanished, and tell of it."""
        (there,) = await self._asker.call(pack("EXISTS", stream), name="EXISTS")
        if (stream, group) not in self._ours:
            if group not in (await self.info(stream)).groups:
                raise no_such_group(stream, group)
        elif await self._create(stream, group, FIRST):
            self._ledger.lost(vanished(stream, group, wiped=not there))

    async def _create(self, stream: str, group: str, start: str) -> bool:
        command = pack("XGROUP", "CREATE", stream, group, start, "MKSTREAM")
        (reply,) = await self._asker.ask(command, 1, "XGROUP CREATE")
        if isinstance(reply, Exception) and str(reply).startswith("BUSYGROUP"):
            return False
        self._asker.raise_first([reply], "XGROUP CREATE", stream)
        return True
