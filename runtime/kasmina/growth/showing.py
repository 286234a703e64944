"""Sends what a controller elsewhere decides by; the newest counts."""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np
from numpy.typing import NDArray

from kasmina.bus.claims import BadClaim, ClaimStore
from kasmina.bus.client import MessageBusClient
from kasmina.bus.errors import BusError
from kasmina.bus.signing import AROUND, Verifier
from kasmina.bus.stamping import Stamp
from kasmina.growth.controller import Observation
from kasmina.growth.telling import observed_of
from kasmina_generated.messages import wire

KEPT = 64  # observations that the stream keeps
AT_ONCE = 16  # that wait to be sent


class Showing:
    """Observations on their way from the training thread to the bus.

    Args:
        client: the bus.
        stream: of the observations.
        stamp: of this process.
        run: its name.
        verify: signs them, or the tickets for those that are too large for an entry.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        stamp: Stamp,
        run: str,
        *,
        verify: Verifier | None = None,
    ) -> None:
        self.dropped = 0
        self._verify = verify
        self._client, self._stream, self._stamp, self._run = client, stream, stamp, run
        self._claims = ClaimStore(client)
        self._seen: deque[tuple[Observation, NDArray[np.bool_]]] = deque(maxlen=AT_ONCE)

    def put(self, seen: Observation, mask: NDArray[np.bool_]) -> None:
        """Hand one over, which must not change any more; from any thread."""
        self.dropped += len(self._seen) == AT_ONCE
        self._seen.append((seen, mask))

    async def send(self) -> None:
        """Send all there are; one that the bus does not take now is worth nothing later."""
        while self._seen:
            message = await asyncio.to_thread(observed_of, self._run, *self._seen.popleft())
            try:
                payload = await self._claims.fit(self._stamp(message), self._stamp, room=AROUND)
                if self._verify is not None:
                    payload = wire.encode(self._verify.sign(wire.decode(payload)))
                await self._client.publish(self._stream, payload, keep=KEPT)
            except (BadClaim, BusError):
                self.dropped += 1
