"""Controllers in a process of their own: they read what runs observe from a bus, and command.

A run that leaves its decisions to the bus has a `BusController`. `Steering` decides for many runs:
each has a controller of its own. It keeps the controller's state on the bus as well, by epoch, so
that it goes on where it died. A run that went back, by a rewind or a resume, finds the controller
as it was then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from kasmina.bus.claims import BadClaim, ClaimStore
from kasmina.bus.client import FIRST, Delivery, MessageBusClient, position
from kasmina.bus.dead_letters import DeadLetterQueue, Failure
from kasmina.bus.names import DEAD_LETTERS, HEARTBEATS, streams_of
from kasmina.bus.signing import Signer
from kasmina.growth.controller import Command, Controller, Observation, Proposal
from kasmina.growth.outside import Outside
from kasmina.growth.telling import NoObservation, seen_of
from kasmina_generated.messages import types, wire
from kasmina_generated.messages.types import VERSION, Envelope

logger = logging.getLogger(__name__)

EPOCHS = 256  # back from which a controller is still known
KEPT_S = 30 * 86_400.0  # a controller's state on the bus
MESSAGES = {
    "request_germination": types.Germinate,
    "cancel": types.Cancel,
    "emergency": types.Rollback,
}


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


@dataclass
class _Steered:
    """One run, and how its controller stood before each of the last epochs."""

    controller: Controller
    last: str = FIRST  # entry that was decided on
    before: dict[int, dict[str, Any]] = field(default_factory=dict)


class Steering:
    """Decides for runs on a bus, from what they observe.

    Args:
        client: the bus.
        make: makes the controller of a run.
        runs: which runs; None takes all that show a sign of life.
        name: of whoever decides; another process of the same name takes over from this one.
        sign: signs commands.
        tell: hears of each decision: the run, the epoch and the proposal.
    """

    def __init__(
        self,
        client: MessageBusClient,
        make: Callable[[], Controller],
        *,
        runs: Collection[str] | None = None,
        name: str = "tamiyo",
        sign: Signer | None = None,
        tell: Callable[[str, int, Proposal], object] = lambda run, epoch, proposal: None,
    ) -> None:
        self.decisions = self.unreadable = 0
        self.connected = False  # the bus has answered once
        self._client, self._make, self._name = client, make, name
        self._chosen, self._sign, self._tell = runs, sign, tell
        self._claims = ClaimStore(client)
        self._dead = DeadLetterQueue(client, DEAD_LETTERS, reader=name)
        self._runs: dict[str, _Steered] = {}
        self._beats = FIRST
        self._stopping = False

    def stop(self) -> None:
        """Let `run` return after the decision under way."""
        self._stopping = True

    async def run(self, *, poll_s: float = 0.1) -> None:
        """Decide until `stop`.

        Raises:
            BusError: the bus answered what no waiting mends, or is away.
        """
        while not self._stopping:
            await self._find_runs()
            self.connected = True
            for name, steered in list(self._runs.items()):
                await self._follow(name, steered)
            await asyncio.sleep(poll_s)

    async def _find_runs(self) -> None:
        found = set(self._chosen or ())
        beats = await self._client.read(HEARTBEATS, after=self._beats)
        if not beats and position((await self._client.info(HEARTBEATS)).last) < position(
            self._beats
        ):
            self._beats = FIRST
        if self._chosen is None:
            for each in beats:
                self._beats = each.id
                try:
                    body = wire.decode(each.payload).body
                except wire.MessageRefused:
                    continue
                if isinstance(body, types.Heartbeat):
                    found.add(body.run)
        for name in sorted(found - self._runs.keys()):
            self._runs[name] = await self._restored(name)

    async def _follow(self, run: str, steered: _Steered) -> None:
        """Decide on what a run has observed since; a stream that was lost is read from its start."""
        stream = streams_of(run).observed
        deliveries = await self._client.read(stream, after=steered.last, count=16)
        if not deliveries:
            last = (await self._client.info(stream)).last
            if position(last) < position(steered.last):
                steered.last = FIRST
        for delivery in deliveries:
            try:
                envelope = await self._claims.read(delivery.payload)
                body, seen, mask = seen_of(envelope)
            except (wire.MessageRefused, BadClaim, NoObservation) as error:
                await self._give_up(delivery, error)
            else:
                digest = blake3.blake3(body.observation).hexdigest(length=8)
                await self._decide(run, steered, seen, mask, digest)
            steered.last = delivery.id
            await self._save(run, steered)

    async def _decide(
        self, run: str, steered: _Steered, seen: Observation, mask: NDArray[np.bool_], digest: str
    ) -> None:
        """Decide; the same observation gives commands with the same ids, which are done once."""
        back = [epoch for epoch in steered.before if epoch >= seen.epoch]
        if back:
            steered.controller.load_state_dict(steered.before[min(back)])
        for epoch in back:
            del steered.before[epoch]
        steered.before[seen.epoch] = steered.controller.state_dict()
        for old in sorted(steered.before)[:-EPOCHS]:
            del steered.before[old]
        proposal = steered.controller.propose(seen, mask)
        payloads = [
            wire.encode(self._envelope(run, seen, command, f"{seen.epoch}:{digest}"))
            for command in proposal.commands
        ]
        if payloads:
            await self._client.publish_many(streams_of(run).commands, payloads)
        self.decisions += 1
        self._tell(run, seen.epoch, proposal)

    def _envelope(self, run: str, seen: Observation, command: Command, which: str) -> Envelope:
        site = next(s for s in seen.sites if s.first_row <= command.row < s.first_row + s.seeds)
        target = types.Target(
            site=site.path or ".",
            slot=command.row - site.first_row,
            generation=int(seen.seeds.generation[command.row]),
        )
        kind = MESSAGES[command.event]
        more: dict[str, Any] = {}
        if kind is types.Germinate:
            more = {"blueprint": command.blueprint, "strategy": command.strategy}
        envelope = Envelope(
            version=VERSION,  # type: ignore[arg-type]  # generated together with its literal
            id=f"{which}:{command.row}:{command.event}",
            producer=f"{self._name[:40]}/{blake3.blake3(run.encode()).hexdigest(length=8)}",
            sequence=seen.epoch,
            time=time.time(),
            body=kind(run=run, reason=command.reason[:1024], target=target, **more),
        )
        return envelope if self._sign is None else self._sign(envelope)

    async def _give_up(self, delivery: Delivery, error: Exception) -> None:
        self.unreadable += 1
        failure = Failure(time.time(), f"{type(error).__name__}: {error}", "")
        await self._dead.put(delivery, delivery.attempt, [failure])
        logger.warning("an observation of %s cannot be read: %s", delivery.stream, error)

    def _key(self, run: str) -> str:
        return f"{streams_of(run).observed}:{self._name}"

    async def _save(self, run: str, steered: _Steered) -> None:
        plain = {
            "last": steered.last,
            "now": steered.controller.state_dict(),
            "before": list(steered.before.items()),
        }
        await self._client.put_many({self._key(run): json.dumps(plain).encode()}, expires_s=KEPT_S)

    async def _restored(self, run: str) -> _Steered:
        steered = _Steered(self._make())
        (kept,) = await self._client.get_many([self._key(run)])
        if kept is not None:
            plain = json.loads(kept)
            steered.controller.load_state_dict(plain["now"])
            steered.last, steered.before = plain["last"], dict(plain["before"])
        return steered
