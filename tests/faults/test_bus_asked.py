"""Who asks a run, while the server is emptied, killed, or away: each command is done once."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

import pytest

from kasmina.bus.client import MessageBusClient
from kasmina.bus.commands import CommandHandler
from kasmina.bus.connecting import open_bus
from kasmina.bus.errors import BusError
from kasmina.bus.names import HEARTBEATS, streams_of
from kasmina.bus.operator import Operator
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.stamping import Stamp
from kasmina.cli.reaching import waits
from kasmina.control.remote import Steering
from kasmina_generated.messages import types, wire
from tests.faults.bus_runs import Told, kasmina, shell
from tests.helpers import ROOT
from tests.redis_servers import RedisServer, redis_server
from tests.runtime.bus.buses import run, until
from tests.runtime.control.test_remote import Bench, Counts

RUN = "r"
COMMANDS, REPLIES = streams_of(RUN).commands, streams_of(RUN).replies
PAUSE = types.Pause(run=RUN)
BEAT = types.Heartbeat(run=RUN, epoch=0, step=0, every=1.0, paused=False, waiting=0)
WITHIN_S = 60.0


@pytest.fixture
def plain() -> Iterator[RedisServer]:
    """A server that keeps nothing when it is killed."""
    with redis_server() as server:
        yield server


class Run:
    """What takes commands of the run, and counts what it does; it is alive, and stopped."""

    def __init__(self, server: RedisServer) -> None:
        self.done: list[str] = []
        self._client = RedisStreamClient(server.url, watch_s=0.05)
        self._handler = CommandHandler(
            self._client, COMMANDS, REPLIES, Stamp(RUN), run=RUN, check=lambda command: None
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.beat()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._handler.stop()
        await asyncio.gather(*self._tasks[:1])
        for task in self._tasks:
            task.cancel()
        await self._client.close()

    async def beat(self) -> None:
        """Give a sign of life."""
        await self._client.publish(HEARTBEATS, wire.encode(Stamp(RUN)(BEAT)))

    def go_on(self) -> None:
        """Begin to read commands, and to carry them out."""
        self._tasks = [asyncio.create_task(self._handler.run()), asyncio.create_task(self._obey())]

    async def _obey(self) -> None:
        while True:
            for request in self._handler.take():
                self.done.append(type(request.command).__name__)
                outcome = types.Applied(run=RUN, epoch=1, step=len(self.done), seeds=())
                self._handler.settle(request, outcome)
            await asyncio.sleep(0.005)


async def signs(server: RedisServer) -> None:
    """The run has been there."""
    async with Run(server):
        pass


async def arrived(client: MessageBusClient, entries: int = 1) -> None:
    """Wait until so many commands are on the bus."""
    async with asyncio.timeout(WITHIN_S):
        while (await client.info(COMMANDS)).length < entries:
            await asyncio.sleep(0.01)


def test_a_command_that_the_server_has_lost_is_sent_again(plain: RedisServer) -> None:
    """The run stands still while all is lost, by FLUSHALL and by a kill; it is done once."""

    async def script() -> None:
        outages: list[BusError] = []
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(RedisStreamClient(plain.url, watch_s=0.05))
            asked_run = await stack.enter_async_context(Run(plain))
            operator = Operator(client, on_outage=outages.append)
            asked = asyncio.create_task(operator.ask(PAUSE, timeout_s=WITHIN_S))
            await arrived(client)
            plain.ask("FLUSHALL")
            await arrived(client)
            assert client.counters["lost: wiped"] == 1
            plain.kill()
            await until(lambda: bool(outages), within_s=WITHIN_S)
            plain.start()
            await arrived(client)
            assert not asked.done()
            asked_run.go_on()
            answer = await asked
            assert isinstance(answer, types.Applied)
            assert answer.step == 1
            assert asked_run.done == ["Pause"]

    run(script(), within_s=2 * WITHIN_S)


def test_who_decides_sends_again_too_and_one_wrong_stream_holds_up_no_other_run(
    plain: RedisServer,
) -> None:
    """FLUSHALL before the run reads its command; another run's stream is no stream."""

    async def script() -> None:
        told: list[str] = []
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(RedisStreamClient(plain.url, watch_s=0.05))
            asked_run = await stack.enter_async_context(Run(plain))
            wrong = types.Heartbeat(
                run="wrong", epoch=0, step=0, every=1.0, paused=False, waiting=0
            )
            await client.publish(HEARTBEATS, wire.encode(Stamp("wrong")(wrong)))
            plain.ask("SET", streams_of("wrong").observed, "no stream")
            steering = Steering(client, Counts, warn=told.append)
            deciding = asyncio.create_task(steering.run(poll_s=0.01))
            await until(lambda: bool(told), within_s=WITHIN_S)
            assert told[0].startswith("run 'wrong' is left alone for ")
            assert "WRONGTYPE" in told[0]
            await client.publish(streams_of(RUN).observed, Bench().observation(RUN))
            await arrived(client)
            plain.ask("FLUSHALL")
            await arrived(client)
            asked_run.go_on()
            await until(lambda: bool(asked_run.done), within_s=WITHIN_S)
            steering.stop()
            await deciding
            assert asked_run.done == ["Germinate"]

    run(script(), within_s=2 * WITHIN_S)


def test_the_same_id_is_the_same_command(plain: RedisServer) -> None:
    """From another process as well; without one each is another."""

    async def script() -> None:
        async with AsyncExitStack() as stack:
            asked_run = await stack.enter_async_context(Run(plain))
            asked_run.go_on()
            steps = []
            for id in ("mine", "mine", None, None):
                client = await stack.enter_async_context(RedisStreamClient(plain.url))
                answer = await Operator(client).ask(PAUSE, timeout_s=WITHIN_S, id=id)
                assert isinstance(answer, types.Applied)
                steps.append(answer.step)
            assert steps == [1, 1, 2, 3]
            assert asked_run.done == ["Pause"] * 3

    run(script(), within_s=WITHIN_S)


def test_the_shell_waits_for_a_server_that_is_started_again(
    plain: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ctl` says that it waits, and what became of the command; a retry by its id is no second."""
    outages: list[BusError] = []

    def note(error: BusError) -> None:
        outages.append(error)
        waits(error)

    monkeypatch.setattr("kasmina.cli.ctl.waits", note)

    def ctl() -> Told:
        words = ["pause", "--id", "mine", "--timeout", str(WITHIN_S), "--json"]
        return shell(["ctl", *words, "--bus", plain.url], capsys)

    async def script() -> None:
        async with Run(plain) as asked_run, RedisStreamClient(plain.url) as client:
            first = asyncio.create_task(asyncio.to_thread(ctl))
            await arrived(client)
            plain.kill()
            await until(lambda: bool(outages), within_s=WITHIN_S)
            plain.start()
            await arrived(client)
            asked_run.go_on()
            told = await first
            assert told.code == 0
            assert told.err.startswith(f"waits for the bus: redis://127.0.0.1:{plain.port} ")
            await asked_run.beat()
            again = await asyncio.to_thread(ctl)
            assert again.code == 0
            assert json.loads(again.out)["step"] == json.loads(told.out)["step"] == 1
            assert asked_run.done == ["Pause"]

    run(script(), within_s=2 * WITHIN_S)


def test_the_shell_waits_for_a_server_that_is_not_there_yet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started again while the run is looked for; then the command is sent, and done once."""
    outages: list[BusError] = []
    monkeypatch.setattr("kasmina.cli.ctl.waits", outages.append)
    monkeypatch.setattr("kasmina.cli.reaching.open_bus", partial(open_bus, timeout_s=0.2))

    async def script(server: RedisServer) -> None:
        await signs(server)
        server.kill()
        words = ["ctl", "pause", "--run", RUN, "--timeout", str(WITHIN_S), "--bus", server.url]
        asking = asyncio.create_task(asyncio.to_thread(shell, words, capsys))
        await until(lambda: bool(outages), within_s=WITHIN_S)
        assert "cannot be reached" in str(outages[0])
        server.start()
        async with Run(server) as asked_run:
            asked_run.go_on()
            assert (await asking).code == 0
            assert asked_run.done == ["Pause"]

    with redis_server(appendonly="yes", appendfsync="always") as server:
        run(script(server), within_s=2 * WITHIN_S)


def test_the_shell_keeps_its_time_where_the_server_stands_still(
    plain: RedisServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a call may take, and its client to close."""
    monkeypatch.setattr("kasmina.cli.reaching.open_bus", partial(open_bus, timeout_s=600))

    async def script() -> Told:
        plain.hold()
        words = ["ctl", "status", "--timeout", "0.5", "--bus", plain.url]
        return await asyncio.to_thread(shell, words, capsys)

    told = run(script(), within_s=WITHIN_S)
    late = "the bus has not answered for 0.5 s, and no command was sent\n"
    assert told == (1, "", late)


def test_a_run_that_gives_no_answer_in_time_ends_the_shell_with_the_id(
    plain: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and code 1."""
    run(signs(plain))
    told = shell(["ctl", "pause", "--timeout", "5", "--bus", plain.url], capsys)
    assert (told.code, told.out) == (1, "")
    (line,) = told.err.splitlines()
    assert re.match(r"run 'r' has not answered for [0-9.]+ s; ", line)
    assert re.search(r"command [0-9a-f]{32} ", line)


def test_ctrl_c_names_the_command_that_is_under_way(plain: RedisServer) -> None:
    """So that it can be asked for again."""

    async def waits_for_it() -> str:
        async with RedisStreamClient(plain.url) as client:
            await arrived(client)
            (sent,) = await client.read(COMMANDS)
            return wire.decode(sent.payload).id

    run(signs(plain))
    with subprocess.Popen(
        kasmina("ctl", "pause", "--bus", plain.url),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as asking:
        try:
            id = run(waits_for_it(), within_s=WITHIN_S)
        finally:
            asking.send_signal(signal.SIGINT)
        _, err = asking.communicate(timeout=WITHIN_S)
    assert asking.returncode == 130
    assert err.splitlines() == [
        f"command {id} may have been sent; --id {id} asks for the same again",
        "interrupted",
    ]
