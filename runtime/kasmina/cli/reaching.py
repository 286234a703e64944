"""How the commands of this room reach a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from cyclopts import Parameter

from kasmina.bus.connecting import open_bus
from kasmina.bus.errors import BusError
from kasmina.cli.saying import warn
from kasmina.errors import UsageError

if TYPE_CHECKING:
    from kasmina.bus.client import MessageBusClient
    from kasmina.bus.signing import Verifier

T = TypeVar("T")
CLOSES_WITHIN_S = 0.5  # what was waited for is there by then, and nobody waits for the rest


@Parameter(name="*")
@dataclass(frozen=True)
class Reach:
    """Where the bus is.

    Attributes:
        bus: redis://USER:PASSWORD@HOST:PORT/DATABASE, rediss:// for TLS, unix:///path; or the
            environment's KASMINA_BUS.
    """

    bus: Annotated[str | None, Parameter(env_var="KASMINA_BUS")] = None


HERE = Reach()


def through(bus: str | None, work: Callable[[MessageBusClient], Awaitable[T]]) -> T:
    """Open the bus, do the work, and close it.

    Raises:
        UsageError: no URL was given.
        BusError: it names no bus, nobody answers, or it wants a password.
    """
    if bus is None:
        raise UsageError("give --bus URL, e.g. redis://localhost:6379, or set KASMINA_BUS")

    async def run() -> T:
        client = open_bus(bus)
        try:
            return await work(client)
        finally:
            await client.close(within_s=CLOSES_WITHIN_S)

    return asyncio.run(run())


def waits(error: BusError) -> None:
    """Say that the bus is away, and is waited for."""
    warn(f"waits for the bus: {error}")


def verifier(file: Path | None) -> Verifier | None:
    """What signs commands with the first key of a file, and proves answers by any of them."""
    from kasmina.bus.signing import Verifier, read_keys

    return None if file is None else Verifier(read_keys(file))
