"""Reads a stream on and on, past the loss of what was read."""

from __future__ import annotations

from kasmina.bus.client import FIRST, NEWEST, Delivery, MessageBusClient, position


async def behind(
    client: MessageBusClient, stream: str, after: str, *, count: int = 512, wait_s: float = 0.0
) -> tuple[list[Delivery], str]:
    """The entries behind an id, and the id to go on behind.

    A stream that ends before the id was lost, and what comes there may have older ids (a server's
    clock that went back): it is read from its beginning then.

    Args:
        client: the bus.
        stream: one that need not exist.
        after: an id, or `FIRST`.
        count: at most so many.
        wait_s: waits so long for a first one.

    Raises:
        BusError: the bus is away.
    """
    page = await client.read(stream, after=after, count=count, wait_s=wait_s)
    if page:
        return page, page[-1].id
    return page, await within(client, stream, after)


async def within(client: MessageBusClient, stream: str, after: str) -> str:
    """The id, or `FIRST` where the stream ends before it."""
    if after in (FIRST, NEWEST):
        return after
    last = (await client.info(stream)).last
    return FIRST if position(last) < position(after) else after
