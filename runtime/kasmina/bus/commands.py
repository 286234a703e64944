"""Takes commands off the bus for a training process, and answers each: accepted, then applied.

    stream -> read -> known already? -> legal? -> accepted -> waits -> taken -> applied

The loop of `run` reads and answers; the training thread takes and applies, and neither waits for
the other. The stream may be trimmed up to the `position` of the last durable checkpoint and no
further.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

from kasmina.bus.answers import Answers
from kasmina.bus.claims import BadClaim, ClaimStore
from kasmina.bus.client import Delivery, MessageBusClient, just_before, position
from kasmina.bus.docket import Docket
from kasmina.bus.limiter import RateLimiter
from kasmina.bus.outages import Outages
from kasmina.bus.requests import Check, CommandConfig, Request
from kasmina.bus.retry import DEFAULT_BACKOFF, Backoff
from kasmina.bus.signing import SignatureRefused, Verifier, unsealed
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import ClaimCheck, Envelope

__all__ = ["CommandConfig", "CommandHandler", "Request"]

_ROOM_S = 0.005  # between two looks whether there is room again


class CommandHandler(Docket):
    """Reads commands, keeps them until the training thread takes them, and answers.

    Args:
        client: the bus.
        stream: where commands come from.
        replies: where acknowledgements go.
        stamp: of this process.
        run: name of the run.
        check: says why a command is not legal, by what is known now; e.g. an `ActionMask`. The
            training thread may replace `handler.check` at any time.
        verify: takes commands out of their signatures, refuses what is not proved, and signs
            answers; without it signed and unsigned commands count alike.
        config: see `CommandConfig`.
        observe: hears of latencies, by name: "accepted" and "applied", in seconds since the
            command was made.
        clock: seconds since 1970.
        backoff: waits while the bus is away.
        rng: draws them.
        limiter: how fast commands are read; those of a flood wait in their stream.
        give_up: gets entries that cannot be read, and why.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        replies: str,
        stamp: Stamp,
        *,
        run: str,
        check: Check,
        verify: Verifier | None = None,
        config: CommandConfig | None = None,
        observe: Callable[[str, float], None] = lambda name, seconds: None,
        clock: Callable[[], float] = time.time,
        backoff: Backoff = DEFAULT_BACKOFF,
        rng: Random | None = None,
        limiter: RateLimiter | None = None,
        give_up: Callable[[Delivery, Exception], object] = lambda delivery, error: None,
    ) -> None:
        config = config or CommandConfig()
        self.outages = Outages(backoff, rng)
        answers = Answers(
            client, replies, stamp, run, keep=config.keep, outages=self.outages, verify=verify
        )
        super().__init__(
            run,
            answers,
            check=check,
            verify=verify,
            config=config,
            observe=observe,
            clock=clock,
        )
        self._client, self._stream = client, stream
        self._limiter, self._give_up = limiter, give_up
        self._claims = ClaimStore(client, clock=clock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None  # while it waits for entries
        self._stopping = False

    async def look_at_earlier(self) -> bool:
        """Learn what was asked, and answered, behind the position that was loaded; before `run`.

        What was answered as applied is done again, at the moment of the first time; what was
        refused stays so.

        Returns:
            Whether the stream still holds what had been read of it. Where it does not, what had
            come since may be lost; that is told once, and not again behind the next checkpoint.

        Raises:
            BusError: the bus is away.
        """
        self._earlier = position((await self._client.info(self._stream)).last)
        if not self.caught_up:
            self._again.know(await self._answers.since(self._position))
        if not self._seen:
            return True
        page = await self._client.read(self._stream, after=just_before(self._seen), count=1)
        there = [each.id for each in page] == [self._seen]
        with self._lock:
            self._seen = self._seen if there else ""
        return there

    async def run(self) -> None:
        """Read and answer until `stop`; then send the answers there are.

        Raises:
            BusError: the bus answered what no waiting mends.
        """
        answering = asyncio.create_task(self.answer())
        answering.add_done_callback(lambda task: self.stop())
        try:
            await self.read()
        finally:
            self.stop()
            self._answers.stop()
            await answering

    async def read(self) -> None:
        """Read until `stop`, the first part of `run`; may be called again where it has failed."""
        self._loop = asyncio.get_running_loop()
        try:
            while not self._stopping:
                await self._read_on()
        finally:
            if self._stopping:
                self._answers.stop()  # there will be no more

    async def answer(self) -> None:
        """Answer until all was read and answered, the other part; may be called again as well."""
        await self._answers.run()

    def stop(self) -> None:
        """Let `run` return; from any thread."""
        self._stopping = self.outages.ending = True
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._interrupt)

    async def _read_on(self) -> None:
        """Take what comes next."""
        while len(self._answers) > self._config.unsent and not self._stopping:
            await asyncio.sleep(_ROOM_S)
        life = self._life
        deliveries = await self._wait_for_more()
        for delivery in deliveries:
            await self._handle(delivery, life)
        if not deliveries and not self._stopping:
            self._earlier = (0, 0)  # the rest of it was trimmed
            await self.outages.through(self._look_back)
        if self._earlier <= position(self._read):
            self._again.know({})
        with self._lock:
            self._expire()
        self._answers.wake()

    async def _wait_for_more(self) -> list[Delivery]:
        """Read, until `stop` interrupts it."""
        reader = asyncio.current_task()
        assert reader is not None
        self._reader = reader
        try:
            return [] if self._stopping else await self.outages.through(self._next)
        except asyncio.CancelledError:
            if not self._stopping or reader.uncancel():
                raise
            return []
        finally:
            self._reader = None

    def _interrupt(self) -> None:
        reader, self._reader = self._reader, None  # once: a second one would be another's
        if reader is not None:
            reader.cancel()

    async def _next(self) -> list[Delivery]:
        return await self._client.read(
            self._stream,
            after=self._read,
            count=self._config.batch,
            wait_s=self._config.wait_s if position(self._read) >= self._earlier else 0.0,
        )

    async def _handle(self, delivery: Delivery, life: int) -> None:
        """Take one entry of the stream, if no checkpoint was restored since it was read."""
        await self._until_it_may_come(delivery)
        found = await self._message(delivery)
        with self._lock:
            if life != self._life:
                return
            self._read = self._seen = delivery.id
            self._open[delivery.id] = True
            if isinstance(found, Envelope):
                self._consider(delivery.id, found)
            else:
                self._refuse_unreadable(delivery.id, found)
        if isinstance(found, wire.MessageRefused | BadClaim):
            self._give_up(delivery, found)
        self._answers.wake()

    async def _until_it_may_come(self, delivery: Delivery) -> None:
        """What had come before the run went on waits for room, and what is new for its rate."""
        if self._is_earlier(delivery.id):
            while self.waiting >= self._config.earlier and not self._stopping:
                await asyncio.sleep(_ROOM_S)
        elif self._limiter is not None and not self._limiter.try_acquire():
            await self._limiter.acquire()

    async def _message(self, delivery: Delivery) -> Envelope | Exception:
        """What an entry holds, out of its claim-check and signature; or why it is not taken."""
        try:
            read = wire.decode(delivery.payload)
            if isinstance(read.body, ClaimCheck):
                read = await self.outages.through(lambda: self._claims.read(delivery.payload))
            return self._verify(read, delivery.id) if self._verify else unsealed(read)
        except (wire.MessageRefused, BadClaim, SignatureRefused) as error:
            return error

    async def _look_back(self) -> None:
        """Where the stream ends before what was read of it, it was lost: read from its beginning.

        Else what comes there would never be read: a server with a clock that went back gives it ids
        that are older. What was read before is known by its ids.
        """
        life, last = self._life, (await self._client.info(self._stream)).last
        with self._lock:
            if life == self._life and position(last) < position(self._read):
                self._begin_anew()
