"""What was asked of a run before its process began."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from kasmina.bus.client import MessageBusClient, position
from kasmina.bus.commands import CommandHandler
from kasmina.growth.alarms import Alarms

CATCH_UP_S = 0.002  # between two looks whether all that came before was read


async def forget(client: MessageBusClient, stream: str, handler: CommandHandler) -> None:
    """Take away what an earlier run of this name was asked."""
    last = (await client.info(stream)).last
    if position(last) > (0, 0):
        await client.trim(stream, before=last)
        await client.remove(stream, [last])
        handler.load_state_dict({"position": last, "seen": "", "done": []})


async def look_at(stream: str, handler: CommandHandler, alarms: Alarms) -> None:
    """Learn what is done again; tell where the bus holds other commands than the run knows."""
    if not await handler.look_at_earlier():
        alarms.sound(
            "warning",
            "commands lost",
            f"stream {stream!r} does not hold what this run had read of it before its checkpoint: "
            "the server has lost it, or is another one. What was asked since "
            f"{_when(handler.position)} may not be done, also where it was answered: ask again for "
            "what shall be, by the same id (`kasmina ctl ... --id ID`); nothing is done twice by it",
        )


def _when(entry: str) -> str:
    """When an entry came, by the server's clock."""
    try:
        came = datetime.fromtimestamp(position(entry)[0] / 1000, UTC)
    except (ValueError, OverflowError):  # somebody gave it an id that is no time
        return f"entry {entry}"
    return f"{came:%Y-%m-%d %H:%M:%S} UTC"


async def catch_up(handler: CommandHandler, within_s: float) -> None:
    """Let no step be made before it is known what is done again at which."""
    end = asyncio.get_running_loop().time() + within_s
    while not handler.caught_up and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(CATCH_UP_S)
