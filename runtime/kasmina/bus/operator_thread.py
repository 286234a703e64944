"""An operator for code that has no event loop, e.g. a training script."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import Future
from threading import Thread
from typing import Any, Self, TypeVar

from kasmina.bus.claims import BadClaim, ClaimStore
from kasmina.bus.client import FIRST, Delivery, MessageBusClient
from kasmina.bus.errors import BusClosed
from kasmina.bus.following import behind
from kasmina.bus.frames import BadHealth, HealthFrame
from kasmina.bus.health import MissingKeyframe
from kasmina.bus.names import streams_of
from kasmina.bus.operator import Alive, Answer, Operator
from kasmina.bus.signing import Signer, Verifier
from kasmina.bus.telemetry import TelemetryReader
from kasmina_generated.messages import types, wire
from kasmina_generated.messages.types import Envelope

T = TypeVar("T")
CLOSES_WITHIN_S = 10.0


class OperatorThread:
    """Commands runs and reads what they tell; its event loop has a thread of its own.

    >>> with OperatorThread(bus.peer()) as operator:  # doctest: +SKIP
    ...     asked = operator.ask(Pause(run="mine"))  # a future: the run must step to answer
    ...     for event in operator.events("mine"):
    ...         print(event.body)

    Args:
        client: the bus; closed with the operator.
        sign: signs commands.
        verify: takes only answers that it finds proved.
    """

    def __init__(
        self,
        client: MessageBusClient,
        *,
        sign: Signer | None = None,
        verify: Verifier | None = None,
    ) -> None:
        self.unreadable = 0  # entries that were passed over
        self._client, self._operator = client, Operator(client, sign=sign, verify=verify)
        self._claims = ClaimStore(client)
        self._readers: dict[str, TelemetryReader] = {}
        self._read: dict[str, str] = {}  # up to which entry, by stream
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="kasmina-operator", daemon=True)
        self._thread.start()

    def ask(
        self, command: types.Command, *, timeout_s: float = 60.0, id: str | None = None
    ) -> Future[Answer]:
        """Send a command; the future gives what became of it, or raises `NoAnswer`.

        Args:
            command: the message.
            timeout_s: how long to wait for it, also while the bus is away, seconds.
            id: asks for the same command as before, which is done once.
        """
        return self._begin(self._operator.ask(command, timeout_s=timeout_s, id=id))

    def runs(self) -> dict[str, Alive]:
        """The runs that were heard of, with their last signs of life; raises BusError."""
        return self._begin(self._operator.runs()).result()

    def events(self, run: str, *, wait_s: float = 0.0) -> list[Envelope]:
        """Events of a run that came since the last call, the oldest first.

        Args:
            run: its name.
            wait_s: waits so long for a first one.

        Raises:
            BusError: the bus is away.
        """
        return self._begin(self._events(streams_of(run).events, wait_s)).result()

    def health(self, run: str, *, wait_s: float = 0.0) -> list[HealthFrame]:
        """Frames of the run's sites that came since the last call, the oldest first.

        Args:
            run: its name.
            wait_s: waits so long for a first one.

        Raises:
            BusError: the bus is away.
        """
        return self._begin(self._frames(streams_of(run).health, wait_s)).result()

    def close(self) -> None:
        """Let go of the bus; who still waits for an answer is cancelled. Closing twice is fine."""
        if self._loop.is_closed():
            return
        self._begin(self._end()).result(CLOSES_WITHIN_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSES_WITHIN_S)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        if self._loop.is_closed():
            work.close()
            raise BusClosed("this operator was closed; open another one")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def _new(self, stream: str, wait_s: float) -> list[Delivery]:
        """All that a stream holds behind what was read of it."""
        found: list[Delivery] = []
        after = self._read.get(stream, FIRST)
        while True:
            page, after = await behind(self._client, stream, after, wait_s=0 if found else wait_s)
            found += page
            if not page:
                self._read[stream] = after
                return found

    async def _events(self, stream: str, wait_s: float) -> list[Envelope]:
        found = []
        for each in await self._new(stream, wait_s):
            try:
                found.append(await self._claims.read(each.payload))
            except (wire.MessageRefused, BadClaim):
                self.unreadable += 1
        return found

    async def _frames(self, stream: str, wait_s: float) -> list[HealthFrame]:
        reader = self._readers.setdefault(stream, TelemetryReader(self._claims))
        found: list[HealthFrame] = []
        for each in await self._new(stream, wait_s):
            try:
                found += await reader.read(each.payload)
            except (wire.MessageRefused, BadClaim, BadHealth, MissingKeyframe):
                self.unreadable += 1
        return found
