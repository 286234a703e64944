"""Parts of a service that go on by themselves: one that fails is no matter of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from kasmina.bus.errors import BusClosed, BusError
from kasmina.bus.lease import LeaseLost
from kasmina.bus.retry import DEFAULT_BACKOFF
from kasmina.growth.alarms import Alarms

CALM_S = 60.0  # a part that served for so long begins with short waits when it fails


async def steadily(
    what: str,
    work: Callable[[], Awaitable[None]],
    alarms: Alarms,
    *,
    ending: Callable[[], bool],
) -> None:
    """Do a part, and begin it again where it failed.

    Args:
        what: its name.
        work: does it, until it returns; may be called again after each error.
        alarms: hear of them.
        ending: whether it is worth no further try.

    Raises:
        LeaseLost, BusClosed: as it were no use.
    """
    tries, rng, loop = 0, Random(), asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            return await work()
        except (LeaseLost, BusClosed):
            raise
        except Exception as error:  # whatever it is, it is no reason to stop the others
            if ending():
                raise
            told = f"{error}" if isinstance(error, BusError) else repr(error)
            alarms.sound("critical", what, f"{told}; it is tried again until it succeeds")
        tries = 1 if loop.time() - began > CALM_S else tries + 1
        await asyncio.sleep(DEFAULT_BACKOFF.wait(min(tries, 64), rng))
