"""Real runs of `kasmina grow` on a real server, and who asks them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from kasmina import cli
from kasmina.bus.names import streams_of
from kasmina.bus.operator import Answer, Operator
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.signing import Signer, unsealed
from kasmina_generated.messages import types, wire
from tests.helpers import ROOT
from tests.redis_servers import RedisServer

T = TypeVar("T")
RUN = "digits-3"
SEED = types.Target(site=".", slot=0)
WITHIN_S = 180.0  # a process starts in 2 s, and in 20 s on a machine that is busy


def on(server: RedisServer, work: Callable[[RedisStreamClient], Awaitable[T]]) -> T:
    """Do something with a client of the server."""

    async def run() -> T:
        async with RedisStreamClient(server.url) as client:
            return await work(client)

    return asyncio.run(run())


def ask(server: RedisServer, command: types.Command, sign: Signer | None = None) -> Answer:
    """What becomes of a command."""
    return on(server, lambda client: Operator(client, sign=sign).ask(command, timeout_s=WITHIN_S))


def kasmina(*arguments: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "kasmina", *arguments]


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `kasmina` of its own, which is gone afterwards; tasks in the folder are found."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with (folder / f"{arguments[0]}.txt").open("ab") as out:
        running = subprocess.Popen(
            kasmina(*arguments), cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def growing(server: RedisServer, folder: Path, *more: str, seed: int = 3) -> Any:
    """A run of `kasmina grow` on the server that does not end by itself, if not told to."""
    out = str(folder / f"run{seed}")
    where = (*("--out", out), *("--seed", str(seed)))
    epochs = () if "--epochs" in more else ("--epochs", "4000")
    task = () if "--task" in more else ("--task", "digits")
    every = () if "--checkpoint-every" in more else ("--checkpoint-every", "1000000")
    return process(folder, "grow", "--bus", server.url, *where, *epochs, *task, *every, *more)


def resumed(server: RedisServer, folder: Path) -> Any:
    """The same run, gone on."""
    return process(folder, "grow", "--bus", server.url, "--resume", str(folder / "run3"))


def until(server: RedisServer, found: Callable[[RedisStreamClient], Awaitable[bool]]) -> None:
    """Wait until something is so."""

    async def wait(client: RedisStreamClient) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not await found(client):
                await asyncio.sleep(0.05)

    on(server, wait)


def alive(server: RedisServer, run: str = RUN, after: float = 0.0) -> None:
    """Wait for a sign of life that was given after a time, by this process's clock."""

    async def found(client: RedisStreamClient) -> bool:
        runs = await Operator(client).runs()
        return run in runs and time.time() - runs[run].age_s > after

    until(server, found)


def hold(server: RedisServer, run: str = RUN) -> None:
    """Let a run stand still, as soon as it lives: what comes next may take its time to start."""
    alive(server, run)
    assert isinstance(ask(server, types.Pause(run=run)), types.Applied)


def let_go(server: RedisServer, run: str = RUN) -> None:
    """Let it go on."""
    assert isinstance(ask(server, types.Resume(run=run)), types.Applied)


def waits(folder: Path, times: int) -> None:
    """Wait until `kasmina tamiyo` was started so often and listens."""
    end = time.monotonic() + WITHIN_S
    while (folder / "tamiyo.txt").read_text().count("waiting for what runs observe") < times:
        assert time.monotonic() < end
        time.sleep(0.02)


def status(server: RedisServer, what: Any = "status", run: str = RUN) -> types.Status:
    """How a run is."""
    found = ask(server, types.Query(run=run, what=what))
    assert isinstance(found, types.Status), found
    return found


class Told(NamedTuple):
    """What a command of the shell has answered."""

    code: int
    out: str
    err: str


Shell = Callable[..., Told]


def shell(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> Told:
    """Run `kasmina ARGUMENTS` in this process; whatever it raises ends the test."""
    capsys.readouterr()
    try:
        code = cli.main(arguments)
    except SystemExit as ended:  # wrong usage
        code = int(ended.code or 0)
    return Told(code, *capsys.readouterr())


async def answers(client: RedisStreamClient, run: str, id: str) -> list[types.Acknowledgement]:
    """All that was answered to a command until now."""
    found: list[types.Acknowledgement] = []
    after = "0"
    while page := await client.read(streams_of(run).replies, after=after):
        after = page[-1].id
        envelopes = [unsealed(wire.decode(each.payload)) for each in page]
        found += [e.body for e in envelopes if e.correlation == id]  # type: ignore[misc]
    return found


def sent(server: RedisServer, run: str, payload: bytes, id: str) -> list[types.Acknowledgement]:
    """Put bytes into a run's commands; all that is answered until its outcome."""

    async def work(client: RedisStreamClient) -> list[types.Acknowledgement]:
        before = len(await answers(client, run, id))
        await client.publish(streams_of(run).commands, payload)
        async with asyncio.timeout(WITHIN_S):
            while True:
                found = (await answers(client, run, id))[before:]
                if any(not isinstance(each, types.Accepted) for each in found):
                    return found
                await asyncio.sleep(0.02)

    return on(server, work)


async def published(client: RedisStreamClient, run: str, after: str = "0") -> list[int]:
    """Numbers of the events of a run's log, as they stand on the bus behind an entry."""
    found: list[int] = []
    while page := await client.read(streams_of(run).events, after=after):
        after = page[-1].id
        envelopes = [wire.decode(each.payload) for each in page]
        found += [e.sequence for e in envelopes if not isinstance(e.body, types.Alarm)]
    return found
