"""Taking over pending entries from a server, whether it says which of them are gone or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from kasmina.bus.client import Delivery, Loss
from kasmina.bus.errors import AnswerTooLarge
from kasmina.bus.losses import Ledger
from kasmina.bus.redis_asking import Asker
from kasmina.bus.redis_reading import Entries
from kasmina.bus.redis_wire import deliveries, is_no_group, pack, pending_of

LOOKED_AT = 16  # entries at once, of which there may be none any more


class Claims:
    """The entries of groups that were given and not acknowledged.

    Args:
        asker: sends commands.
        entries: takes them out.
        ledger: hears of entries that were trimmed while they were pending.
        make_again: makes a group of ours that has vanished.
    """

    def __init__(
        self,
        asker: Asker,
        entries: Entries,
        ledger: Ledger,
        make_again: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._asker, self._entries = asker, entries
        self._ledger, self._make_again = ledger, make_again

    async def take_over(
        self, stream: str, group: str, consumer: str, idle_s: float, count: int
    ) -> list[Delivery]:
        """Give a consumer the oldest entries that have been pending for at least `idle_s`."""
        taken: list[Any] = []
        gone: list[str] = []
        cursor = b"0-0"
        least = max(0, round(idle_s * 1000))
        while (left := self._entries.at_once([stream], count) - len(taken)) > 0:
            command = pack("XAUTOCLAIM", stream, group, consumer, least, cursor, "COUNT", left)
            reply = await self._claimed(stream, group, command)
            came = self._entries.of(stream, reply[1]) or self._entries.too_large(reply[1])
            taken += [entry for entry in came if entry is not None and entry[1] is not None]
            lost = [] if len(reply) < 3 else [entry_id.decode() for entry_id in reply[2]]
            if None in came:  # before Redis 7 it does not say which are there no more
                lost += await self._not_there(stream, group, consumer, reply[0].decode())
            gone += lost
            cursor = reply[0]
            if cursor == b"0-0":
                break
        if gone:
            self._trimmed(stream, group, gone)
        self._ledger.counters["claimed"] += len(taken)
        return await self._with_attempts(stream, group, taken)

    async def pending(self, stream: str, group: str, *which: Any) -> list[Any]:
        """What XPENDING gives of single entries; nothing where there is no such group."""
        (reply,) = await self._asker.ask(pack("XPENDING", stream, group, *which), 1, "XPENDING")
        if isinstance(reply, Exception) and is_no_group(reply):
            return []
        self._asker.raise_first([reply], "XPENDING", stream)
        found: list[Any] = reply
        return found

    async def _claimed(self, stream: str, group: str, command: bytes) -> Any:
        reply = await self._asker.lines.ask(command, "XAUTOCLAIM")
        if isinstance(reply, Exception) and is_no_group(reply):
            self._asker.count(reply)
            await self._make_again(stream, group)
            reply = await self._asker.lines.ask(command, "XAUTOCLAIM")
        self._asker.raise_first([reply], "XAUTOCLAIM", stream)
        return reply

    async def _not_there(self, stream: str, group: str, consumer: str, before: str) -> list[str]:
        """Acknowledge this consumer's pending entries that are there no more; returns them.

        Looked at are those up to where the server has looked.
        """
        end = "+" if before == "0-0" else f"({before}"
        held = pending_of(await self.pending(stream, group, "-", end, 10_000, consumer))
        gone: list[str] = []
        for start in range(0, len(held), LOOKED_AT):
            some = held[start : start + LOOKED_AT]
            commands = [pack("XRANGE", stream, each.id, each.id) for each in some]
            with suppress(AnswerTooLarge):  # so it is there
                replies = await self._asker.call(*commands, name="XRANGE")
                gone += [each.id for each, entry in zip(some, replies, strict=True) if not entry]
        if gone:
            await self._asker.call(pack("XACK", stream, group, *gone), name="XACK")
        return gone

    def _trimmed(self, stream: str, group: str, gone: list[str]) -> None:
        ids = ", ".join(gone[:5])
        detail = f"entries were trimmed from {stream!r} while they were pending: {ids}"
        self._ledger.lost(Loss("trimmed", stream, group, len(gone), detail))

    async def _with_attempts(self, stream: str, group: str, entries: list[Any]) -> list[Delivery]:
        """Ask how often each entry was given; claims are rare."""
        commands = [
            pack("XPENDING", stream, group, entry_id, entry_id, 1) for entry_id, _ in entries
        ]
        replies = await self._asker.call(*commands, name="XPENDING") if commands else []
        counts = [pending_of(reply) for reply in replies]
        return [
            deliveries(stream, [entry], told[0].attempt if told else 2)[0]
            for entry, told in zip(entries, counts, strict=True)
        ]
