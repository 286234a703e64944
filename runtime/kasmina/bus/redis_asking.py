"""Commands and their replies: over the shared link, and on lines of those who read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions as redis_errors

from kasmina.bus.losses import Ledger
from kasmina.bus.redis_link import Link
from kasmina.bus.redis_reading import Lines
from kasmina.bus.redis_wire import Argument, is_no_group, pack, refusal

NAMED = 8  # keys, in a message: those of one run, and more


class Asker:
    """Sends commands; replies that are errors are counted.

    Args:
        link: that many tasks share.
        lines: for commands whose replies hold entries.
        ledger: counts "oom", "readonly" and "nogroup".
    """

    def __init__(self, link: Link, lines: Lines, ledger: Ledger) -> None:
        self.link, self.lines, self._ledger = link, lines, ledger

    async def ask(self, packed: bytes, count: int, name: str) -> list[Any]:
        """Return the replies; those that are errors stand for themselves."""
        replies = await self.link.ask(packed, count, name)
        for reply in replies:
            self.count(reply)
        return replies

    async def call(self, *commands: bytes, name: str, keys: Sequence[str] = ()) -> list[Any]:
        """Return the replies; raises the first that is an error."""
        replies = await self.ask(b"".join(commands), len(commands), name)
        self.raise_first(replies, name, *keys)
        return replies

    async def read(self, head: list[Argument], tail: list[Argument], wait_s: float = 0.0) -> Any:
        """Run a command that reads entries, and may wait; returns its reply, an error too."""
        if wait_s <= 0:
            reply = await self.lines.ask(pack(*head, *tail), str(head[0]))
        else:
            block: list[Argument] = ["BLOCK", max(1, round(wait_s * 1000))]
            reply = await self.lines.wait(pack(*head, *block, *tail), wait_s)
        self.count(reply)
        return reply

    def raise_first(self, replies: Sequence[Any], name: str, *keys: str) -> None:
        """Raise the first reply that is an error, as an error of ours that names the keys."""
        for reply in replies:
            if isinstance(reply, Exception):
                more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
                of = f" of {', '.join(map(repr, keys[:NAMED]))}{more}" if keys else ""
                raise refusal(reply, f"{name}{of}", self.link.server)

    def count(self, reply: Any) -> None:
        """Count a reply that is an error of a kind of its own."""
        if isinstance(reply, redis_errors.OutOfMemoryError):
            self._ledger.counters["oom"] += 1
        elif isinstance(reply, redis_errors.ReadOnlyError):
            self._ledger.counters["readonly"] += 1
        elif isinstance(reply, Exception) and is_no_group(reply):
            self._ledger.counters["nogroup"] += 1
