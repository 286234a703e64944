"""Takes commands off the bus for a training process, and answers each: accepted, then applied.

    stream -> read -> known already? -> legal? -> accepted -> waits -> taken -> applied

The loop of `run` reads and answers; the training thread takes and applies, and neither waits for
the other. A command counts as done when it was applied or refused. `position` is the entry before
which all are done: with the outcomes it goes into each checkpoint, a resumed run reads on from
there, and the stream may be trimmed up to that of the last durable checkpoint and no further.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from threading import Lock
from typing import Any, NamedTuple

import msgspec

from kasmina.bus.again import Again, Moment, answers_since
from kasmina.bus.claims import BadClaim, ClaimStore
from kasmina.bus.client import FIRST, Delivery, MessageBusClient, just_before, position
from kasmina.bus.deduplication import MessageDeduplicator, MessageKey
from kasmina.bus.limiter import RateLimiter
from kasmina.bus.outages import Outages
from kasmina.bus.retry import DEFAULT_BACKOFF, Backoff
from kasmina.bus.signing import SignatureRefused, Verifier, unsealed
from kasmina.bus.stamping import Stamp
from kasmina.bus.waiting import FairQueue
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import (
    Accepted,
    Acknowledgement,
    Applied,
    Checkpoint,
    ClaimCheck,
    Command,
    Envelope,
    Query,
    Refused,
    Status,
)

Outcome = Applied | Refused | Status
Check = Callable[[Command], Refused | None]

_ROOM_S = 0.005  # between two looks whether there is room again
PRIORITIES = {  # 0 goes first; what stops harm before what asks before what grows
    "Rollback": 0,
    "Cancel": 1,
    "Pause": 1,
    "Resume": 1,
    "Query": 2,
    "SetLimit": 4,
    "SetStrategy": 4,
    "Checkpoint": 4,
    "Germinate": 5,
}


class Request(NamedTuple):
    """An accepted command; give it back to `settle`."""

    key: MessageKey
    command: Command
    arrived: float  # when it was accepted, by the handler's clock
    entry: str  # its place in the stream
    life: int  # of the handler; another one begins when a checkpoint is restored
    told: Applied | None = None  # it is done again: what was answered the first time


@dataclass(frozen=True, slots=True)
class CommandConfig:
    """Settings of a handler.

    Attributes:
        window: commands whose outcome is remembered; a copy that comes later is done again.
        capacity: commands that wait at most; more are refused as overloaded.
        earlier: of those that had come before the run went on; more wait in their stream.
        stride: see `FairQueue`.
        timeout_s: after which a command that still waits is refused as expired, seconds.
        batch: entries that are read at a time.
        wait_s: how long an empty stream is waited for, seconds.
        keep: acknowledgements that their stream keeps.
    """

    window: int = 65_536
    capacity: int = 4096
    earlier: int = 65_536
    stride: int = 64
    timeout_s: float = 3600.0
    batch: int = 256
    wait_s: float = 0.5
    keep: int = 100_000


class CommandHandler:
    """Reads commands, keeps them until the training thread takes them, and answers.

    Args:
        client: the bus.
        stream: where commands come from.
        replies: where acknowledgements go.
        stamp: of this process.
        run: name of the run.
        check: says why a command is not legal, by what is known now; e.g. an `ActionMask`. The
            training thread may replace `handler.check` at any time.
        verify: takes commands out of their signatures and refuses what is not proved; without it
            signed and unsigned commands count alike.
        config: see `CommandConfig`.
        observe: hears of latencies, by name: "accepted" and "applied", in seconds since the
            command was made.
        clock: seconds since 1970.
        backoff: waits while the bus is away.
        rng: draws them.
        limiter: how fast commands are read; those of a flood wait in their stream.
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
    ) -> None:
        self._limiter = limiter
        self.check, self.held = check, False
        self.accepted = self.applied = self.refused = self.duplicates = self.unreadable = 0
        self.rewound = self.waiting = 0  # the latter: commands that were accepted and not taken
        self.outages = Outages(backoff, rng)
        self._verify = verify
        self._client, self._stream, self._replies, self._stamp = client, stream, replies, stamp
        self._run, self._config = run, config or CommandConfig()
        self._observe, self._clock = observe, clock
        self._claims = ClaimStore(client, clock=clock)
        self._lock = Lock()
        self._done = MessageDeduplicator[Outcome](self._config.window)
        self._queue: FairQueue[Request] = FairQueue(self._config.stride)
        # entries that are not done, in order, and whether they are in the stream
        self._open: OrderedDict[str, bool] = OrderedDict()
        self._keys: dict[MessageKey, float] = {}  # accepted and not done: when they were made
        self._again = Again()
        self._earlier = (0, 0)  # up to where entries had come before the run went on
        self._position = self._read = FIRST
        self._life = 0
        self._answers: deque[bytes] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None  # while it waits for entries
        self._wake = asyncio.Event()
        self._waking = self._stopping = False

    # ------------------------------------------------------------------ the training thread

    def take(self, count: int = 1 << 30, *, moment: Moment | None = None) -> list[Request]:
        """Take the next commands; never waits. None while the handler is held.

        `handler.held = True` while a checkpoint restores: what comes then is accepted and applied
        after it.

        Args:
            count: of new ones, at most.
            moment: milestones and steps of the run; what is done again is taken at the moments of
                the first time. None takes all of it.
        """
        with self._lock:
            if self.held:
                return []
            new = [self._queue.pop() for _ in range(min(count, len(self._queue)))]
            found = [*self._again.take(moment), *new]
            self._count()
            return found

    def settle(self, request: Request, outcome: Outcome) -> None:
        """Say what became of a command; its second acknowledgement is on its way then."""
        with self._lock:
            if request.life == self._life:  # else it is read, and taken, again
                known = request.told is not None and isinstance(outcome, Applied)
                self._settle(request.key, request.entry, outcome, known=known)
        self._wake_up()

    def state_dict(self) -> dict[str, Any]:
        """The position and the outcomes, for a checkpoint; plain values."""
        with self._lock:
            done = [
                (producer, id_, msgspec.msgpack.encode(outcome))
                for producer, id_, outcome in self._done.state_dict()
            ]
            return {"position": self._position, "done": done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was taken; what waits now is read, and answered, again."""
        decode = msgspec.msgpack.Decoder(Outcome).decode
        done = [(producer, id_, decode(outcome)) for producer, id_, outcome in state["done"]]
        with self._lock:
            self._life += 1
            self._done.load_state_dict(done)
            self._queue = FairQueue(self._config.stride)
            self._again.clear()
            self._open.clear()
            self._keys.clear()
            self._position = self._read = str(state["position"])
            self._count()

    @property
    def position(self) -> str:
        """Id of the last entry before which, itself included, all commands are done."""
        return self._position

    @property
    def caught_up(self) -> bool:
        """Whether all was read, or as much as may wait, that had come before the run went on."""
        return position(self._read) >= self._earlier or self.waiting >= self._config.earlier

    # ------------------------------------------------------------------ the event loop

    async def look_at_earlier(self) -> None:
        """Learn what was asked, and answered, behind the position that was loaded; before `run`.

        What was answered as applied is done again, at the moment of the first time; what was refused stays so. Where commands are signed answers
        are not, and everything is decided anew.

        Raises:
            BusError: the bus is away.
        """
        self._earlier = position((await self._client.info(self._stream)).last)
        if self._verify is None and not self.caught_up:
            self._again.know(await answers_since(self._client, self._replies, self._position))

    async def run(self) -> None:
        """Read and answer until `stop`; then send the answers there are.

        Raises:
            BusError: the bus answered what no waiting mends.
        """
        self._loop = asyncio.get_running_loop()
        answering = asyncio.create_task(self._answer())
        answering.add_done_callback(lambda task: self.stop())
        try:
            while not self._stopping:
                life = self._life
                deliveries = await self._wait_for_more()
                for delivery in deliveries:
                    await self._handle(delivery, life)
                if not deliveries and not self._stopping:
                    self._earlier = (0, 0)  # the rest of it was trimmed
                    await self.outages.through(self._look_back)
                if self._earlier <= position(self._read):
                    self._again.know({})
                self._expire()
        finally:
            self.stop()
            await answering

    def stop(self) -> None:
        """Let `run` return; from any thread."""
        self._stopping = self.outages.ending = True
        self._wake_up()
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        reader, self._reader = self._reader, None  # once: a second one would be another's
        if reader is not None:
            reader.cancel()

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

    async def _handle(self, delivery: Delivery, life: int) -> None:
        """Take one entry of the stream, if no checkpoint was restored since it was read."""
        found: Envelope | Exception
        if self._is_earlier(delivery.id):
            while self.waiting >= self._config.earlier and not self._stopping:
                await asyncio.sleep(_ROOM_S)
        elif self._limiter is not None and not self._limiter.try_acquire():
            await self._limiter.acquire()
        try:
            read = wire.decode(delivery.payload)
            if isinstance(read.body, ClaimCheck):
                read = await self.outages.through(lambda: self._claims.read(delivery.payload))
            found = self._verify(read, delivery.id) if self._verify else unsealed(read)
        except (wire.MessageRefused, BadClaim, SignatureRefused) as error:
            found = error
        with self._lock:
            if life != self._life:
                return
            self._read = delivery.id
            self._open[delivery.id] = True
            if isinstance(found, Envelope):
                self._consider(delivery.id, found)
            else:
                self._refuse_unreadable(delivery.id, found)
        self._wake.set()

    async def _next(self) -> list[Delivery]:
        return await self._client.read(
            self._stream,
            after=self._read,
            count=self._config.batch,
            wait_s=self._config.wait_s if position(self._read) >= self._earlier else 0.0,
        )

    def _is_earlier(self, entry: str) -> bool:
        return position(entry) <= self._earlier

    async def _look_back(self) -> None:
        """Where the stream ends before what was read of it, it was lost: read from its beginning.

        Else what comes there would never be read: a server with a clock that went back gives it ids
        that are older. What was read before is known by its ids.
        """
        life, last = self._life, (await self._client.info(self._stream)).last
        with self._lock:
            if life == self._life and position(last) < position(self._read):
                self._read = FIRST
                self.rewound += 1
                self._open = OrderedDict.fromkeys(self._open, False)
                self._close("")

    def _consider(self, entry: str, envelope: Envelope) -> None:
        """Accept or refuse a message; the lock is held."""
        key, command = MessageKey(envelope.producer, envelope.id), envelope.body
        if (known := self._done.get(key)) is not None:
            self.duplicates += 1
            self._say(key.id, known)
            self._close(entry)
        elif key in self._keys:
            self.duplicates += 1
            self._say(key.id, Accepted(run=self._run, waiting=len(self._queue)))
            self._close(entry)  # the copy before it keeps the position
        elif self._verify and self._verify.is_replayed(envelope, entry):
            detail = "it came before, and so long ago that what became of it is forgotten"
            self._settle(key, entry, self._refused("replayed", detail))
        elif not isinstance(command, Command):
            detail = f"{type(command).__name__} is no command"
            self._settle(key, entry, self._refused("malformed", detail))
        elif (told := self._again.told(key.id)) is not None:
            self._do_again(key, entry, command, envelope.time, told)
        elif (refused := self._refusal(command, entry)) is not None:
            self._settle(key, entry, refused)
        else:
            self._accept(key, entry, command, envelope.time)

    def _do_again(
        self, key: MessageKey, entry: str, command: Command, made: float, told: Outcome
    ) -> None:
        if isinstance(told, Applied) and not isinstance(command, Query | Checkpoint):
            self._keys[key] = made
            request = Request(key, command, self._clock(), entry, self._life, told)
            self._again.put(request, (told.milestone, told.step))
            self._count()
        else:
            self._done.remember(key, told)
            self._close(entry)

    def _refusal(self, command: Command, entry: str) -> Refused | None:
        if command.expires is not None and command.expires < self._clock():
            return self._refused("expired", "it came after its time")
        if self._is_earlier(entry) and len(self._again):
            return None  # what is legal then is not known yet
        if len(self._queue) >= self._config.capacity and not self._is_earlier(entry):
            return self._refused("overloaded", f"{len(self._queue)} commands wait: send it later")
        try:
            return self.check(command)
        except Exception as error:  # noqa: BLE001  the sender must hear of it
            return self._refused("failed", f"it cannot be checked: {error!r}")

    def _accept(self, key: MessageKey, entry: str, command: Command, made: float) -> None:
        given = command.priority
        priority = PRIORITIES[type(command).__name__] if given is None else given
        now = self._clock()
        request = Request(key, command, now, entry, self._life)
        if self._is_earlier(entry) and len(self._again):
            before = self._again.put(request, None)
        else:
            before = self._queue.put(request, priority)
        self._count()
        self._keys[key] = made
        self.accepted += 1
        self._observe("accepted", max(0.0, now - made))
        self._say(key.id, Accepted(run=self._run, waiting=before))

    def _settle(
        self, key: MessageKey, entry: str, outcome: Outcome, *, known: bool = False
    ) -> None:
        """Remember, and answer what is not known; the lock is held."""
        if entry not in self._open:  # the state was loaded meanwhile: it is read again
            return
        made = self._keys.pop(key, None)
        self._done.remember(key, outcome)
        if isinstance(outcome, Refused):
            self.refused += 1
        else:
            self.applied += 1
            self._observe("applied", max(0.0, self._clock() - (made or self._clock())))
        if not known:
            self._say(key.id, outcome)
        self._close(entry)

    def _count(self) -> None:
        """The training thread looks at a number after each step, which costs least."""
        self.waiting = len(self._queue) + len(self._again)

    def _close(self, entry: str) -> None:
        """An entry is done: the position moves up to the first one that is not."""
        self._open.pop(entry, None)
        first = next((each for each, there in self._open.items() if there), None)
        self._position = self._read if first is None else just_before(first)

    def _expire(self) -> None:
        """Refuse what has waited too long."""
        now = self._clock()
        with self._lock:
            if self.held:
                return
            for request in self._queue.remove(lambda each: self._is_late(each, now)):
                detail = f"nobody took it for {now - request.arrived:.3g} s"
                self._settle(request.key, request.entry, self._refused("expired", detail))
            self._count()
        self._wake.set()

    def _is_late(self, request: Request, now: float) -> bool:
        expires = request.command.expires
        late = expires is not None and expires < now
        return late or now - request.arrived > self._config.timeout_s

    def _refuse_unreadable(self, entry: str, error: Exception) -> None:
        reason, named = getattr(error, "reason", ""), getattr(error, "message_id", None)
        kind = "version" if reason in ("newer", "older") else "malformed"
        detail = str(error)
        if isinstance(error, SignatureRefused):
            kind, detail = error.reason, error.detail
        self.unreadable += 1
        self.refused += 1
        self._say(named and named[:128], self._refused(kind, detail))
        self._close(entry)

    def _refused(self, reason: Any, detail: str) -> Refused:
        return Refused(run=self._run, reason=reason, detail=detail[:8192])

    def _say(self, to: str | None, body: Acknowledgement) -> None:
        try:
            answer = wire.encode(self._stamp(body, correlation=to or None))
        except wire.MessageRefused as error:
            body = self._refused("failed", f"what became of it cannot be told: {error}")
            answer = wire.encode(self._stamp(body, correlation=to or None))
        self._answers.append(answer)

    async def _answer(self) -> None:
        """Publish acknowledgements in their order; none is lost while the bus is away."""
        while not self._stopping or self._answers:
            if not self._answers:
                await self._wake.wait()
                self._wake.clear()
                continue
            answers = [self._answers[at] for at in range(min(512, len(self._answers)))]
            await self.outages.through(partial(self._publish, answers))
            for _ in answers:
                self._answers.popleft()

    async def _publish(self, answers: list[bytes]) -> None:
        await self._client.publish_many(self._replies, answers, keep=self._config.keep)

    def _wake_up(self) -> None:
        """Let answers be sent; from any thread, which pays for the first of several calls only."""
        if self._loop is not None and not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._woken)

    def _woken(self) -> None:
        self._waking = False  # first, so that what is added from here on wakes again
        self._wake.set()
