"""The parts of a run on a real server, each apart: streams that are spoiled, forged signs, losses.

The run is one of this process, so that it costs no start of another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from kasmina.bus.client import position
from kasmina.bus.lease import RunIsTaken
from kasmina.bus.names import DEAD_LETTERS, HEARTBEATS, streams_of
from kasmina.bus.operator import Answer, Operator
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.signing import Key, Signer, Verifier
from kasmina.bus.stamping import Stamp
from kasmina.growth.outside import Outside, OutsideConfig
from kasmina.observe.log import EventLog
from kasmina_generated.messages import types, wire
from tests.faults.bus_runs import WITHIN_S, alive, on
from tests.redis_servers import RedisServer
from tests.runtime.growth.gardens import Bed
from tests.runtime.growth.test_outside import keeper

RUN = "test"
STREAMS = streams_of(RUN)
SEED = types.Target(site=".", slot=1)
LAST = "18446744073709551615-18446744073709551615"
KEY = Key("key", bytes(range(32)))
FEW = OutsideConfig(telemetry_s=0.05, heartbeat_s=0.1, lease_s=600.0)


class Served:
    """A run on the server, with its log, and somebody who asks."""

    def __init__(self, server: RedisServer, folder: Path, bed: Bed, **options: Any) -> None:
        self.server, self.bed = server, bed
        self.log = EventLog(folder / "events.jsonl", RUN)
        self.outside = Outside(
            RUN,
            lambda: RedisStreamClient(server.url),
            log=self.log,
            cursor=folder / "published",
            config=FEW,
            **options,
        )
        self.asking = ThreadPoolExecutor(4)

    def ask(self, command: types.Command, sign: Signer | None = None) -> Future[Answer]:
        """Send a command from a thread of its own."""

        async def work(client: RedisStreamClient) -> Answer:
            return await Operator(client, sign=sign).ask(command, timeout_s=WITHIN_S)

        return self.asking.submit(on, self.server, work)

    def answered(self, command: types.Command, sign: Signer | None = None) -> Answer:
        """What became of a command, with the run between two steps meanwhile."""
        asked = self.ask(command, sign)
        self.until(asked.done)
        return asked.result()

    def until(self, so: Callable[[], bool]) -> None:
        """Let the time between steps pass until something is so."""
        end = time.monotonic() + WITHIN_S
        while not so():
            assert time.monotonic() < end
            self.outside.after_step(stop=so)
            time.sleep(0.002)

    def counts(self) -> dict[str, int]:
        """What the run has done, by its own answer."""
        found = self.answered(types.Query(run=RUN))
        assert isinstance(found, types.Status)
        return {each.what: each.number for each in found.counts}

    def counts_here(self) -> dict[str, int]:
        """The same without a bus."""
        return self.outside._serving.counts()

    def alarms(self) -> list[types.Alarm]:
        """Those on the bus."""
        found = on(self.server, lambda client: client.read(STREAMS.events, count=5000))
        bodies = [wire.decode(each.payload).body for each in found]
        return [each for each in bodies if isinstance(each, types.Alarm)]


@contextmanager
def serving(
    server: RedisServer, folder: Path, state: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[Served]:
    """A run that is closed afterwards; with a state it goes on from there."""
    folder.mkdir(exist_ok=True)
    found = Served(server, folder, Bed(), **options)
    try:
        if state is not None:
            found.outside.load_state_dict(state)
        found.outside.start(found.bed.gardener, keeper(), fresh=state is None)
        yield found
    finally:
        found.outside.close()
        found.log.close()
        found.asking.shutdown()


def heard(caplog: pytest.LogCaptureFixture, what: str) -> Callable[[], bool]:
    """Whether the log says something."""
    return lambda: any(what in each.getMessage() for each in caplog.records)


def test_a_stream_that_is_spoiled_is_tried_again_and_the_others_do_not_notice(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another type, or no id left, on each stream of a held run: it stays held, and then obeys."""
    with serving(server, tmp_path) as run:
        assert isinstance(run.answered(types.Pause(run=RUN)), types.Applied)
        for part, stream in (
            ("commands", STREAMS.commands),
            ("answers", STREAMS.replies),
            ("telemetry", STREAMS.health),
            ("events", STREAMS.events),
            ("signs of life", STREAMS.lease),
            ("signs of life", HEARTBEATS),
        ):
            for spoil in (("SET", stream, "text"), ("XADD", stream, LAST, "p", b"x")):
                if part == "commands" and spoil[0] == "XADD":
                    continue  # who sends to it hears of that
                caplog.clear()
                server.ask("DEL", stream)
                server.ask(*spoil)
                if part == "answers":
                    sent = wire.encode(Stamp("somebody")(types.Query(run=RUN)))
                    on(server, lambda client: client.publish(STREAMS.commands, sent))  # noqa: B023
                if part == "events":
                    run.log.append("limit", epoch=0, step=0, name="max_training", value=7)
                run.outside._due = 0.0  # a frame of health
                run.outside._serving.alarms._told.clear()
                run.until(heard(caplog, f"run {RUN}: {part}: "))
                assert run.outside.fault is None
                assert run.outside._is_held()
                server.ask("DEL", stream)
        if not run.outside._serving.lease.held:
            run.until(lambda: run.outside._serving.lease.held)
        assert isinstance(run.answered(types.Resume(run=RUN)), types.Applied)
        run.until(lambda: len(run.alarms()) > 0)
        assert "WRONGTYPE" in run.alarms()[-1].detail or "exhausted" in run.alarms()[-1].detail
        assert run.counts()["alarms"] >= 11


def test_a_run_begins_on_streams_that_have_no_id_left(server: RedisServer, tmp_path: Path) -> None:
    """It tells the part; once somebody has deleted what cannot be used, it obeys."""
    server.ask("XADD", STREAMS.commands, LAST, "p", b"x")
    with serving(server, tmp_path) as run:
        assert server.ask("XLEN", STREAMS.commands) == 0
        server.ask("DEL", STREAMS.commands)
        assert isinstance(run.answered(types.Cancel(run=RUN, target=SEED)), types.Applied)


def test_a_run_whose_bus_has_ended_stays_held(server: RedisServer, tmp_path: Path) -> None:
    """Nobody has let it go; what asks whether to stop ends it."""
    with serving(server, tmp_path) as run:
        assert isinstance(run.answered(types.Pause(run=RUN)), types.Applied)
        other = types.Heartbeat(
            run=RUN, epoch=0, step=0, every=1.0, paused=False, waiting=0, lease=60.0,
            folder=run.outside._serving._signs._folder, place="elsewhere",
        )  # fmt: skip
        sign = wire.encode(Stamp("other")(other))
        on(server, lambda client: client.publish(STREAMS.lease, sign))
        run.until(lambda: run.outside.fault is not None)
        began, looks = time.monotonic(), 0

        def stop() -> bool:
            nonlocal looks
            looks += 1
            return looks > 20

        run.outside.after_step(stop)
        assert looks > 20
        assert time.monotonic() - began > 0.1


def test_forged_signs_and_unsigned_answers_do_nothing_where_a_key_is_known(
    server: RedisServer, tmp_path: Path
) -> None:
    """Of another process in its folder: unsigned, by another key, of another run, copied, old."""
    with serving(server, tmp_path, verify=Verifier((KEY,))) as run:
        signs = [wire.decode(each.payload) for each in on(server, lambda c: c.read(STREAMS.lease))]
        assert all(isinstance(each.body, types.Signed) for each in signs)
        beat = wire.decode(signs[0].body.payload).body  # type: ignore[union-attr]
        assert isinstance(beat, types.Heartbeat)
        stamp, old = Stamp("other"), Stamp("other", clock=lambda: time.time() - 1000)
        forged = [
            stamp(beat),
            Signer(Key("key", bytes(32)))(stamp(beat)),
            Signer(KEY)(stamp(structs.replace(beat, run="another"))),
            Signer(KEY)(old(beat)),
            *signs[:1] * 3,
        ]
        payloads = [wire.encode(each) for each in forged]
        entries = on(server, lambda client: client.publish_many(STREAMS.lease, payloads))
        lease = run.outside._serving.lease
        run.until(lambda: lease._last > entries[-1] or run.outside.fault is not None)
        assert run.outside.fault is None
        assert isinstance(run.answered(types.Pause(run=RUN), Signer(KEY)), types.Applied)
        second = Outside(RUN, lambda: RedisStreamClient(server.url), verify=Verifier((KEY,)))
        with pytest.raises(RunIsTaken):
            second.start(run.bed.gardener, fresh=True)
        on(
            server,
            lambda client: client.publish(STREAMS.lease, wire.encode(Signer(KEY)(stamp(beat)))),
        )
        run.until(lambda: run.outside.fault is not None)  # that one is real


def test_an_applied_command_that_was_signed_survives(server: RedisServer, tmp_path: Path) -> None:
    """As without a key: it is done again at its moment, and not proved again."""
    verify = Verifier((KEY,))
    with serving(server, tmp_path, verify=verify) as run:
        state = run.outside.state_dict()
        limit = types.SetLimit(run=RUN, name="max_training", value=7)
        assert isinstance(run.answered(limit, Signer(KEY)), types.Applied)
    more = {"verify": Verifier((KEY,)), "prove": _never}
    with serving(server, tmp_path / "again", state, **more) as run:
        run.until(lambda: run.bed.gardener.limits["max_training"] == 7)


def _never(limits: object) -> None:
    raise AssertionError("it was proved the first time")


def test_what_the_server_has_lost_is_told_once(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, as an alarm, and in the answer to a query; also where the run was away meanwhile."""
    with serving(server, tmp_path) as run:
        assert isinstance(run.answered(types.Cancel(run=RUN, target=SEED)), types.Applied)
        server.ask("FLUSHALL")
        run.until(lambda: any(each.what == "bus wiped" for each in run.alarms()))
        run.until(lambda: run.outside._serving._losses._told == 1)
        assert heard(caplog, "run test: bus wiped: the server has lost all that it held")()
        assert (run.counts()["losses"], run.counts()["alarms"]) == (1, 1)
        assert [each.severity for each in run.alarms()] == ["warning"]
        assert isinstance(run.answered(types.Germinate(run=RUN, target=SEED)), types.Refused)
        state = run.outside.state_dict()
    server.ask("FLUSHALL")
    caplog.clear()
    with serving(server, tmp_path / "again", state) as run:
        run.until(lambda: bool(run.alarms()))
        (alarm,) = run.alarms()
        assert alarm.what == "commands lost"
        assert f"stream {STREAMS.commands!r} does not hold what this run had read" in alarm.detail
        came = datetime.fromtimestamp(position(state["commands"]["position"])[0] / 1000, UTC)
        assert f"What was asked since {came:%Y-%m-%d %H:%M:%S} UTC may not be done" in alarm.detail


def test_a_server_that_was_away_is_told_once(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At once in the log, by whichever part finds it, and on the bus when it is back."""
    with serving(server, tmp_path) as run:
        alive(server, RUN)
        server.kill()
        run.until(lambda: run.counts_here()["alarms"] > 0)
        run.log.append("limit", epoch=0, step=0, name="max_training", value=7)
        calls = run.counts_here()["calls not answered"]
        run.until(lambda: run.counts_here()["calls not answered"] > calls + 3)
        server.start()
        run.until(lambda: any(each.what == "bus away" for each in run.alarms()))
        (alarm,) = (each for each in run.alarms() if each.what == "bus away")
        assert alarm.severity == "warning"
        assert alarm.detail.endswith(
            "; the run goes on, and what is asked of it or told by it waits"
        )
        assert heard(caplog, "run test: bus away: redis://")()


def test_a_run_that_ends_says_so(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for it; what it has done stands in the log. Bad commands are dead letters."""
    caplog.set_level(logging.INFO)
    with serving(server, tmp_path) as run:
        alive(server, RUN)
        on(server, lambda client: client.publish_many(STREAMS.commands, [b"bad"] * 40))
        run.until(lambda: run.outside.handler.unreadable == 40)
        counts = run.counts()
        assert counts["commands unreadable"] == 40
        kept = 40 - counts["commands unreadable, no dead letter"]
        assert 32 <= kept < 40  # one more a second
        run.until(lambda: server.ask("XLEN", DEAD_LETTERS) == kept)
    runs = on(server, lambda client: Operator(client).runs())
    assert runs[RUN].beat.ended
    assert runs[RUN].silent
    assert heard(caplog, "run test leaves its bus: ")()
    assert heard(caplog, "commands unreadable 40")()
    (letter, *_) = on(server, lambda client: client.read(DEAD_LETTERS))
    body = wire.decode(letter.payload).body
    assert isinstance(body, types.DeadLetter)
    assert (body.stream, body.reader, body.payload) == (STREAMS.commands, RUN, b"bad")
    assert body.cause.startswith("MessageRefused: ")
