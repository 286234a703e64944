"""Signs of life of a run: to all who look for runs, and to whoever would be this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec import structs

from kasmina.bus.client import MessageBusClient
from kasmina.bus.errors import BusError
from kasmina.bus.lease import Lease, folder_of, place_of
from kasmina.bus.names import HEARTBEATS
from kasmina.bus.signing import Verifier
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import types, wire

KEPT = 1000  # signs of all runs that the bus keeps


class Signs:
    """The name of a run, and signs that it lives.

    Args:
        client: the bus.
        stream: of the run's lease.
        stamp: of this process.
        lease_s: how long the name stays its own without a sign, seconds.
        log: of the run; says in which folder it is.
        verify: signs those by which the name is held, and takes no others for real.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        stamp: Stamp,
        *,
        lease_s: float,
        log: Path | None,
        verify: Verifier | None,
    ) -> None:
        self.lease = Lease(client, stream, stamp, verify=verify)
        self.make: Callable[[], types.Heartbeat]  # how the run is; from any thread
        self._client, self._stamp, self._lease_s = client, stamp, lease_s
        self._folder, self._place = "" if log is None else folder_of(log), place_of(log)

    async def take_name(self) -> None:
        """Become the run; raises RunIsTaken where another process is."""
        await self.lease.take(self._beat)

    async def give(self) -> None:
        """Give one sign; an outage is for others to wait out.

        Raises:
            LeaseLost: another process is the run by now.
            BusError: the bus answered what no waiting mends.
        """
        beat = self._beat()  # both in one round trip
        done = await asyncio.gather(
            self.lease.keep(beat), self._tell_all(beat), return_exceptions=True
        )
        for error in done:
            if isinstance(error, BaseException) and not getattr(error, "transient", False):
                raise error

    async def end(self) -> None:
        """Give the last one: the name is free, and nobody need wait for a command."""
        beat = structs.replace(self._beat(), lease=0.0, ended=True)
        with suppress(BusError):  # the name is free after the lease in any case
            await self.lease.let_go(beat)
            await self._tell_all(beat)

    def _beat(self) -> types.Heartbeat:
        return structs.replace(
            self.make(), lease=self._lease_s, folder=self._folder, place=self._place
        )

    async def _tell_all(self, beat: types.Heartbeat) -> None:
        await self._client.publish(HEARTBEATS, wire.encode(self._stamp(beat)), keep=KEPT)
