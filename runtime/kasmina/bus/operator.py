"""Asks runs on a bus: who is there, do this, and what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

from kasmina.bus.client import FIRST, MessageBusClient
from kasmina.bus.names import HEARTBEATS, streams_of
from kasmina.bus.signing import Signer
from kasmina.bus.stamping import Stamp
from kasmina.errors import KasminaError
from kasmina_generated.messages import types, wire

SILENT = 5.0  # signs of life that a run may miss before it counts as away

Answer = types.Applied | types.Refused | types.Status


class NoSuchRun(KasminaError, LookupError):
    """A run of which nothing was heard on the bus."""


class NoAnswer(KasminaError, TimeoutError):
    """The run did not answer in time; the command stays in its stream."""


class Alive(NamedTuple):
    """The last sign of life of a run."""

    beat: types.Heartbeat
    age_s: float

    @property
    def silent(self) -> bool:
        """Whether the next ones should have come by now."""
        return self.age_s > SILENT * max(self.beat.every, 0.2)


class Operator:
    """Sends commands and waits for their answers.

    Args:
        client: the bus.
        sign: signs them.
    """

    def __init__(self, client: MessageBusClient, *, sign: Signer | None = None) -> None:
        self._client, self._sign = client, sign
        self._stamp = Stamp("operator")

    async def runs(self) -> dict[str, Alive]:
        """The runs that were heard of, by name, with their last signs of life."""
        found: dict[str, Alive] = {}
        for each in await self._client.read(HEARTBEATS, count=5000):
            try:
                envelope = wire.decode(each.payload)
            except wire.MessageRefused:
                continue
            if isinstance(envelope.body, types.Heartbeat):
                age = max(0.0, time.time() - envelope.time)
                found[envelope.body.run] = Alive(envelope.body, age)
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
        listed = ", ".join(runs)
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
            which = f"there are several runs: {', '.join(alive)}" if alive else (
                f"no run is alive on this bus; heard of: {listed}"
            )  # fmt: skip
            raise NoSuchRun(f"{which}; name one by --run")
        return run or alive[0]

    async def ask(
        self,
        command: types.Command,
        *,
        timeout_s: float,
        tell: Callable[[types.Acknowledgement], Any] = lambda answer: None,
    ) -> Answer:
        """Send a command and return what became of it.

        Args:
            command: the message.
            timeout_s: how long to wait for it, seconds.
            tell: hears that it was accepted.

        Raises:
            NoAnswer: nothing came in time.
        """
        streams = streams_of(command.run)
        after = (await self._client.info(streams.replies)).last
        after = FIRST if after == "0-0" else after
        envelope = self._stamp(command)
        sent = envelope if self._sign is None else self._sign(envelope)
        await self._client.publish(streams.commands, wire.encode(sent))
        try:
            async with asyncio.timeout(timeout_s):
                return await self._answer(streams.replies, after, envelope.id, tell)
        except TimeoutError:
            raise NoAnswer(
                f"run {command.run!r} has not answered for {timeout_s:g} s; the command "
                f"{envelope.id} waits in {streams.commands!r} and will be carried out when the run "
                "goes on, if it does not expire before"
            ) from None

    async def _answer(
        self, stream: str, after: str, id: str, tell: Callable[[types.Acknowledgement], Any]
    ) -> Answer:
        while True:
            for each in await self._client.read(stream, after=after, wait_s=0.5):
                after = each.id
                try:
                    envelope = wire.decode(each.payload)
                except wire.MessageRefused:
                    continue
                if envelope.correlation != id:
                    continue
                if isinstance(envelope.body, types.Accepted):
                    tell(envelope.body)
                elif isinstance(envelope.body, types.Applied | types.Refused | types.Status):
                    return envelope.body
