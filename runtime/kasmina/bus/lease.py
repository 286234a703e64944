"""One process for each name of a run, so that no two take each other's commands.

A run's signs of life stand in a stream of its own, and whoever reads it comes to the same end: the
name is the first sender's, and another's only once no sign came for as long as the last one said,
or where it let go, or where the other goes on with the same run folder. Time is that of the
entries, so the clocks of the processes need not agree. Where a key is known, signs count that are
signed by it, each once: copies of old ones are known by their number.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import blake3

from kasmina.bus.client import FIRST, Delivery, Loss, MessageBusClient, position
from kasmina.bus.errors import BusError, BusRejected
from kasmina.bus.signing import SignatureRefused, Verifier, unsealed
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import Envelope, Heartbeat

KEPT = 128  # signs that the stream keeps: more than come within a lease
PAGE = 256  # entries that are read at a time
POLL_S = 0.1  # between two looks whether the holder of a name lives
LONGEST_S = 600.0  # that a name stays taken, whatever a sign says
SENDERS = 1024  # whose last signs are known by their numbers


class RunIsTaken(BusError):
    """Another process is the run of this name on this bus."""


class LeaseLost(BusError):
    """This process stood still for longer than its lease, and another one is the run now."""


class _Holder(NamedTuple):
    producer: str
    beat: Heartbeat
    signed: int  # by the bus's clock, ms
    until: float


class Lease:
    """Whether this process is the run of a name.

    Args:
        client: the bus.
        stream: of the run's signs of life.
        stamp: of this process.
        verify: signs, and takes signed signs only.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        stamp: Stamp,
        *,
        verify: Verifier | None = None,
    ) -> None:
        self._client, self._stream, self._stamp = client, stream, stamp
        self._verify = verify
        self._numbers: OrderedDict[str, int] = OrderedDict()  # of the last signs, by producer
        self._run = ""  # its name
        self._last = FIRST  # entry that was read
        self._holder: _Holder | None = None
        self._signed = self._until = 0.0  # by this process's monotonic clock
        client.on_loss(self._begin_anew)

    @property
    def held(self) -> bool:
        """Whether nobody else can be the run at this moment; from any thread."""
        return time.monotonic() < self._until

    async def take(self, beat: Callable[[], Heartbeat]) -> None:
        """Become the run; waits while its name is taken by a process that gives no sign any more.

        Args:
            beat: makes a sign of life, with the lease that is asked for.

        Raises:
            RunIsTaken: another process is the run, and alive.
            BusRejected: what is signed here is not believed, because a clock is wrong.
        """
        before = -1
        while True:
            asked = position(await self._sign(beat()))[0]
            await self._look()
            if self._is_mine():
                return
            if self._holder is None:
                raise BusRejected(
                    "the bus has taken a sign of life and does not hold it, or its clock and this "
                    "machine's differ by minutes, so that nothing signed is believed"
                )
            if 0 <= before < self._holder.signed:
                raise RunIsTaken(_taken(self._holder.beat))
            before = self._holder.signed
            await self._wait(before, (self._holder.until - asked) / 1000)

    async def keep(self, beat: Heartbeat) -> None:
        """Give a sign of life.

        Raises:
            LeaseLost: another process is the run by now.
        """
        await self._look()
        if self._holder is not None and not self._is_mine():
            raise LeaseLost(
                f"it gave no sign of life for longer than its lease, and {self._holder.beat.place} "
                f"is run {beat.run!r} now; what this process does not hold it leaves alone"
            )
        await self._sign(beat)

    async def let_go(self, beat: Heartbeat) -> None:
        """Give the name back; `beat` has a lease of 0."""
        self._until = 0.0
        await self._sign(beat)

    async def _wait(self, signed: int, seconds: float) -> None:
        """Wait until the holder gives another sign, or its time is over."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(POLL_S, left))
            await self._look()
            if self._holder is None or self._holder.signed != signed:
                return

    async def _sign(self, beat: Heartbeat) -> str:
        now, self._run = time.monotonic(), beat.run
        sign = self._stamp(beat)
        payload = wire.encode(self._verify.sign(sign) if self._verify else sign)
        found = await self._client.publish(self._stream, payload, keep=KEPT)
        if position(found) <= position(self._last):  # the stream was lost, and its ids with it
            self._begin_anew()
        self._signed = now
        return found

    async def _look(self) -> None:
        """Read what came, all of it."""
        page = None
        while page is None or page:
            page = await self._client.read(self._stream, after=self._last, count=PAGE)
            for each in page:
                self._note(each)
        if self._is_mine():
            assert self._holder is not None
            self._until = self._signed + self._holder.beat.lease

    def _note(self, delivery: Delivery) -> None:
        self._last, now = delivery.id, position(delivery.id)[0]
        try:
            envelope = wire.decode(delivery.payload)
            envelope = (
                self._verify.recent(envelope, delivery.id) if self._verify else unsealed(envelope)
            )
        except (wire.MessageRefused, SignatureRefused):
            return
        beat, holder = envelope.body, self._holder
        if not isinstance(beat, Heartbeat) or beat.run != self._run or self._is_copy(envelope):
            return
        free = holder is None or now >= holder.until or beat.folder == holder.beat.folder != ""
        if free or (holder is not None and holder.producer == envelope.producer):
            until = now + 1000 * min(beat.lease, LONGEST_S)
            self._holder = _Holder(envelope.producer, beat, now, until) if beat.lease else None

    def _is_copy(self, envelope: Envelope) -> bool:
        """Whether this sign, or a later one of the same sender, has come before."""
        if envelope.sequence <= self._numbers.get(envelope.producer, -1):
            return True
        self._numbers[envelope.producer] = envelope.sequence
        self._numbers.move_to_end(envelope.producer)
        if len(self._numbers) > SENDERS:
            self._numbers.popitem(last=False)
        return False

    def _is_mine(self) -> bool:
        return self._holder is not None and self._holder.producer == self._stamp.producer

    def _begin_anew(self, loss: Loss | None = None) -> None:
        if loss is None or loss.stream in (None, self._stream):
            self._last, self._holder = FIRST, None
            self._numbers.clear()


def folder_of(path: Path) -> str:
    """What tells where a run is kept from all other places, also once it was moved or copied."""
    about = path.parent.stat()
    text = f"{socket.gethostname()} {about.st_dev} {about.st_ino} {path.name}"
    return blake3.blake3(text.encode()).hexdigest(length=16)


def place_of(path: Path | None) -> str:
    """Who is at work where, for people."""
    where = "" if path is None else f", in {path.parent.resolve()}"
    return f"process {os.getpid()} on {socket.gethostname()}{where}"[:512]


def _taken(beat: Heartbeat) -> str:
    return (
        f"run {beat.run!r} is on this bus already: {beat.place or 'a process that says not where'}, "
        f"at epoch {beat.epoch}, step {beat.step}. Two runs of one name would take each other's "
        "commands: wait for it or end it, give this run another --seed, or give it another "
        "database of the server, as redis://HOST:PORT/1"
    )
