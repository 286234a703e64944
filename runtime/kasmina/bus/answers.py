"""Acknowledgements of commands: on their way to the bus, and read back after a kill."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from msgspec import structs

from kasmina.bus.client import LARGEST_PAYLOAD, MessageBusClient, just_before, position
from kasmina.bus.deduplication import MessageKey
from kasmina.bus.outages import Outages
from kasmina.bus.requests import Asked, Outcome
from kasmina.bus.signing import SignatureRefused, Verifier
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import (
    Acknowledgement,
    Applied,
    Envelope,
    Refused,
    Status,
)

_AT_ONCE = 512


class Answers:
    """Acknowledgements in their order; none is lost while the bus is away.

    Args:
        client: the bus.
        stream: where they go.
        stamp: of this process.
        run: name of the run.
        keep: acknowledgements that the stream keeps.
        outages: waits while the bus is away.
        verify: whose keys they are signed with; None leaves them unsigned.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        stamp: Stamp,
        run: str,
        *,
        keep: int,
        outages: Outages,
        verify: Verifier | None = None,
    ) -> None:
        self._client, self._stream, self._stamp, self._run = client, stream, stamp, run
        self._keep, self._outages, self._verify = keep, outages, verify
        self._unsent: deque[bytes] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._waking = self._stopping = False

    def __len__(self) -> int:
        """Those that the bus has not taken yet."""
        return len(self._unsent)

    def say(self, to: Asked, body: Acknowledgement) -> None:
        """Answer a message; one that no message can hold is answered by a refusal."""
        to_whom = {"asker": to.key.producer or None, "entry": to.entry, "digest": to.digest}
        body = structs.replace(body, **to_whom)
        try:
            payload = self._encoded(to, body)
        except wire.MessageRefused as error:
            detail = f"what became of it cannot be told: {error}"[:8192]
            refused = Refused(run=self._run, reason="failed", detail=detail)
            payload = self._encoded(to, structs.replace(refused, **to_whom))
        self._unsent.append(payload)

    def wake(self) -> None:
        """Let them be sent; from any thread, which pays for the first of several calls only."""
        if self._loop is not None and not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._woken)

    def stop(self) -> None:
        """Let `run` send what there is and return; from any thread."""
        self._stopping = True
        self.wake()

    async def run(self) -> None:
        """Send until `stop`.

        Raises:
            BusError: the bus answered what no waiting mends.
        """
        self._loop = asyncio.get_running_loop()
        while not self._stopping or self._unsent:
            if not self._unsent:
                await self._wake.wait()
                self._wake.clear()
                continue
            some = [self._unsent[at] for at in range(min(_AT_ONCE, len(self._unsent)))]
            await self._outages.through(partial(self._publish, some))
            for _ in some:
                self._unsent.popleft()

    async def since(self, entry: str) -> dict[Asked, Outcome]:
        """What was answered to commands since an entry of theirs; the last outcome of each.

        Where a key is known, only what it has signed counts. An answer names its command by
        producer, id and entry, so neither another producer's command of that id nor a copy of an
        old answer is taken for it.

        Raises:
            BusError: the bus is away.
        """
        found: dict[Asked, Outcome] = {}
        after = just_before(f"{position(entry)[0]}-0")
        while page := await self._client.read(self._stream, after=after):
            after = page[-1].id
            found |= self._outcomes(each.payload for each in page)
        return found

    def _outcomes(self, payloads: Iterable[bytes]) -> dict[Asked, Outcome]:
        found: dict[Asked, Outcome] = {}
        for payload in payloads:
            with suppress(wire.MessageRefused, SignatureRefused):
                read = wire.decode(payload)
                read = self._verify.opened(read) if self._verify else read
                body: Any = read.body
                if isinstance(body, Applied | Refused | Status) and body.run == self._run:
                    key = MessageKey(body.asker or "", read.correlation or "")
                    found[Asked(key, body.entry or "")] = body
        return found

    def _encoded(self, to: Asked, body: Acknowledgement) -> bytes:
        answer: Envelope = self._stamp(body, correlation=to.key.id or None, trace=to.trace)
        payload = wire.encode(self._verify.sign(answer) if self._verify else answer)
        if len(payload) > LARGEST_PAYLOAD:
            detail = f"it takes {len(payload)} bytes, and an entry holds {LARGEST_PAYLOAD}"
            raise wire.MessageRefused("illegal", detail, message_id=answer.id)
        return payload

    async def _publish(self, some: list[bytes]) -> None:
        await self._client.publish_many(self._stream, some, keep=self._keep)

    def _woken(self) -> None:
        self._waking = False  # first, so that what is added from here on wakes again
        self._wake.set()
