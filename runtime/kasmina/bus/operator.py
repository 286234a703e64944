"""Asks runs on a bus: who is there, do this, and what became of it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import blake3

from kasmina.bus.client import FIRST, MessageBusClient, position
from kasmina.bus.errors import BusError, BusUnavailable
from kasmina.bus.following import behind
from kasmina.bus.names import HEARTBEATS, is_run_name, streams_of
from kasmina.bus.outages import Outages
from kasmina.bus.outbox import Outbox
from kasmina.bus.requests import digest_of
from kasmina.bus.retry import Backoff
from kasmina.bus.signing import SignatureRefused, Signer, Verifier, unsealed
from kasmina.errors import KasminaError
from kasmina_generated.messages import types, wire
from kasmina_generated.messages.types import VERSION, Envelope

SILENT = 5.0  # signs of life that a run may miss before it counts as away
LONGEST_EVERY_S = 60.0  # between two signs, whatever a sign says
RESEND_S = 30.0  # after which a command that nobody answers is sent again
MOST_LISTED = 20  # runs
LOOKED_AT = 5000  # signs of life, the newest
LOOKS_FOR_S = 1.5  # whether a command is still there, when time is out

T = TypeVar("T")
Answer = types.Applied | types.Refused | types.Status
_BACKOFF = Backoff(base_s=0.05, ceiling_s=1.0)


class NoSuchRun(KasminaError, LookupError):
    """A run of which nothing was heard on the bus."""


class NoAnswer(KasminaError, TimeoutError):
    """Nothing is known of what became of a command, whose `id` asks for the same again."""

    def __init__(self, message: str, id: str) -> None:
        super().__init__(message)
        self.id = id


class Alive(NamedTuple):
    """The last sign of life of a run."""

    beat: types.Heartbeat
    age_s: float

    @property
    def silent(self) -> bool:
        """Whether it has ended, or the next signs should have come by now."""
        return self.beat.ended or self.age_s > silent_after(self.beat)


def silent_after(beat: types.Heartbeat) -> float:
    """Seconds after a sign of life, without another one, when a run counts as away."""
    return SILENT * min(max(beat.every, 0.2), LONGEST_EVERY_S)


class Operator:
    """Sends commands and waits for their answers.

    A command is sent again whenever the bus has lost it, until its answer is there; the run carries
    it out once, as its id says.

    Args:
        client: the bus.
        sign: signs them.
        verify: takes only answers that it finds proved.
        on_outage: hears of each time that the bus goes away while an answer is waited for.
    """

    def __init__(
        self,
        client: MessageBusClient,
        *,
        sign: Signer | None = None,
        verify: Verifier | None = None,
        on_outage: Callable[[BusError], object] = lambda error: None,
    ) -> None:
        self.unproved = 0  # answers that were not taken
        self._client, self._sign, self._on_outage = client, sign, on_outage
        self._verify = verify
        self._trouble: BusError | None = None  # why the bus does not answer now
        # A signature is worth something for minutes only, so what was not lost is not sent again.
        self._outbox = Outbox(client, resend_s=RESEND_S if sign is None else math.inf)
        self._resending: asyncio.Task[None] | None = None
        self._asking = 0

    async def runs(self) -> dict[str, Alive]:
        """The runs that were heard of, by name, with their last signs of life.

        What no run can be called was not sent by one, and is passed over.
        """
        found: dict[str, Alive] = {}
        now = await self._client.time()  # by the clock of the ids, and no other machine's
        for each in await self._client.read_back(HEARTBEATS, count=LOOKED_AT):
            try:
                envelope = wire.decode(each.payload)
            except wire.MessageRefused:
                continue
            beat = envelope.body
            if isinstance(beat, types.Heartbeat) and is_run_name(beat.run):
                age = now - position(each.id)[0] / 1000
                found[beat.run] = Alive(beat, max(0.0, age))
        return found

    async def find(self, run: str | None, *, silent: bool = False) -> str:
        """The run of a name, or the only one that is alive.

        Args:
            run: its name.
            silent: where none is alive, the only one that was heard of will do.

        Raises:
            NoSuchRun: there is none, or several; the message lists them.
        """
        runs = await self.runs()
        listed = _listed(runs)
        if not runs:
            raise NoSuchRun(
                "no run was heard of on this bus; start one by `kasmina grow --bus URL`"
            )
        if run is not None and run not in runs:
            near = get_close_matches(run, list(runs), n=1, cutoff=0.4)
            guess = f"did you mean {near[0]!r}?" if near else f"there are: {listed}"
            raise NoSuchRun(f"no run {run!r} was heard of on this bus; {guess}")
        alive = [name for name, each in runs.items() if not each.silent]
        alive = alive or list(runs) * silent
        if run is None and len(alive) != 1:
            which = f"there are several runs: {_listed(alive)}" if alive else (
                f"no run is alive on this bus; heard of: {listed}"
            )  # fmt: skip
            raise NoSuchRun(f"{which}; name one by --run")
        return run or alive[0]

    async def within(self, timeout_s: float, call: Callable[[], Awaitable[T]]) -> T:
        """What a call gives that sends no command; a bus that goes away is waited for.

        Raises:
            BusUnavailable: it gave nothing in time.
            BusError: the bus answered what no waiting mends.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._through(call)
        except TimeoutError:
            why = f"the bus has not answered for {timeout_s:g} s, and no command was sent"
            raise BusUnavailable(f"{why}: {self._trouble}" if self._trouble else why) from None

    async def ask(
        self,
        command: types.Command,
        *,
        timeout_s: float,
        tell: Callable[[types.Acknowledgement], Any] = lambda answer: None,
        id: str | None = None,
    ) -> Answer:
        """Send a command and return what became of it; a bus that goes away is waited for.

        Args:
            command: the message.
            timeout_s: how long to wait for it, seconds.
            tell: hears that it was accepted.
            id: names the command; who asks by an id that was asked by before asks for the same
                command, which is done once. None makes a new one.

        Raises:
            NoAnswer: nothing came in time, or nothing more can come; the message names the id.
            BusError: the bus does not take it. It was not sent.
        """
        id = uuid4().hex if id is None else id
        streams = streams_of(command.run)
        # as its reader has it, to whom 7 is 7.0
        envelope = wire.decode(wire.encode(enveloped(command, id)))
        payload = wire.encode(envelope if self._sign is None else self._sign(envelope))
        accepted: list[types.Acknowledgement] = []
        sent = False

        def note(answer: types.Acknowledgement) -> None:
            if not accepted:
                tell(answer)
            accepted.append(answer)

        async with self._sending(id):
            try:
                async with asyncio.timeout(timeout_s):
                    after = await self._through(partial(self._newest, streams.replies))
                    await self._outbox.send_many({id: payload}, stream=streams.commands)
                    sent = True
                    if self._outbox.trouble is not None:
                        self._on_outage(self._outbox.trouble)
                    return await self._answer(streams.replies, after, envelope, note)
            except TimeoutError:
                why = f"run {command.run!r} has not answered for {round(timeout_s, 1):g} s"
                if self.unproved:
                    why += (
                        f"; {self.unproved} answers were not taken, as no key that is known here has "
                        "signed them: is it the run's key?"
                    )
                where = await self._where(id, streams.commands, accepted=bool(accepted))
                raise NoAnswer(f"{why}; {where}", id) from None
            except BusError as error:
                if not sent:
                    raise
                raise NoAnswer(f"{error}; command {id} was sent before; {_AGAIN}", id) from error

    async def _through(self, call: Callable[[], Awaitable[T]]) -> T:
        found = await Outages(_BACKOFF, tell=self._away).through(call)
        self._trouble = None
        return found

    def _away(self, error: BusError) -> None:
        self._trouble = error
        self._on_outage(error)

    async def _newest(self, stream: str) -> str:
        last = (await self._client.info(stream)).last
        return FIRST if last == "0-0" else last

    async def _answer(
        self,
        stream: str,
        after: str,
        asked: Envelope,
        tell: Callable[[types.Acknowledgement], Any],
    ) -> Answer:
        while True:
            read = partial(behind, self._client, stream, after, wait_s=0.5)
            page, after = await self._through(read)
            for each in page:
                answer = self._answer_in(each.payload, asked)
                if isinstance(answer, types.Accepted):
                    tell(answer)
                elif answer is not None:
                    return answer

    def _answer_in(self, payload: bytes, asked: Envelope) -> types.Acknowledgement | None:
        try:
            read = wire.decode(payload)
            if read.correlation != asked.id:
                return None
            answer = answer_to(asked.producer, unsealed(read))
            assert isinstance(asked.body, types.Command)
            if answer is not None and answer.digest not in (None, digest_of(asked.body)):
                return None  # to another command that was given the same id
            if answer is not None and self._verify is not None and not _is_about_keys(answer):
                self._verify.opened(read)
        except wire.MessageRefused:
            return None
        except SignatureRefused:
            self.unproved += 1
            return None
        return answer

    async def _where(self, id: str, stream: str, *, accepted: bool) -> str:
        """What is known of a command whose answer did not come."""
        try:
            async with asyncio.timeout(LOOKS_FOR_S):
                there = await self._outbox.holds(id)
        except (BusError, TimeoutError):
            why = f" ({self._trouble})" if self._trouble else ""
            return f"the bus is away{why}, and command {id} may have been sent; {_AGAIN}"
        if accepted and there:
            return f"it has accepted command {id}, which waits; {_AGAIN}"
        if there:
            return (
                f"command {id} waits in {stream!r} and will be carried out when the run goes on, if "
                f"neither it expires nor the bus loses it before; {_AGAIN}"
            )
        trouble = self._outbox.trouble
        why = f"does not take it: {trouble}" if trouble else "took none, or has lost it"
        return f"command {id} is not known to be in {stream!r}: the bus {why}; {_AGAIN}"

    @asynccontextmanager
    async def _sending(self, id: str) -> AsyncIterator[None]:
        """Send again what is lost, while anybody waits for an answer."""
        self._asking += 1
        if self._resending is None:
            self._resending = asyncio.create_task(self._outbox.run())
        try:
            yield
        finally:
            self._outbox.done(id)
            self._asking -= 1
            if not self._asking:
                task, self._resending = self._resending, None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


_AGAIN = "the same id (`kasmina ctl --id ID`) asks for it again, and it is done once"


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(list(names)[:MOST_LISTED]) + more


def enveloped(command: types.Command, id: str) -> Envelope:
    """A command in its envelope; the id names it wholly, so that a copy of it is known as one."""
    digest = blake3.blake3(id.encode(errors="surrogatepass")).hexdigest(length=16)
    return Envelope(
        version=VERSION,  # type: ignore[arg-type]  # generated together with its literal
        id=id,
        producer=f"operator-{digest}",
        sequence=0,
        time=time.time(),
        body=command,
    )


def _is_about_keys(answer: types.Acknowledgement) -> bool:
    """Whether it says that who asks and who answers know different keys, as no proof could."""
    return isinstance(answer, types.Refused) and answer.reason in ("unsigned", "forged")


def answer_to(asker: str, envelope: Envelope) -> types.Acknowledgement | None:
    """The acknowledgement in a message; None where it is for somebody else, or another message."""
    body = envelope.body
    if not isinstance(body, types.Acknowledgement) or body.asker not in (None, asker):
        return None
    return body
