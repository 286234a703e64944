"""Commands and their replies over the shared link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions as redis_errors

from kasmina.bus.losses import Ledger
from kasmina.bus.redis_link import Link
from kasmina.bus.redis_wire import is_no_group, refusal


class Asker:
    """Sends commands; replies that are errors are counted.

    Args:
        link: that many tasks share.
        ledger: counts "oom", "readonly" and "nogroup".
    """

    def __init__(self, link: Link, ledger: Ledger) -> None:
        self.link, self._ledger = link, ledger

    async def ask(self, packed: bytes, count: int, name: str) -> list[Any]:
        """Return the replies; those that are errors stand for themselves."""
        replies = await self.link.ask(packed, count, name)
        for reply in replies:
            self.count(reply)
        return replies

    async def call(self, *commands: bytes, name: str) -> list[Any]:
        """Return the replies; raises the first that is an error."""
        replies = await self.ask(b"".join(commands), len(commands), name)
        self.raise_first(replies, name)
        return replies

    def raise_first(self, replies: Sequence[Any], name: str) -> None:
        """Raise the first reply that is an error, as an error of ours."""
        for reply in replies:
            if isinstance(reply, Exception):
                raise refusal(reply, name, self.link.server)

    def count(self, reply: Any) -> None:
        """Count a reply that is an error of a kind of its own."""
        if isinstance(reply, redis_errors.OutOfMemoryError):
            self._ledger.counters["oom"] += 1
        elif isinstance(reply, redis_errors.ReadOnlyError):
            self._ledger.counters["readonly"] += 1
        elif isinstance(reply, Exception) and is_no_group(reply):
            self._ledger.counters["nogroup"] += 1
