"""Controllers in a process of their own: they read what runs observe from a bus, and command.

A run that leaves its decisions to the bus has a `BusController`. `Steering` decides for many runs:
each has a controller of its own. It keeps the controller's state on the bus as well, by epoch, so
that it goes on where it died. A run that went back, by a rewind or a resume, finds the controller
as it was then. What goes wrong with one run holds up no other one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from random import Random
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from kasmina.bus.attempts import failure
from kasmina.bus.claims import BadClaim, ClaimStore
from kasmina.bus.client import FIRST, Delivery, Loss, MessageBusClient, position
from kasmina.bus.dead_letters import DeadLetterQueue
from kasmina.bus.errors import BusError
from kasmina.bus.following import behind, within
from kasmina.bus.names import DEAD_LETTERS, HEARTBEATS, is_run_name
from kasmina.bus.operator import LOOKED_AT, RESEND_S, answer_to, silent_after
from kasmina.bus.outbox import Outbox
from kasmina.bus.retry import Backoff
from kasmina.bus.signing import SignatureRefused, Verifier, unsealed
from kasmina.control.steered import BadState, SteeredRun
from kasmina.growth.controller import Controller, Observation, Proposal
from kasmina.growth.outside import Outside
from kasmina.growth.telling import NoObservation, seen_of
from kasmina_generated.messages import types, wire

logger = logging.getLogger(__name__)

AT_ONCE = 256  # streams of one read
FORGET_S = 30.0  # a run that gives no sign of life for so long, and longer than it said
MOST_RUNS = 4096
MOST_ASKED = 1 << 18  # commands that have no answer yet, of all runs
TRIES = 3  # to decide on an observation: the second as the bus knows the controller, the last anew
BACKOFF = Backoff(base_s=1.0, ceiling_s=60.0, jitter=0.5)


class BusController:
    """Leaves every decision to who listens on the bus."""

    name = "bus"

    def __init__(self, outside: Outside) -> None:
        self._outside = outside

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Hand over what is seen; commands come later, between two steps."""
        self._outside.observed(observation, mask)
        return Proposal((), "left to the bus")

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""


class Steering:
    """Decides for runs on a bus, from what they observe.

    Its commands are sent again whenever the bus has lost them, until they are answered.

    Args:
        client: the bus.
        make: makes the controller of a run.
        runs: which runs; None takes all that show a sign of life.
        name: of whoever decides; another process of the same name takes over from this one.
        verify: signs commands, and lets only observations and answers count that it proves.
        tell: hears of each decision: the run, the epoch and the proposal.
        warn: hears what is wrong with a run; the others go on.
    """

    def __init__(
        self,
        client: MessageBusClient,
        make: Callable[[], Controller],
        *,
        runs: Collection[str] | None = None,
        name: str = "tamiyo",
        verify: Verifier | None = None,
        tell: Callable[[str, int, Proposal], object] = lambda run, epoch, proposal: None,
        warn: Callable[[str], object] = logger.warning,
    ) -> None:
        self.decisions = self.unreadable = self.rounds = 0
        self.connected = False  # the bus has answered once
        self._client, self._make, self._name = client, make, name
        self._chosen, self._verify, self._tell, self._warn = runs, verify, tell, warn
        self._claims = ClaimStore(client)
        self._dead = DeadLetterQueue(client, DEAD_LETTERS, reader=name)
        resend_s = RESEND_S if verify is None else math.inf  # an old signature proves nothing
        self._outbox = Outbox(client, resend_s=resend_s, capacity=MOST_ASKED)
        self._runs = {run: self._new(run) for run in runs or ()}
        self._beats: str | None = None  # the sign of life that was read
        self._lost, self._turn, self._rng = False, 0, Random()
        self._stopping = False
        client.on_loss(self._on_loss)

    @property
    def runs(self) -> tuple[str, ...]:
        """The runs that it decides for now."""
        return tuple(self._runs)

    def stop(self) -> None:
        """Let `run` return after the decision under way."""
        self._stopping = True

    async def run(self, *, poll_s: float = 0.1) -> None:
        """Decide until `stop`.

        Raises:
            BusError: the bus is away, or nobody can read signs of life on it.
        """
        resending = asyncio.create_task(self._outbox.run())
        try:
            while not self._stopping:
                await self._find_runs()
                self.connected = True
                await self._look_back()
                await self._hear_answers()
                found = await self._decide()
                self.rounds += 1
                if not found:
                    await asyncio.sleep(poll_s)
        finally:
            resending.cancel()
            await asyncio.gather(resending, return_exceptions=True)

    # ------------------------------------------------------------------ which runs

    async def _find_runs(self) -> None:
        """Take up runs that live, and let go of those that have ended or give no sign any more."""
        if self._beats is None:
            beats = await self._client.read_back(HEARTBEATS, count=LOOKED_AT)
            self._beats = beats[-1].id if beats else FIRST
        else:
            beats, self._beats = await behind(self._client, HEARTBEATS, self._beats)
        newest = position(self._beats)[0]
        for each in beats:
            beat = _beat_in(each.payload)
            if beat is not None:
                self._note(beat, age_s=(newest - position(each.id)[0]) / 1000)
        now = self._now()
        for run in list(self._runs.values()):
            if self._chosen is None and now - run.heard > run.silent_s:
                self._forget(run)

    def _note(self, beat: types.Heartbeat, age_s: float) -> None:
        silent_s = max(FORGET_S, silent_after(beat))
        known = self._runs.get(beat.run)
        if beat.ended and known is not None and self._chosen is None:
            self._forget(known)
        if beat.ended or age_s > silent_s or (known is None and not self._takes(beat.run)):
            return
        run = self._runs.setdefault(beat.run, known or self._new(beat.run))
        run.heard, run.silent_s = self._now() - age_s, silent_s

    def _takes(self, run: str) -> bool:
        return self._chosen is None and is_run_name(run) and len(self._runs) < MOST_RUNS

    def _new(self, run: str) -> SteeredRun:
        sign = None if self._verify is None else self._verify.sign
        return SteeredRun(run, self._make, self._name, sign)

    def _forget(self, run: SteeredRun) -> None:
        """What there is to know of it stands on the bus."""
        del self._runs[run.run]
        for id in run.asked:
            self._outbox.done(f"{run.run} {id}")

    def _on_loss(self, loss: Loss) -> None:
        self._lost = True

    async def _look_back(self) -> None:
        """See whether streams end before what was read of them: all after a loss, or the next."""
        if not self._runs:
            return
        runs = self._due()
        if not self._lost and runs:
            self._turn += 1
            runs = [runs[self._turn % len(runs)]]
        self._lost = False
        for run in runs:
            try:
                run.last = await within(self._client, run.streams.observed, run.last)
                run.replied = await within(self._client, run.streams.replies, run.replied)
            except BusError as error:
                self._put_off(run, error)

    # ------------------------------------------------------------------ what they say

    async def _decide(self) -> bool:
        """Decide on what was observed since; says whether there was anything."""
        for run in self._due():
            if not run.ready:
                await self._restore(run)
        runs = {run.streams.observed: run for run in self._due() if run.ready}
        found = await self._read(runs, {stream: run.last for stream, run in runs.items()}, count=4)
        for each in found:
            run = runs[each.stream]
            if run.ready and run.until <= self._now():
                try:
                    await self._follow(run, each)
                except BusError as error:
                    self._put_off(run, error)
        return bool(found)

    async def _restore(self, run: SteeredRun) -> None:
        try:
            await run.restore(self._client)
        except BadState as error:
            self._warn(f"run {run.run!r}: {error}; its controller begins anew")
        except BusError as error:
            self._put_off(run, error)

    async def _hear_answers(self) -> None:
        """Let go of commands whose outcome is known."""
        runs = {run.streams.replies: run for run in self._due() if run.asked}
        after = {stream: run.replied for stream, run in runs.items()}
        for each in await self._read(runs, after, count=512):
            run = runs[each.stream]
            run.replied = each.id
            id = _settled_in(each.payload, run.producer, self._verify)
            if id in run.asked:
                run.asked.discard(id)
                self._outbox.done(f"{run.run} {id}")

    async def _read(
        self, runs: Mapping[str, SteeredRun], after: Mapping[str, str], *, count: int
    ) -> list[Delivery]:
        """Read streams, many at once; one that cannot be read is left alone for a while."""
        found: list[Delivery] = []
        streams = list(after)
        for start in range(0, len(streams), AT_ONCE):
            some = {stream: after[stream] for stream in streams[start : start + AT_ONCE]}
            try:
                found += await self._client.read_many(some, count=count)
            except BusError as error:
                if error.transient:
                    raise
                found += await self._read_each(runs, some.items(), count=count)
        return found

    async def _read_each(
        self, runs: Mapping[str, SteeredRun], after: Iterable[tuple[str, str]], *, count: int
    ) -> list[Delivery]:
        found: list[Delivery] = []
        for stream, entry in after:
            try:
                found += await self._client.read_many({stream: entry}, count=count)
            except BusError as error:
                self._put_off(runs[stream], error)
        return found

    # ------------------------------------------------------------------ one observation

    async def _follow(self, run: SteeredRun, delivery: Delivery) -> None:
        """Decide on an observation, or give it up."""
        try:
            body, seen, mask = await self._observed(run, delivery)
        except SignatureRefused as error:  # no dead letter, of which there might be a flood
            self.unreadable += 1
            self._warn(f"run {run.run!r}: nothing is decided on observation {delivery.id}: {error}")
            await self._went_on(run, delivery)
            return
        except Exception as error:
            if isinstance(error, BusError) and not isinstance(error, BadClaim):
                raise
            await self._give_up(run, delivery, error)
            return
        digest = blake3.blake3(body.observation).hexdigest(length=8)
        try:
            proposal, commands = run.decide(seen, mask, digest)
        except Exception as error:  # noqa: BLE001  whatever a controller does with what it was shown
            await self._failed(run, delivery, error)
            return
        await self._send(run, commands)
        self.decisions += 1
        self._tell(run.run, seen.epoch, proposal)
        await self._went_on(run, delivery)

    async def _observed(
        self, run: SteeredRun, delivery: Delivery
    ) -> tuple[types.Observed, Observation, NDArray[np.bool_]]:
        read = wire.decode(delivery.payload)
        read = self._verify.recent(read, delivery.id) if self._verify else unsealed(read)
        body, seen, mask = seen_of(await self._claims.fetched(read))
        if body.run != run.run:
            raise NoObservation(f"it is of run {body.run!r}")
        return body, seen, mask

    async def _send(self, run: SteeredRun, commands: Mapping[str, bytes]) -> None:
        if not commands:
            return
        if not run.asked:
            run.replied = (await self._client.info(run.streams.replies)).last
        kept = {f"{run.run} {id}": payload for id, payload in commands.items()}
        await self._outbox.send_many(kept, stream=run.streams.commands)
        run.asked |= commands.keys()

    async def _failed(self, run: SteeredRun, delivery: Delivery, error: Exception) -> None:
        """Try again, by the controller that the bus knows, and then by a new one."""
        run.failed += 1
        if run.failed >= TRIES:
            await self._give_up(run, delivery, error)
            return
        if run.failed == TRIES - 1:
            run.begin()
        else:
            run.drop()
        self._put_off(run, error)

    async def _give_up(self, run: SteeredRun, delivery: Delivery, error: Exception) -> None:
        self.unreadable += 1
        self._warn(f"run {run.run!r}: nothing is decided on observation {delivery.id}: {error!r}")
        try:
            await self._dead.put(delivery, max(1, run.failed), [failure(error, time.time())])
        except BusError as unkept:
            if unkept.transient:
                raise
            self._warn(f"it cannot be kept as a dead letter: {unkept}")
        await self._went_on(run, delivery)

    async def _went_on(self, run: SteeredRun, delivery: Delivery) -> None:
        run.last, run.failed, run.tries = delivery.id, 0, 0
        await run.save(self._client)

    # ------------------------------------------------------------------ trouble

    def _put_off(self, run: SteeredRun, error: Exception) -> None:
        """Leave a run alone for a while; raises where the bus is away, and so all of them."""
        if isinstance(error, BusError) and error.transient:
            raise error
        run.tries += 1
        wait_s = BACKOFF.wait(min(run.tries, 64), self._rng)
        run.until = self._now() + wait_s
        told = str(error) if isinstance(error, BusError) else repr(error)
        self._warn(f"run {run.run!r} is left alone for {wait_s:.1f} s: {told}")

    def _due(self) -> list[SteeredRun]:
        now = self._now()
        return [run for run in self._runs.values() if run.until <= now]

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _beat_in(payload: bytes) -> types.Heartbeat | None:
    try:
        body = wire.decode(payload).body
    except wire.MessageRefused:
        return None
    return body if isinstance(body, types.Heartbeat) else None


def _settled_in(payload: bytes, asker: str, verify: Verifier | None) -> str | None:
    """The id of the command that an answer says the outcome of."""
    try:
        read = wire.decode(payload)
        envelope = verify.opened(read) if verify else unsealed(read)
    except (wire.MessageRefused, SignatureRefused):
        return None
    answer = answer_to(asker, envelope)
    return envelope.correlation if isinstance(answer, types.Applied | types.Refused) else None
