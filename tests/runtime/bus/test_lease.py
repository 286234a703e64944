"""One process for each name of a run, on a bus whose clock the test moves."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest
from msgspec import structs

from kasmina.bus.client import Loss
from kasmina.bus.errors import BusRejected
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.lease import Lease, LeaseLost, RunIsTaken, folder_of, place_of
from kasmina.bus.signing import Key, Signer, Verifier
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import types, wire

STREAM = "kasmina:run:lease"
KEY = Key("key", bytes(range(32)))


class Clock:
    """The bus's."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


def beat(lease: float = 10.0, folder: str = "", place: str = "here") -> types.Heartbeat:
    """A sign of life."""
    return types.Heartbeat(
        run="run", epoch=3, step=40, every=1.0, paused=False, waiting=0,
        lease=lease, folder=folder, place=place,
    )  # fmt: skip


class Two:
    """Two processes that would be the same run."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.bus = InProcessBus(clock=self.clock)
        self.one, self.other = (Lease(self.bus.peer(), STREAM, Stamp("run")) for _ in range(2))


def test_the_first_one_is_the_run_and_the_second_hears_of_it() -> None:
    """It is told as soon as the first gives another sign, with where that one is and what helps."""

    async def work() -> None:
        two = Two()
        await two.one.take(beat)
        await two.one.keep(beat())
        assert two.one.held
        second = asyncio.create_task(two.other.take(partial(beat, place="there")))
        while not second.done():
            two.clock.now += 0.5
            await two.one.keep(beat(place="process 7 on host, in /runs/a"))
            await asyncio.sleep(0.01)
        with pytest.raises(RunIsTaken) as error:
            await second
        assert str(error.value).startswith(
            "run 'run' is on this bus already: process 7 on host, in /runs/a, at epoch 3, step 40."
        )
        assert "--seed" in str(error.value)
        assert "redis://HOST:PORT/1" in str(error.value)
        assert not two.other.held
        await two.one.keep(beat())  # nothing of it has touched the first

    asyncio.run(work())


def test_a_dead_one_is_followed_when_its_lease_is_over() -> None:
    """And not before; when it wakes up, it hears that it is the run no more."""

    async def work() -> None:
        two = Two()
        await two.one.take(partial(beat, 0.4))
        began = time.monotonic()
        moving = asyncio.create_task(move(two.clock))
        await two.other.take(partial(beat, place="the second"))
        assert time.monotonic() - began >= 0.4
        moving.cancel()
        with pytest.raises(LeaseLost, match="the second is run 'run' now"):
            await two.one.keep(beat(0.4))
        assert not two.one.held
        await two.other.keep(beat())

    async def move(clock: Clock) -> None:
        began = time.monotonic()
        while True:
            clock.now = 1000 + time.monotonic() - began
            await asyncio.sleep(0.01)

    asyncio.run(work())


def test_the_same_folder_and_a_name_that_was_given_back_are_free_at_once() -> None:
    """The clock of the bus stands still here, so no lease ends."""

    async def work() -> None:
        two = Two()
        await two.one.take(partial(beat, folder="f"))
        await two.other.take(partial(beat, folder="f"))
        with pytest.raises(LeaseLost):
            await two.one.keep(beat(folder="f"))
        await two.other.let_go(beat(0.0))
        assert not two.other.held
        third = Lease(two.bus.peer(), STREAM, Stamp("run"))
        await third.take(partial(beat, folder="another"))

    asyncio.run(work())


def test_a_sign_is_certain_only_once_it_was_seen() -> None:
    """`held` goes by when a sign was sent that nobody has contradicted; after a pause it is over."""

    async def work() -> None:
        two = Two()
        await two.one.take(partial(beat, 0.05))
        assert two.one.held
        await asyncio.sleep(0.06)
        assert not two.one.held
        await two.one.keep(beat(5.0))  # its lease is over, and nobody has taken the name
        await two.one.keep(beat(5.0))
        assert two.one.held

    asyncio.run(work())


def test_what_was_lost_is_begun_anew_and_what_is_no_sign_is_passed_over() -> None:
    """After FLUSHALL whoever signs first is the run, for all; a stream with older ids, too."""

    async def work() -> None:
        two = Two()
        await two.one.take(beat)
        await two.bus.wipe()
        await two.bus.publish(STREAM, b"no message")
        status = types.Applied(run="run", epoch=0, step=0)
        await two.bus.publish(STREAM, wire.encode(Stamp("x")(status)))
        await two.other.take(partial(beat, place="the second"))
        two.one._begin_anew(Loss("wiped", None, None, None, ""))
        with pytest.raises(LeaseLost):
            await two.one.keep(beat())
        await two.bus.wipe()
        two.clock.now -= 500  # the ids that come now are older
        await two.other.keep(beat())
        await two.other.keep(beat())
        assert two.other.held

    asyncio.run(work())


def test_where_a_key_is_known_only_signed_signs_count_each_once() -> None:
    """Whoever has no key, copies a sign, or brings one of another run, does nothing."""

    async def work() -> None:
        two, now = Two(), lambda: 1000.0
        verify = Verifier((KEY,))
        one = Lease(two.bus.peer(), STREAM, Stamp("run", clock=now), verify=verify)
        await one.take(partial(beat, folder="f"))
        before = (await two.bus.read(STREAM))[0].payload
        other = Stamp("other", clock=now)
        forged = [
            wire.encode(other(beat(folder="f"))),
            wire.encode(Signer(Key("key", bytes(32)))(other(beat(folder="f")))),
            wire.encode(Signer(KEY)(other(structs.replace(beat(folder="f"), run="another")))),
            wire.encode(Signer(KEY)(Stamp("x", clock=lambda: 1.0)(beat(folder="f")))),
        ]
        for payload in forged:
            await two.bus.publish(STREAM, payload)
            await one.keep(beat(folder="f"))
        second = Lease(two.bus.peer(), STREAM, Stamp("run", clock=now), verify=verify)
        await second.take(partial(beat, folder="f"))  # it goes on in the folder
        await two.bus.publish(STREAM, before)  # the first one's, once more
        await second.keep(beat(folder="f"))
        await second.keep(beat(folder="f"))
        assert second.held
        with pytest.raises(LeaseLost):
            await one.keep(beat(folder="f"))

    asyncio.run(work())


def test_a_clock_that_is_wrong_is_told_where_signs_are_signed() -> None:
    """Nobody would believe this process, itself included."""

    async def work() -> None:
        late = Stamp("run", clock=lambda: 1.0)
        lease = Lease(Two().bus.peer(), STREAM, late, verify=Verifier((KEY,)))
        with pytest.raises(BusRejected, match="its clock and this machine's differ by minutes"):
            await lease.take(beat)

    asyncio.run(work())


def test_only_the_last_senders_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nobody fills the memory of a run by names."""
    monkeypatch.setattr("kasmina.bus.lease.SENDERS", 3)

    async def work() -> None:
        two = Two()
        await two.one.take(beat)
        for _ in range(10):
            await two.bus.publish(STREAM, wire.encode(Stamp("x")(beat())))
            await two.one.keep(beat())
        await two.one.keep(beat())
        assert len(two.one._numbers) == 3
        assert two.one.held

    asyncio.run(work())


def test_a_folder_is_known_again_and_told(tmp_path: Path) -> None:
    """A copy of it is another one; who is at work there is told for people."""
    here, there = tmp_path / "a", tmp_path / "b"
    here.mkdir()
    there.mkdir()
    assert folder_of(here / "events.jsonl") == folder_of(here / "events.jsonl")
    assert folder_of(here / "events.jsonl") != folder_of(there / "events.jsonl")
    before = folder_of(here / "events.jsonl")
    assert folder_of(here.rename(tmp_path / "c") / "events.jsonl") == before
    assert place_of(tmp_path / "c" / "events.jsonl").endswith(f", in {tmp_path / 'c'}")
    assert len(place_of(tmp_path / ("d" * 600) / "x")) == 512
