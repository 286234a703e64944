"""A run on the bus of its own process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kasmina.bus.breaker import BreakerState
from kasmina.bus.claims import ClaimStore
from kasmina.bus.client import LARGEST_PAYLOAD
from kasmina.bus.errors import BusUnavailable
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.lease import Lease, LeaseLost, RunIsTaken
from kasmina.bus.mock import MockMessageBusClient
from kasmina.bus.names import streams_of
from kasmina.bus.operator import Answer, Operator
from kasmina.bus.signing import Key, Verifier
from kasmina.bus.stamping import Stamp
from kasmina.bus.telemetry import TelemetryConfig
from kasmina.growth import Observation, Proposal
from kasmina.growth.outside import Broken, Outside, OutsideConfig
from kasmina.growth.saving import Keeper
from kasmina.growth.showing import AT_ONCE, Showing
from kasmina.growth.telling import observed_of, seen_of
from kasmina.observe.log import EventLog
from kasmina_generated.messages import types, wire
from tests.runtime.growth.gardens import Bed, assert_same

SEED = types.Target(site=".", slot=1)


class Here:
    """A run, its bus, and somebody who asks."""

    def __init__(self) -> None:
        self.bus, self.bed = InProcessBus(), Bed(budget=10_000)
        self.outside = Outside("test", self.bus.peer, config=OutsideConfig(telemetry_s=0.05))
        self.outside.start(self.bed.gardener, fresh=True)
        self._asking = ThreadPoolExecutor(4)

    def ask(self, command: types.Command) -> Future[Answer]:
        """Send a command from a thread of its own."""

        async def work() -> Answer:
            return await Operator(self.bus.peer()).ask(command, timeout_s=20)

        return self._asking.submit(lambda: asyncio.run(work()))

    def answered(self, command: types.Command) -> Answer:
        """What became of a command, with the run stepping meanwhile."""
        found = self.ask(command)
        self.until(found.done)
        return found.result()

    def until(self, so: Callable[[], bool]) -> None:
        """Let the time between steps pass until something is so."""
        end = time.monotonic() + 20
        while not so():
            assert time.monotonic() < end
            self.outside.after_step()
            time.sleep(0.002)


@pytest.fixture
def here() -> Iterator[Here]:
    """A run that is closed afterwards."""
    found = Here()
    yield found
    found.outside.close()
    assert found.outside.fault is None


def test_a_command_is_carried_out_between_steps(here: Here) -> None:
    """It names what it was applied to; the next one of its kind is illegal and says what is not."""
    found = here.answered(types.Germinate(run="test", target=SEED))
    assert isinstance(found, types.Applied)
    assert found.seeds == (types.Address(site=".", slot=1, generation=0),)
    again = here.answered(types.Germinate(run="test", target=SEED))
    assert isinstance(again, types.Refused)
    assert (again.reason, again.legal) == ("illegal", ("emergency", "cancel"))


def test_what_the_budget_cannot_hold_is_refused(here: Here) -> None:
    """And the refusal says what it would cost."""
    here.bed.gardener.config = type(here.bed.gardener.config)(budget=50)
    found = here.answered(types.Germinate(run="test", target=SEED))
    assert isinstance(found, types.Refused)
    assert found.reason == "guard"
    assert "of the budget of 50" in found.detail


def test_commands_wait_while_a_checkpoint_restores(here: Here) -> None:
    """Nothing is carried out before it; all of it is afterwards, once."""
    state = here.outside.state_dict()
    with here.outside.restoring():
        asked = here.ask(types.Cancel(run="test", target=SEED))
        here.until(lambda: here.outside.handler.accepted == 1)
        here.outside.after_step()
        assert not asked.done()
        here.outside.load_state_dict(state)
    here.until(asked.done)
    assert isinstance(asked.result(), types.Applied)
    assert here.outside.handler.applied == 1


def test_a_held_run_obeys(here: Here) -> None:
    """It stands still until somebody lets it go on."""
    here.ask(types.Pause(run="test"))
    here.until(lambda: here.outside.handler.waiting == 1)
    going_on = here.ask(types.Resume(run="test"))
    here.outside.after_step()  # returns when it was resumed
    assert isinstance(going_on.result(20), types.Applied)


def test_health_is_told(here: Here) -> None:
    """Frames of every site and signs of life come by themselves."""
    here.until(lambda: here.outside.telemetry.sent >= 2)

    async def look() -> tuple[int, dict[str, object]]:
        client = here.bus.peer()
        health = await client.info(streams_of("test").health)
        return health.length, dict(await Operator(client).runs())

    frames, runs = asyncio.run(look())
    assert frames >= 1
    assert list(runs) == ["test"]


class _Keeps:
    """A controller that keeps what it was shown."""

    name = "keeps"

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Propose nothing."""
        self.seen, self.mask = observation, mask
        return Proposal((), "looks")

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def test_an_observation_comes_back_as_it_was() -> None:
    """Through the message and its bytes, mask and all."""
    keeps = _Keeps()
    Bed(keeps).gardener.tick()
    body = observed_of("test", keeps.seen, keeps.mask)
    _, back, mask = seen_of(wire.decode(wire.encode(Stamp("test")(body))))
    assert back.to_plain() == keeps.seen.to_plain()
    assert (mask == keeps.mask).all()


@pytest.mark.parametrize("room", [0, LARGEST_PAYLOAD])
def test_an_observation_is_signed_whatever_its_size(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Itself, or the ticket for it, whose digest proves the rest."""
    monkeypatch.setattr("kasmina.growth.showing.AROUND", room)
    keeps, key = _Keeps(), Key("key", bytes(range(32)))
    Bed(keeps).gardener.tick()

    async def work() -> None:
        bus = InProcessBus()
        showing = Showing(bus, "observed", Stamp("test"), "test", verify=Verifier((key,)))
        showing.put(keeps.seen, keeps.mask)
        await showing.send()
        (entry,) = await bus.read("observed")
        read = Verifier((key,)).recent(wire.decode(entry.payload), entry.id)
        assert isinstance(read.body, types.ClaimCheck) == bool(room)
        _, back, _ = seen_of(await ClaimStore(bus).fetched(read))
        assert back.to_plain() == keeps.seen.to_plain()
        assert showing.dropped == 0

    asyncio.run(work())


def test_what_is_shown_and_not_sent_is_counted() -> None:
    """Of too many the oldest; and what the bus does not take, as it is worth nothing later."""
    keeps = _Keeps()
    Bed(keeps).gardener.tick()

    async def work() -> None:
        bus = MockMessageBusClient()
        showing = Showing(bus, "observed", Stamp("test"), "test")
        for _ in range(AT_ONCE + 3):
            showing.put(keeps.seen, keeps.mask)
        bus.fail("publish_many", BusUnavailable("away"), times=2)
        await showing.send()
        assert showing.dropped == 3 + 2
        assert len(await bus.read("observed")) == AT_ONCE - 2

    asyncio.run(work())


def test_a_second_run_of_the_name_is_refused_and_the_first_goes_on(here: Here) -> None:
    """It hears who is there; once the first has ended in order, the name is free at once."""
    second = Outside("test", here.bus.peer)
    with pytest.raises(RunIsTaken, match="run 'test' is on this bus already: process"):
        second.start(here.bed.gardener, fresh=True)
    second.close()
    assert isinstance(here.answered(types.Query(run="test", what="status")), types.Status)
    here.outside.close()
    third = Outside("test", here.bus.peer)
    third.start(here.bed.gardener, fresh=True)
    third.close()


def test_who_stood_still_for_too_long_obeys_no_more(tmp_path: Path) -> None:
    """Another process has the name by then: this one leaves the bus, and training goes on."""
    bus, bed = InProcessBus(), Bed()
    few = OutsideConfig(heartbeat_s=0.05, lease_s=5.0)
    with EventLog(tmp_path / "events.jsonl", "test") as log:
        first = Outside("test", bus.peer, log=log, config=few)
        first.start(bed.gardener, fresh=True)
        with Outside("test", bus.peer, log=log, config=few) as second:  # from the same folder
            second.start(bed.gardener, fresh=False)
            end = time.monotonic() + 20
            while first.fault is None:
                assert time.monotonic() < end
                time.sleep(0.01)
            assert isinstance(first.fault, LeaseLost)
            first.after_step()
            assert second.fault is None
        first.close()


def test_commands_wait_while_it_is_not_sure_whose_the_name_is(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bus that is away for longer than the lease may have given the name to another run."""
    with monkeypatch.context() as unsure:
        unsure.setattr(Lease, "held", False)
        asked = here.ask(types.Cancel(run="test", target=SEED))
        here.until(lambda: here.outside.handler.waiting > 0)
        here.outside.after_step()
        assert here.outside.handler.waiting == 1
        assert not asked.done()
    here.until(asked.done)
    assert isinstance(asked.result(), types.Applied)


def keeper() -> Keeper:
    """One whose checkpoints are not on the disk yet, so that no command leaves its stream."""
    found = Keeper.__new__(Keeper)
    found._steps = 1
    found.names = list  # type: ignore[method-assign]
    return found


def test_a_run_that_goes_on_comes_to_where_it_had_been() -> None:
    """Commands that were applied after its checkpoint are applied at the same steps as before.

    The seed that was cancelled in TRAINING was dormant at the checkpoint, where no cancel is legal;
    the germination that was refused then would be legal at the checkpoint.
    """
    bus, beds = InProcessBus(), (Bed(), Bed())
    told: list[list[tuple[int, list[str]]]] = []

    def life(bed: Bed, outside: Outside, until: int, asks: Mapping[int, types.Command]) -> None:
        seen = []
        torch.manual_seed(0)  # of the host's dropout
        with ThreadPoolExecutor(1) as asking:
            while bed.gardener.clock.step < until:
                bed.batch()
                if bed.gardener.clock.step % 4 == 0:
                    bed.gardener.tick()
                command = asks.get(bed.gardener.clock.step)
                if command is not None:
                    work = Operator(bus.peer()).ask(command, timeout_s=20)
                    asked = asking.submit(asyncio.run, work)
                    while not asked.done():
                        outside.after_step()
                        time.sleep(0.001)
                outside.after_step()
                seen.append((bed.gardener.clock.step, bed.states))
        told.append(seen)

    first = Outside("test", bus.peer)
    first.start(beds[0].gardener, keeper(), fresh=True)
    state = first.state_dict()
    germinating = types.Germinate(run="test", target=SEED)
    asks: dict[int, types.Command] = {
        2: types.SetLimit(run="test", name="max_training", value=7),
        5: germinating,
        13: germinating,  # refused: it trains
        18: types.Cancel(run="test", target=SEED),
    }
    life(beds[0], first, 20, asks)
    assert "TRAINING" in {states[1] for _, states in told[0]}
    first.close()  # nothing of it is lost by a kill, either: answers were published
    second = Outside("test", bus.peer, prove=lambda limits: Broken("it was proved the first time"))
    second.load_state_dict(state)
    second.start(beds[1].gardener, keeper(), fresh=False)
    life(beds[1], second, 20, {})
    assert told[1] == told[0]
    assert beds[1].gardener.limits["max_training"] == 7
    assert_same(beds[0].model.state_dict(), beds[1].model.state_dict())
    second.close()


def test_each_limit_is_proved_by_what_those_before_it_left() -> None:
    """Two that are legal alone and not together, asked at once: the second is refused."""
    bus, bed, asked = InProcessBus(), Bed(), list[tuple[float, float]]()
    names = ("max_training", "hopeless_epochs")

    def prove(limits: Mapping[str, float]) -> Broken | None:
        values = limits[names[0]], limits[names[1]]
        asked.append(values)
        if limits["max_training"] == 9:
            raise OSError("no process can be made")
        return Broken("both", ("a", "b")) if values == (7, 11) else None

    with Outside("test", bus.peer, prove=prove) as outside:
        outside.start(bed.gardener, fresh=True)
        before = bed.gardener.limits[names[0]], bed.gardener.limits[names[1]]
        changes = [("max_training", 7), ("hopeless_epochs", 11), ("max_training", 9)]
        with ThreadPoolExecutor(3) as asking:
            found = []
            for number, (name, value) in enumerate(changes):
                command = types.SetLimit(run="test", name=name, value=value)
                work = Operator(bus.peer()).ask(command, timeout_s=60)
                found.append(asking.submit(asyncio.run, work))
                end = time.monotonic() + 60
                while outside.handler.accepted <= number:  # in their order
                    assert time.monotonic() < end
                    time.sleep(0.002)
            while not all(each.done() for each in found):
                assert time.monotonic() < end
                outside.after_step()
                time.sleep(0.002)
        first, second, third = (each.result() for each in found)
        assert isinstance(first, types.Applied)
        assert isinstance(second, types.Refused)
        assert (second.reason, second.detail, second.witness) == ("property", "both", ("a", "b"))
        assert isinstance(third, types.Refused)
        assert third.detail == "it cannot be proved: OSError('no process can be made')"
        assert asked == [(7, before[1]), (7, 11), (9, before[1])]
        assert bed.gardener.limits[names[1]] == before[1]


def test_what_was_proved_of_other_limits_is_proved_again() -> None:
    """A rewind may set limits back while a proof is under way; what ends meanwhile is told."""
    bus, bed = InProcessBus(), Bed()
    began, goes_on, asked = Event(), Event(), list[float]()

    def prove(limits: Mapping[str, float]) -> Broken | None:
        asked.append(limits["hopeless_epochs"])
        began.set()
        assert goes_on.wait(60)
        return None

    outside = Outside("test", bus.peer, prove=prove)
    outside.start(bed.gardener, fresh=True)
    with ThreadPoolExecutor(2) as asking:

        def sends(command: types.Command) -> Future[Answer]:
            work = Operator(bus.peer()).ask(command, timeout_s=60)
            return asking.submit(asyncio.run, work)

        first = sends(types.SetLimit(run="test", name="max_training", value=7))
        end = time.monotonic() + 60
        while not began.is_set():
            assert time.monotonic() < end
            outside.after_step()
        bed.gardener.limits.override("hopeless_epochs", 12)
        goes_on.set()
        while not first.done():
            assert time.monotonic() < end
            outside.after_step()
        assert isinstance(first.result(), types.Applied)
        assert len(asked) == 2
        assert asked[1] == 12 != asked[0]
        began.clear()
        goes_on.clear()
        late = sends(types.SetLimit(run="test", name="max_training", value=8))
        while not began.is_set():
            assert time.monotonic() < end
            outside.after_step()
        outside.close(finished=True)
        goes_on.set()
        answer = late.result(60)
        assert isinstance(answer, types.Refused)
        assert (answer.reason, answer.detail) == ("expired", "the run has ended")


def test_a_flood_of_commands_waits_in_its_stream() -> None:
    """So many a second are read, after the first ones, however many are there."""
    bus, bed = InProcessBus(), Bed()
    few = OutsideConfig(commands_a_second=2)
    with Outside("test", bus.peer, config=few) as outside:
        outside.start(bed.gardener, fresh=True)
        began = time.monotonic()
        query = Stamp("test")(types.Query(run="test", what="status"))
        stamp = Stamp("somebody")
        payloads = [wire.encode(stamp(query.body)) for _ in range(6)]
        asyncio.run(bus.publish_many(streams_of("test").commands, payloads))
        end = began + 60
        while outside.handler.accepted < 6:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert time.monotonic() - began >= 1.9  # two at once, then one each half second


class Ailing(InProcessBus):
    """A bus that takes no health for as long as it is told."""

    calls = 0
    away = True

    async def publish_many(
        self, stream: str, payloads: Sequence[bytes], *, keep: int | None = None
    ) -> list[str]:
        """See `MessageBusClient`."""
        if stream.endswith(":health"):
            type(self).calls += 1
            if type(self).away:
                raise BusUnavailable("told by the test")
        return await super().publish_many(stream, payloads, keep=keep)


def test_a_bus_that_takes_no_health_is_left_alone_for_a_while() -> None:
    """After five failures in a row it is not asked; when it takes some again, all goes on."""
    bus, bed = Ailing(), Bed()
    config = OutsideConfig(telemetry_s=0.01, telemetry=TelemetryConfig(batch_s=0.01))
    with Outside("test", bus.peer, config=config) as outside:
        outside.start(bed.gardener, fresh=True)
        breaker = outside.telemetry.outages._breaker
        assert breaker is not None

        def until(so: Callable[[], bool]) -> None:
            end = time.monotonic() + 60
            while not so():
                assert time.monotonic() < end
                outside.after_step()
                time.sleep(0.002)

        until(lambda: breaker._state is BreakerState.OPEN)
        assert Ailing.calls >= 5
        until(lambda: outside.telemetry.outages.count > Ailing.calls)  # refused by the breaker
        Ailing.away = False
        until(lambda: outside.telemetry.sent > 0)
        assert breaker.state is BreakerState.CLOSED
