"""A controller on the bus: what it reads, what it sends, and what it knows after it has died."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kasmina.bus.dead_letters import DeadLetterQueue
from kasmina.bus.errors import BusClosed, BusRejected, BusUnavailable
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.mock import MockMessageBusClient
from kasmina.bus.names import DEAD_LETTERS, HEARTBEATS, streams_of
from kasmina.bus.operator import RESEND_S
from kasmina.bus.signing import Key, Signer, Verifier
from kasmina.bus.stamping import Stamp
from kasmina.cli.tamiyo import Telling, _through_outages
from kasmina.control.remote import FORGET_S, Steering
from kasmina.growth import Observation, Proposal
from kasmina.growth.controller import Command
from kasmina.growth.telling import observed_of
from kasmina_generated.messages import types, wire
from tests.runtime.bus.virtual import run as in_virtual_time
from tests.runtime.growth.gardens import Bed

KEY = Key("key", bytes(range(32)))


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


class Breaks(Counts):
    """Cannot decide while its count is no number, and never on epoch 7."""

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Fail, or count."""
        if observation.epoch == 7:
            raise ZeroDivisionError("seven")
        return super().propose(observation, mask)


class Bench:
    """A bus, an observation of a run, and who decides on it."""

    def __init__(self, bus: InProcessBus | None = None) -> None:
        self.bus, keeps = bus or InProcessBus(), Keeps()
        Bed(keeps).gardener.tick()
        self._seen, self._mask = keeps.seen, keeps.mask
        self._stamp = Stamp("run")
        self.told: list[tuple[str, int, str]] = []

    async def observe(self, run: str = "run", **changed: Any) -> None:
        """What a run would publish at the end of an epoch."""
        await self.publish(streams_of(run).observed, self.observation(run, **changed))

    def observation(self, run: str = "run", *, sign: Signer | None = None, **changed: Any) -> bytes:
        """The same, as a message."""
        body = observed_of(run, replace(self._seen, **changed), self._mask)
        envelope = self._stamp(body)
        return wire.encode(envelope if sign is None else sign(envelope))

    async def beat(self, run: str = "run", **more: Any) -> None:
        """A sign of life."""
        beat = types.Heartbeat(
            run=run, epoch=1, step=1, every=1.0, paused=False, waiting=0, **more
        )  # fmt: skip
        await self.publish(HEARTBEATS, wire.encode(self._stamp(beat)))

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
        await bench.beat()
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


def test_without_a_key_nothing_is_signed() -> None:
    """And what is signed is read all the same."""

    async def work() -> None:
        bench = Bench()
        await bench.observe(sign=Signer(KEY))
        await bench.steer(1, runs=["run"])
        (sent,) = await bench.commands()
        assert isinstance(sent.body, types.Germinate)

    asyncio.run(work())


def test_with_a_key_only_what_it_proves_is_decided_on() -> None:
    """Commands are signed; an observation that is not, by another key or of another run, is not."""

    async def work() -> None:
        bench = Bench()
        stream = streams_of("run").observed
        await bench.observe()
        await bench.observe(sign=Signer(Key("key", bytes(32))))
        await bench.publish(stream, bench.observation("another", sign=Signer(KEY)))
        told: list[str] = []
        steering = await bench.steer(3, runs=["run"], verify=Verifier((KEY,)), warn=told.append)
        assert (steering.decisions, steering.unreadable) == (0, 3)
        assert [each.partition("(")[2][:8] for each in told[:2]] == ["unsigned", "forged):"]
        assert "it is of run 'another'" in told[2]
        assert (await bench.bus.peer().info(DEAD_LETTERS)).length == 1
        assert await bench.commands() == []
        await bench.observe(sign=Signer(KEY))
        await bench.steer(1, runs=["run"], verify=Verifier((KEY,)))
        (sent,) = await bench.commands()
        assert isinstance(sent.body, types.Signed)

    asyncio.run(work())


@asynccontextmanager
async def steered(bench: Bench, make: Any = Counts, **options: Any) -> AsyncIterator[Steering]:
    """Somebody decides meanwhile."""
    steering = Steering(
        bench.bus.peer(),
        make,
        tell=lambda run, epoch, proposal: bench.told.append((run, epoch, proposal.reason)),
        **options,
    )
    task = asyncio.create_task(steering.run())
    try:
        yield steering
    finally:
        steering.stop()
        await task


def test_runs_that_give_no_sign_any_more_are_forgotten_and_found_again() -> None:
    """And one that has ended at once; nothing is lost by it, as its controller is on the bus."""

    async def work() -> None:
        bench = Bench()
        await bench.beat()
        await bench.beat("other")
        async with steered(bench) as steering:
            await bench.observe()
            await asyncio.sleep(5)
            assert list(steering.runs) == ["run", "other"]
            await bench.beat("other", ended=True)
            await asyncio.sleep(1)
            assert list(steering.runs) == ["run"]
            await asyncio.sleep(FORGET_S)
            assert list(steering.runs) == []
            await bench.observe(epoch=9)
            await asyncio.sleep(5)
            assert steering.decisions == 1
            await bench.beat()
            await asyncio.sleep(5)
            assert steering.decisions == 2
        targets = [each.body.target.slot for each in await bench.commands()]  # type: ignore[union-attr]
        assert targets == [0, 1]  # it has counted on

    in_virtual_time(work())


def test_signs_of_no_run_and_bad_states_hold_up_nobody() -> None:
    """Names that no stream can have are passed over; what is no state is told, and begun anew."""

    async def work() -> None:
        bench, told = Bench(), list[str]()
        key = f"{streams_of('broken').observed}:tamiyo"
        await bench.bus.put_many({key: b'{"last": "yesterday"}'}, expires_s=1e9)
        for name in ("\x1b[2J", "two\nlines", "broken", "run"):
            await bench.beat(name)
        async with steered(bench, warn=told.append) as steering:
            await bench.observe()
            await bench.observe("broken")
            await asyncio.sleep(5)
            assert list(steering.runs) == ["broken", "run"]
            assert steering.decisions == 2
        (line,) = told
        assert line.startswith(f"run 'broken': what {key!r} holds is no controller's state: ")
        assert line.endswith("; its controller begins anew")

    in_virtual_time(work())


def test_a_controller_that_fails_is_tried_again_and_then_its_observation_is_given_up() -> None:
    """With another run beside it that hears nothing of it, and the next observation decided on."""

    async def work() -> None:
        bench, told = Bench(), list[str]()
        # A state that is well formed, and with which it cannot count.
        plain = {"last": "0", "now": {"count": "many"}, "before": []}
        key = f"{streams_of('run').observed}:tamiyo"
        await bench.bus.put_many({key: json.dumps(plain).encode()}, expires_s=1e9)
        async with steered(bench, Breaks, runs=["run", "other"], warn=told.append) as steering:
            await bench.observe(epoch=6)
            await bench.observe("other", epoch=6)
            await asyncio.sleep(60)
            assert sorted(bench.told) == [("other", 6, "room"), ("run", 6, "room")]
            assert sum("TypeError" in line for line in told) == 2  # as it was found, and once more
            await bench.observe(epoch=7)
            await bench.observe(epoch=8)
            await asyncio.sleep(60)
            assert bench.told[2:] == [("run", 8, "room")]
            assert (steering.decisions, steering.unreadable) == (3, 1)
        (letter,) = await DeadLetterQueue(bench.bus, DEAD_LETTERS).list()
        assert letter.letter is not None
        assert (letter.letter.attempts, letter.letter.cause) == (3, "ZeroDivisionError: seven")
        assert "in propose" in letter.letter.traceback

    in_virtual_time(work())


def test_commands_are_sent_again_until_they_are_answered() -> None:
    """From time to time; a copy has the same id, and is let go of once its outcome is told."""

    async def work() -> None:
        bench, stamp = Bench(), Stamp("run")
        async with steered(bench, runs=["run"]):
            await bench.observe()
            await asyncio.sleep(2 * RESEND_S)
            sent = await bench.commands()
            assert len(sent) >= 2
            assert len({(each.producer, each.id) for each in sent}) == 1
            lies = types.Applied(run="run", epoch=1, step=1, seeds=(), asker="another")
            replies = [
                b"nonsense",
                wire.encode(stamp(lies, correlation=sent[0].id)),
                wire.encode(stamp(types.Accepted(run="run", waiting=0), correlation=sent[0].id)),
            ]
            await bench.bus.publish_many(streams_of("run").replies, replies)
            await asyncio.sleep(2 * RESEND_S)
            more = await bench.commands()
            assert len(more) > len(sent)
            done = types.Applied(run="run", epoch=1, step=1, seeds=())
            told = wire.encode(stamp(done, correlation=sent[0].id))
            await bench.bus.publish(streams_of("run").replies, told)
            await asyncio.sleep(1)
            more = await bench.commands()
            await asyncio.sleep(10 * RESEND_S)
            assert len(await bench.commands()) == len(more)

    in_virtual_time(work())


def test_what_the_bus_refuses_of_one_run_is_tried_again() -> None:
    """Its state, its commands, or a dead letter, which is told and let go."""

    async def work() -> None:
        bus, no = MockMessageBusClient(), BusRejected("somebody else's key")
        bench, told = Bench(bus), list[str]()
        steering = Steering(bus, Counts, runs=["run"], warn=told.append)
        bus.fail("get_many", no)
        bus.fail("info", no)
        task = asyncio.create_task(steering.run())
        await asyncio.sleep(10)
        await bench.observe()
        bus.fail("publish_many", no)  # of the command
        await asyncio.sleep(10)
        assert steering.decisions == 1
        assert [line.endswith("s: somebody else's key") for line in told] == [True] * 3
        assert len(await bench.commands()) == 1
        await bench.publish(streams_of("run").observed, b"nonsense")
        bus.fail("publish_many", no)  # of the letter
        await asyncio.sleep(10)
        assert told[-1] == "it cannot be kept as a dead letter: somebody else's key"
        await bench.observe(epoch=9)
        await asyncio.sleep(10)
        assert (steering.decisions, steering.unreadable) == (2, 1)
        steering.stop()
        await task

    in_virtual_time(work())


def test_the_shell_tells_decisions_that_do_something_or_nothing_for_another_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of each run; all of them where that is asked for."""
    command = Command("request_germination", 0, "room", "me", blueprint="mlp")
    decided = [
        ("a", Proposal((), "warming up: epoch 0 of 2")),
        ("b", Proposal((), "warming up: epoch 0 of 2")),
        ("a", Proposal((), "warming up: epoch 1 of 2")),
        ("a", Proposal((command,), "the first wave: 1 seed")),
        ("a", Proposal((command,), "the first wave: 1 seed")),
        ("a", Proposal((), "1 seed under way")),
        ("a", Proposal((), "1 seed under way")),
        ("b", Proposal((), "warming up: epoch 1 of 2")),
    ]
    told = [
        f"{run}, epoch {epoch}: {len(proposal.commands)} commands; {proposal.reason}"
        for epoch, (run, proposal) in enumerate(decided)
    ]
    for verbose, expected in ((False, [told[i] for i in (0, 1, 3, 4, 5)]), (True, told)):
        tell = Telling(verbose)
        for epoch, (run, proposal) in enumerate(decided):
            tell(run, epoch, proposal)
        assert capsys.readouterr().out.splitlines() == expected


def test_an_outage_is_waited_for_by_the_shell_once_the_bus_was_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And told once; before that it ends what was begun."""

    async def work() -> None:
        bus, away = MockMessageBusClient(), BusUnavailable("cut")
        steering = Steering(bus, Counts, runs=["run"])
        bus.fail("read_back", away)
        with pytest.raises(BusUnavailable, match="cut"):
            await _through_outages(steering)
        task = asyncio.create_task(_through_outages(steering))
        await asyncio.sleep(1)
        bus.fail("read", away, times=4)
        await asyncio.sleep(60)
        bus.fail("read", BusRejected("no stream"))
        await asyncio.sleep(60)
        bus.fail("read", BusClosed("closed"))
        with pytest.raises(BusClosed):
            await task

    in_virtual_time(work())
    assert capsys.readouterr().err == "waits for the bus: cut\nwaits for the bus: no stream\n"
