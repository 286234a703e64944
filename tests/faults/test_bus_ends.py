"""What ends, and what is left: streams behind checkpoints, runs that are stopped, a broker that dies."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from kasmina.bus.client import position
from kasmina.bus.names import streams_of
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.stamping import Stamp
from kasmina.checkpoint import CheckpointManager
from kasmina.control.tamiyo import TamiyoConfig
from kasmina.growth.outside import OutsideConfig
from kasmina.observe.log import Record, read_log
from kasmina_generated.messages import types, wire
from tests.faults.bus_runs import (
    RUN,
    WITHIN_S,
    alive,
    answers,
    ask,
    growing,
    hold,
    let_go,
    on,
    process,
    published,
    resumed,
    status,
    until,
    waits,
)
from tests.redis_servers import RedisServer

COMMANDS = streams_of(RUN).commands


def log(folder: Path) -> list[Record]:
    """The events of the run until now."""
    return read_log(folder / "run3" / "events.jsonl", ignore_torn=True)


def entries(server: RedisServer) -> dict[str, str]:
    """Ids of the entries that the stream of commands has, by the id of the command."""
    found = on(server, lambda client: client.read(COMMANDS, count=5000))
    return {wire.decode(each.payload).id: each.id for each in found}


def positions(folder: Path) -> list[tuple[int, int]]:
    """How far the commands were done that each checkpoint on the disk holds, the newest first."""
    manager = CheckpointManager(folder / "run3" / "checkpoints", sweep=False)
    return [
        position(manager.restore(str(each.id)).contents().parts["outside"]["commands"]["position"])
        for each in manager.list()
    ]


async def _is_trimmed(client: RedisStreamClient) -> bool:
    return (await client.info(COMMANDS)).length <= 1


async def _has_beaten(client: RedisStreamClient, *, until: float) -> bool:
    found = await client.read("kasmina:heartbeats", count=5000)
    return any(wire.decode(each.payload).time > until for each in found)


def test_commands_leave_their_stream_behind_checkpoints_only(
    server: RedisServer, tmp_path: Path
) -> None:
    """What no checkpoint holds stays, and is done again, at its step, by a run that was killed."""
    stamp = Stamp("somebody")

    def send(command: types.Command) -> tuple[str, str]:
        """Its id, and that of its entry."""
        envelope = stamp(command)
        publish = partial(_publish, payload=wire.encode(envelope))
        return envelope.id, on(server, publish)

    def applied(id: str) -> types.Applied:
        """What was answered to a command; each time the same."""
        until(server, partial(_is_done, id=id))
        found = on(server, lambda client: answers(client, RUN, id))
        outcomes = [each for each in found if not isinstance(each, types.Accepted)]
        assert isinstance(outcomes[0], types.Applied), outcomes
        assert all(each == outcomes[0] for each in outcomes), outcomes
        return outcomes[0]

    with growing(server, tmp_path, "--controller", "bus", "--checkpoint-every", "1") as run:
        alive(server)
        for name in ("cosine", "linear") * 3:
            id, entry = send(types.SetStrategy(run=RUN, target=types.Target(), strategy=name))
            applied(id)
            if id not in entries(server):  # it was let go of, so every checkpoint holds it
                assert min(positions(tmp_path)) >= position(entry)
        until(server, _is_trimmed)
        # ---- while it is held nothing is saved, and so nothing leaves the stream
        pause, _ = send(types.Pause(run=RUN))
        held = applied(pause)
        targets = [types.Target(site=".", slot=slot) for slot in range(4)]
        begun = [send(types.Germinate(run=RUN, target=target))[0] for target in targets]
        before = {id: applied(id) for id in [pause, *begun]}
        looked = time.time() + 2 * OutsideConfig().heartbeat_s
        until(server, partial(_has_beaten, until=looked))  # it has looked at the disk meanwhile
        stood = entries(server)
        assert stood.keys() >= before.keys()
        assert max(positions(tmp_path)) < position(stood[pause])  # no checkpoint holds any of them
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL
    killed = time.time()
    late, _ = send(types.Cancel(run=RUN, target=targets[3]))  # while nobody is there
    with resumed(server, tmp_path):
        alive(server, after=killed)
        applied(late)
        assert {id: applied(id) for id in [pause, *begun]} == before
        found = status(server)
        assert (found.paused, found.step) == (True, held.step)
        counts = {each.state: each.seeds for each in found.sites[0].states}
        del counts["DORMANT"]
        assert counts == {"GERMINATED": 3, "CANCELLED": 1}
        moves = Counter(
            (r.address.slot if r.address else None, r["to"])
            for r in log(tmp_path)
            if r.kind == "transition"
        )
        assert moves == {(0, "GERMINATED"): 1, (1, "GERMINATED"): 1, (2, "GERMINATED"): 1,
                         (3, "GERMINATED"): 1, (3, "CANCELLED"): 1}  # fmt: skip
        assert isinstance(ask(server, types.Resume(run=RUN)), types.Applied)
        until(server, _is_trimmed)


async def _publish(client: RedisStreamClient, *, payload: bytes) -> str:
    return await client.publish(COMMANDS, payload)


async def _is_done(client: RedisStreamClient, *, id: str) -> bool:
    found = await answers(client, RUN, id)
    return any(not isinstance(each, types.Accepted) for each in found)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_has_told_everything(
    server: RedisServer, tmp_path: Path, number: signal.Signals
) -> None:
    """Held or not: every event is on the bus, once; its clients are closed; the code says why."""
    with growing(server, tmp_path) as run:
        alive(server)
        if number is signal.SIGINT:
            assert isinstance(ask(server, types.Pause(run=RUN)), types.Applied)
        run.send_signal(number)
        assert run.wait(WITHIN_S) == 128 + number
    records = log(tmp_path)
    assert (records[-1].kind, records[-1]["status"]) == ("run_finished", "interrupted")
    assert on(server, lambda client: published(client, RUN)) == list(range(len(records)))
    assert b"name=kasmina" not in server.ask("CLIENT", "LIST", "TYPE", "normal")  # type: ignore[operator]
    told = (tmp_path / "grow.txt").read_text()
    assert "ending after this step" in told
    assert "Traceback" not in told


def decided(folder: Path) -> list[int]:
    """The epochs that a controller has decided in, in its order."""
    found = re.findall(rf"^{RUN}, epoch (\d+): ", (folder / "tamiyo.txt").read_text(), re.MULTILINE)
    return [int(each) for each in found]


def decides_beyond(folder: Path, epoch: int) -> None:
    """Wait for a decision of a later epoch."""
    end = time.monotonic() + WITHIN_S
    while max(decided(folder), default=0) <= epoch:
        assert time.monotonic() < end, (folder / "tamiyo.txt").read_text()[-2000:]
        time.sleep(0.02)


async def _observed(client: RedisStreamClient) -> list[int]:
    """Epochs of the observations that the stream has."""
    stream = streams_of(RUN).observed
    return [wire.decode(each.payload).body.epoch for each in await client.read(stream)]  # type: ignore[union-attr]


def test_a_controller_outlives_its_broker_and_is_outlived(
    server: RedisServer, tmp_path: Path
) -> None:
    """The broker is killed and restarted, then the controller: each observation is answered once."""
    first_wave = int(TamiyoConfig().first * 600)
    with growing(server, tmp_path, "--controller", "bus", "--epochs", "600") as run:
        hold(server)
        with process(tmp_path, "tamiyo", "--verbose", "--bus", server.url) as tamiyo:
            waits(tmp_path, 1)
            let_go(server)
            decides_beyond(tmp_path, status(server).epoch)
            first = server.ask("INFO", "server")
            server.kill()
            reached = max(decided(tmp_path))
            server.start()
            assert _run_id(server.ask("INFO", "server")) != _run_id(first)
            decides_beyond(tmp_path, reached)
            assert (tamiyo.poll(), run.poll()) == (None, None)
            tamiyo.send_signal(signal.SIGKILL)
            assert tamiyo.wait() == -signal.SIGKILL
        hold(server)
        reached = max(decided(tmp_path))
        assert reached < first_wave
        with process(tmp_path, "tamiyo", "--verbose", "--bus", server.url) as tamiyo:
            waits(tmp_path, 2)
            let_go(server)
            decides_beyond(tmp_path, first_wave + 10)
            assert isinstance(ask(server, types.Pause(run=RUN)), types.Applied)
            there = on(server, _observed)
            decides_beyond(tmp_path, max(there) - 1)
            tamiyo.send_signal(signal.SIGTERM)
            assert tamiyo.wait(WITHIN_S) == 0
        epochs = Counter(decided(tmp_path))
        assert set(there) <= epochs.keys()
        twice = {epoch for epoch, times in epochs.items() if times > 1}
        assert twice <= {reached}  # told, and killed before it had noted so
        begun = Counter(
            r.address for r in log(tmp_path) if r.kind == "transition" and r["to"] == "GERMINATED"
        )
        assert begun
        assert set(begun.values()) == {1}
    assert "Traceback" not in (tmp_path / "tamiyo.txt").read_text()


def _run_id(info: object) -> object:
    assert isinstance(info, dict)
    return info["run_id"]
