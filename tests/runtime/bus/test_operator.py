"""Who asks a run, on virtual time: what is sent again, and what is told where nothing is known."""

from __future__ import annotations

import asyncio
import time

import pytest
from msgspec import structs

from kasmina.bus.client import MessageBusClient
from kasmina.bus.errors import BusClosed, BusError, BusFull, BusRefused, BusUnavailable
from kasmina.bus.mock import MockMessageBusClient
from kasmina.bus.names import HEARTBEATS, streams_of
from kasmina.bus.operator import LONGEST_EVERY_S, RESEND_S, SILENT, NoAnswer, NoSuchRun, Operator
from kasmina.bus.outbox import Outbox
from kasmina.bus.requests import digest_of
from kasmina.bus.signing import Key, Signer, Verifier
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import types, wire
from tests.runtime.bus.virtual import run

RUN = "r"
COMMANDS, REPLIES = streams_of(RUN).commands, streams_of(RUN).replies
PAUSE = types.Pause(run=RUN)
AGAIN = "; the same id (`kasmina ctl --id ID`) asks for it again, and it is done once"
AWAY = BusUnavailable("cut")


async def asked(client: MessageBusClient, timeout_s: float = 60.0, **options: object) -> str:
    """What is told to somebody who gets no answer."""
    with pytest.raises(NoAnswer) as caught:
        await Operator(client, **options).ask(PAUSE, timeout_s=timeout_s, id="mine")  # type: ignore[arg-type]
    assert caught.value.id == "mine"
    return str(caught.value)


async def answer(client: MessageBusClient, body: types.Acknowledgement, to: str) -> None:
    """Answer a command."""
    await client.publish(REPLIES, wire.encode(Stamp(RUN)(body, correlation=to)))


def test_a_command_that_waits_is_told_to_wait_only_where_it_is_there() -> None:
    """What an operator reads is looked up, not supposed."""

    async def script() -> None:
        silent = "run 'r' has not answered for 60 s"
        bus = MockMessageBusClient()
        assert await asked(bus) == (
            f"{silent}; command mine waits in {COMMANDS!r} and will be carried out when the run "
            f"goes on, if neither it expires nor the bus loses it before{AGAIN}"
        )
        asking = asyncio.create_task(asked(bus, 1.9 * RESEND_S))
        await asyncio.sleep(1.5 * RESEND_S)  # between two times at which it is sent again
        await bus.wipe()
        assert await asking == (
            f"run 'r' has not answered for 57 s; command mine is not known to be in {COMMANDS!r}: "
            f"the bus took none, or has lost it{AGAIN}"
        )
        asking = asyncio.create_task(asked(bus))
        await asyncio.sleep(1)
        await answer(bus, types.Accepted(run=RUN, waiting=3), to="mine")
        assert await asking == f"{silent}; it has accepted command mine, which waits{AGAIN}"

    run(script())


def test_an_outage_is_told_once_and_waited_for() -> None:
    """Until time is out; then nobody knows where the command is."""

    async def script() -> None:
        bus, outages = MockMessageBusClient(), list[BusError]()
        bus.fail("read", AWAY, times=10_000)
        assert await asked(bus, on_outage=outages.append) == (
            f"run 'r' has not answered for 60 s; the bus is away (cut), and command mine may "
            f"have been sent{AGAIN}"
        )
        assert outages == [AWAY]
        assert sum(call.method == "read" for call in bus.calls) > 60

        bus = MockMessageBusClient()
        bus.fail("info", AWAY, times=5)
        bus.fail("publish_many", AWAY, times=5)
        asking = asyncio.create_task(Operator(bus).ask(PAUSE, timeout_s=60, id="mine"))
        await asyncio.sleep(30)
        await answer(bus, types.Applied(run=RUN, epoch=0, step=7, seeds=()), to="mine")
        found = await asking
        assert isinstance(found, types.Applied)
        assert len(await bus.published(COMMANDS)) == 1

    run(script())


def test_why_a_bus_takes_no_command_is_told_at_once_and_in_the_end() -> None:
    """What is read from it does not fail meanwhile; once it takes the command, that is forgotten."""

    async def script() -> None:
        bus, outages = MockMessageBusClient(), list[BusError]()
        full = BusFull("OOM; raise maxmemory")
        bus.fail("publish_many", full, times=10_000)
        assert await asked(bus, on_outage=outages.append) == (
            f"run 'r' has not answered for 60 s; command mine is not known to be in {COMMANDS!r}: "
            f"the bus does not take it: {full}{AGAIN}"
        )
        assert outages == [full]
        bus = MockMessageBusClient()
        bus.fail("publish_many", full)
        assert "command mine waits in " in await asked(bus)

    run(script())


def test_a_run_is_looked_for_as_long_as_there_is_time() -> None:
    """An outage is waited for, a refusal is not, and what stalls ends with the time."""

    async def script() -> None:
        bus, outages = MockMessageBusClient(), list[BusError]()
        operator = Operator(bus, on_outage=outages.append)
        bus.fail("read_back", AWAY, times=5)
        assert await operator.within(60, operator.runs) == {}
        assert outages == [AWAY]
        bus.fail("read_back", BusRefused("no right"))
        with pytest.raises(BusRefused, match=r"^no right$"):
            await operator.within(60, operator.runs)
        late = "^the bus has not answered for 6 s, and no command was sent"
        with pytest.raises(BusUnavailable, match=f"{late}$"):
            await operator.within(6, lambda: asyncio.sleep(600))
        bus.fail("read_back", AWAY, times=1000)
        with pytest.raises(BusUnavailable, match=f"{late}: cut$"):
            await operator.within(6, operator.runs)

    run(script())


def test_a_bus_that_refuses_is_told_as_such_and_after_the_command_with_its_id() -> None:
    """What was not sent needs no id."""

    async def script() -> None:
        no = BusRefused("no right")
        bus = MockMessageBusClient()
        bus.fail("publish_many", no)
        with pytest.raises(BusRefused, match=r"^no right$"):
            await Operator(bus).ask(PAUSE, timeout_s=60)
        bus.fail("read", no)
        assert await asked(bus) == f"no right; command mine was sent before{AGAIN}"

    run(script())


@pytest.mark.parametrize("signed", [False, True])
def test_what_nobody_answers_is_sent_again_as_long_as_it_counts(signed: bool) -> None:
    """An old signature proves nothing; each copy has the same id and producer."""

    async def script() -> None:
        bus = MockMessageBusClient()
        sign = Signer(Key("k", b"k" * 32)) if signed else None
        await asked(bus, timeout_s=4 * RESEND_S, sign=sign)
        sent = [wire.decode(each) for each in await bus.published(COMMANDS)]
        assert (len(sent) == 1) if signed else (len(sent) >= 3)
        assert len({(each.producer, each.id) for each in sent}) == 1

    run(script())


def test_answers_to_another_command_of_that_id_are_not_taken() -> None:
    """They name who asked, and what; those of a run that does not say are taken by their id."""

    async def script() -> None:
        bus = MockMessageBusClient()
        asking = asyncio.create_task(Operator(bus).ask(PAUSE, timeout_s=60, id="mine"))
        await asyncio.sleep(1)
        applied = types.Applied(run=RUN, epoch=0, step=7, seeds=(), asker="another")
        await answer(bus, applied, to="mine")
        reused = types.Refused(run=RUN, reason="reused", detail="no", digest=bytes(16))
        await answer(bus, reused, to="mine")
        whole = types.SetLimit(run=RUN, name="max_training", value=7)
        limited = asyncio.create_task(Operator(bus).ask(whole, timeout_s=60, id="limit"))
        await asyncio.sleep(1)
        digest = digest_of(types.SetLimit(run=RUN, name="max_training", value=7.0))
        await answer(bus, structs.replace(applied, asker=None, digest=digest), to="limit")
        await limited
        await asyncio.sleep(1)
        assert not asking.done()
        await bus.publish(REPLIES, b"nonsense")
        await answer(bus, types.Applied(run=RUN, epoch=0, step=8, seeds=()), to="mine")
        found = await asking
        assert isinstance(found, types.Applied)
        assert found.step == 8

    run(script())


def test_who_knows_a_key_takes_no_answer_that_it_does_not_prove() -> None:
    """But that the keys differ, which nobody could prove."""

    async def script() -> None:
        bus, keys = MockMessageBusClient(), Verifier((Key("k", b"k" * 32),))
        operator = Operator(bus, sign=keys.sign, verify=keys)

        async def told(*payloads: bytes) -> str:
            asking = asyncio.create_task(operator.ask(PAUSE, timeout_s=60, id="mine"))
            await asyncio.sleep(1)
            await bus.publish_many(REPLIES, payloads)
            try:
                found = await asking
            except NoAnswer as error:
                return str(error)
            return getattr(found, "reason", "") or str(getattr(found, "step", ""))

        forged = Stamp(RUN)(types.Applied(run=RUN, epoch=0, step=1, seeds=()), correlation="mine")
        other = Signer(Key("k", b"x" * 32))
        proved = Stamp(RUN)(types.Applied(run=RUN, epoch=0, step=2, seeds=()), correlation="mine")
        refused = types.Refused(run=RUN, reason="forged", detail="another key")
        unknown = Stamp(RUN)(refused, correlation="mine")
        lies = wire.encode(forged), wire.encode(other(forged))
        assert await told(*lies, wire.encode(keys.sign(proved))) == "2"
        assert await told(*lies, wire.encode(other(unknown))) == "forged"
        assert (await told(*lies)).startswith(
            "run 'r' has not answered for 60 s; 6 answers were not taken, as no key that is known "
            "here has signed them: is it the run's key?; command mine waits in "
        )

    run(script())


def test_hostile_signs_of_life_are_no_runs() -> None:
    """Names that no stream can have are passed over, and no sign lasts for ever.

    How old it is the bus says: the clocks of runs and of who looks are wrong here.
    """

    async def script() -> None:
        at = 1000.0
        bus = MockMessageBusClient(clock=lambda: at)
        names = ["fine", "\x1b[2Jforged", "two\nlines", "\u202egnp", "gone", "ended", "alive"]
        await bus.publish(HEARTBEATS, b"nonsense")
        for name in names:
            every = 1e300 if name == "fine" else 100.0
            at = 1400.0 if name == "alive" else at
            beat = types.Heartbeat(
                run=name, epoch=0, step=0, every=every, paused=False, waiting=0,
                ended=name == "ended",
            )  # fmt: skip
            late = Stamp(RUN, clock=lambda: time.time() - 1e6)
            await bus.publish(HEARTBEATS, wire.encode(late(beat)))
        at = 1401.5
        runs = await Operator(bus).runs()
        ages = {name: each.age_s for name, each in runs.items()}
        assert ages == {"fine": 401.5, "gone": 401.5, "ended": 401.5, "alive": 1.5}
        assert SILENT * LONGEST_EVERY_S < 400
        assert [name for name, each in runs.items() if not each.silent] == ["alive"]

    run(script())


def test_of_many_runs_some_are_listed() -> None:
    """Whoever writes to the bus decides how many there are."""

    async def script() -> None:
        bus = MockMessageBusClient()
        operator = Operator(bus)
        with pytest.raises(NoSuchRun, match="no run was heard of on this bus; start one by"):
            await operator.find(None)
        for number in range(25):
            beat = types.Heartbeat(
                run=f"run{number}", epoch=0, step=0, every=1.0, paused=False, waiting=0
            )
            await bus.publish(HEARTBEATS, wire.encode(Stamp(RUN)(beat)))
        some = ", ".join(f"run{number}" for number in range(20))
        with pytest.raises(NoSuchRun) as caught:
            await operator.find(None)
        assert str(caught.value) == f"there are several runs: {some} and 5 more; name one by --run"
        with pytest.raises(NoSuchRun) as caught:
            await operator.find("x")
        assert str(caught.value).endswith(f"; there are: {some} and 5 more")

    run(script())


def test_an_outbox_keeps_so_many_and_goes_on_where_one_stream_is_refused() -> None:
    """What a stream does not take is kept; that of others is sent."""

    async def script() -> None:
        bus = MockMessageBusClient()
        outbox = Outbox(bus, "s", resend_s=10.0, capacity=2)
        await outbox.send("a", b"a")
        await outbox.send_many({"b": b"b"}, stream="t")
        with pytest.raises(BusFull, match="2 messages are not done and 1 for 's' are too many"):
            await outbox.send("c", b"c")
        assert (await outbox.holds("a"), await outbox.holds("c")) == (True, False)
        sending = asyncio.create_task(outbox.run())
        bus.fail("publish_many", BusRefused("no right"))
        await asyncio.sleep(13)
        assert await bus.published("s") == [b"a"]
        assert await bus.published("t") == [b"b", b"b"]
        await asyncio.sleep(13)
        assert await bus.published("s") == [b"a", b"a"]
        assert outbox.done("a")
        assert not outbox.done("a")
        bus.fail("publish_many", BusClosed("closed"))
        with pytest.raises(BusClosed):
            await asyncio.wait_for(sending, 60)

    run(script())
