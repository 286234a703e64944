"""A controller on the bus: what it reads, what it sends, and what it knows after it has died."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kasmina.bus.in_process import InProcessBus
from kasmina.bus.names import DEAD_LETTERS, HEARTBEATS, streams_of
from kasmina.bus.signing import Key, Signer
from kasmina.bus.stamping import Stamp
from kasmina.control.remote import Steering
from kasmina.growth import Observation, Proposal
from kasmina.growth.controller import Command
from kasmina.growth.telling import observed_of
from kasmina_generated.messages import types, wire
from tests.runtime.growth.gardens import Bed


class Keeps:
    """Keeps what it is shown, and proposes nothing."""

    name = "keeps"

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Keep it."""
        self.seen, self.mask = observation, mask
        return Proposal((), "looks")

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


class Counts:
    """Germinates the next seed at each decision, and counts them."""

    name = "counts"

    def __init__(self) -> None:
        self.count = 0

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """One command, for a row by the count."""
        self.count += 1
        site = observation.sites[0]
        row = site.first_row + (self.count - 1) % site.seeds
        return Proposal(
            (Command("request_germination", row, "more room", blueprint="mlp"),), "room"
        )

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.count = state["count"]


class Bench:
    """A bus, an observation of a run, and who decides on it."""

    def __init__(self) -> None:
        self.bus, keeps = InProcessBus(), Keeps()
        Bed(keeps).gardener.tick()
        self._seen, self._mask = keeps.seen, keeps.mask
        self._stamp = Stamp("run")
        self.told: list[tuple[str, int, str]] = []

    async def observe(self) -> None:
        """What a run would publish at the end of an epoch."""
        body = observed_of("run", self._seen, self._mask)
        await self.publish(streams_of("run").observed, wire.encode(self._stamp(body)))

    async def publish(self, stream: str, payload: bytes) -> None:
        """Anything, on a stream."""
        await self.bus.peer().publish_many(stream, [payload])

    async def steer(self, decisions: int, **options: Any) -> Steering:
        """Decide so often, in a process that begins now."""
        steering = Steering(
            self.bus.peer(),
            Counts,
            tell=lambda run, epoch, proposal: self.told.append((run, epoch, proposal.reason)),
            **options,
        )
        task = asyncio.create_task(steering.run(poll_s=0.001))
        async with asyncio.timeout(10):
            while steering.decisions + steering.unreadable < decisions:
                await asyncio.sleep(0.002)
        steering.stop()
        await task
        return steering

    async def commands(self) -> list[types.Envelope]:
        """All that were sent to the run."""
        found = await self.bus.peer().read(streams_of("run").commands, after="0-0")
        return [wire.decode(each.payload) for each in found]


def test_it_decides_once_for_each_observation_and_goes_on_where_it_died() -> None:
    """Another process of its name has its state; one that was told the same again repeats the id."""

    async def work() -> None:
        bench = Bench()
        await bench.observe()
        first = await bench.steer(1, runs=["run"])
        assert (first.decisions, first.connected) == (1, True)
        await bench.observe()
        await bench.steer(1, runs=["run"])
        sent = await bench.commands()
        assert [type(each.body) for each in sent] == [types.Germinate] * 2
        # The run has gone back to the same epoch: so has its controller, and the command is the same.
        assert sent[0].id == sent[1].id
        targets = [each.body.target for each in sent if isinstance(each.body, types.Germinate)]
        assert [(target.slot, target.generation) for target in targets if target] == [
            (0, 0),
            (0, 0),
        ]
        assert [run for run, _, _ in bench.told] == ["run", "run"]

    asyncio.run(work())


def test_runs_are_found_by_their_signs_of_life() -> None:
    """And what is no message is passed over."""

    async def work() -> None:
        bench = Bench()
        await bench.publish(HEARTBEATS, b"no message")
        beat = types.Heartbeat(run="run", epoch=1, step=1, every=1.0, paused=False, waiting=0)
        await bench.publish(HEARTBEATS, wire.encode(Stamp("run")(beat)))
        await bench.observe()
        assert (await bench.steer(1)).decisions == 1

    asyncio.run(work())


def test_what_cannot_be_read_is_a_dead_letter_and_holds_nothing_up() -> None:
    """With the reason; the observation after it is decided on."""

    async def work() -> None:
        bench = Bench()
        await bench.publish(streams_of("run").observed, b"\xff\x00")
        await bench.observe()
        steering = await bench.steer(2, runs=["run"])
        assert (steering.decisions, steering.unreadable) == (1, 1)
        assert (await bench.bus.peer().info(DEAD_LETTERS)).length == 1
        assert len(await bench.commands()) == 1

    asyncio.run(work())


@pytest.mark.parametrize("signed", [False, True])
def test_commands_are_signed_where_a_key_is_given(signed: bool) -> None:
    """And only there."""

    async def work() -> None:
        bench = Bench()
        await bench.observe()
        sign = Signer(Key("operator", b"k" * 32)) if signed else None
        await bench.steer(1, runs=["run"], sign=sign)
        (sent,) = await bench.commands()
        assert isinstance(sent.body, types.Signed) == signed

    asyncio.run(work())
