"""Commands of a run that is killed again and again: what is done twice, and what is lost.

The run is a process of its own: a `CommandHandler` on a server, a training thread that counts each
command that it carries out, and checkpoints that hold the counts and the handler's state. It is
killed by SIGKILL between effect, answer and checkpoint, goes on from the last checkpoint, and is
sent every command several times, by two producers that give the same ids. What was done is read from
its last checkpoint.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any, Literal, NamedTuple, NoReturn

import msgspec

from kasmina.bench import Row, require
from kasmina.bench._bus_latency import SPAWN
from kasmina.bench._bus_server import AOF, Server
from kasmina.bus.client import FIRST, position
from kasmina.bus.commands import CommandHandler
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import Applied, Cancel, Envelope, Target

Death = Literal["before the answer", "after the answer", "after the checkpoint"]

DEATHS: tuple[Death, ...] = ("before the answer", "after the answer", "after the checkpoint")
ROUNDS = 2  # of all deaths; the server is killed as well at the end of each
PART = 60  # commands before each, of each of two producers
EVERY = 25  # effects from one checkpoint to the next
AT_ONCE = 4  # new commands between two steps
STEP_S = 0.0005
WITHIN_S = 120.0
COMMANDS, REPLIES = "killed/commands", "killed/replies"


class Killed(NamedTuple):
    """What is seen from outside in the end."""

    commands: int
    copies: int  # entries of the stream beyond one a command
    answered: int  # commands that were answered as applied
    kills: int
    twice: int  # effects beyond one a command
    lost: int  # commands without an effect that were answered as applied
    missing: int  # commands without an effect


def killed_rows() -> list[Row]:
    """Effects done twice, and commands lost."""
    found = killed()
    beside = {name: float(getattr(found, name)) for name in ("commands", "copies", "kills")}
    how = "run killed between effect, answer and checkpoint"
    return [
        Row(f"effects done twice, {how}", found.twice, "effects", 0.0, "<=", beside),
        Row(f"commands lost that were answered as applied, {how}", found.lost, "commands", 0.0,
            "<=", {"answered": found.answered, "missing of all": found.missing}),
    ]  # fmt: skip


def killed(*, remembers: bool = True) -> Killed:
    """Tell the story.

    Args:
        remembers: False takes from the run what it knows of commands done before its checkpoint,
            which must show.
    """
    with Server(*AOF).running() as server, tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_told(server, Path(folder) / "checkpoint", remembers))


async def _told(server: Server, checkpoint: Path, remembers: bool) -> Killed:
    deaths = ROUNDS * DEATHS
    sent: list[Envelope] = []
    for number, death in enumerate(deaths, start=1):
        new = _commands(len(sent) // 2, PART)
        await _publish(server, sent[::3] + new + new)
        sent += new
        with _Life(server, checkpoint, remembers, death) as run:
            await asyncio.to_thread(run.join, WITHIN_S)
            require(run.exitcode == -signal.SIGKILL, f"the run is killed {death}: {run.exitcode}")
        if number % len(DEATHS) == 0:
            server.kill()
            server.start()
    await _publish(server, sent)
    async with RedisStreamClient(server.url) as client:
        info = await client.info(COMMANDS)
        with _Life(server, checkpoint, remembers, None) as run:
            state = await _state(checkpoint, info.last, run)
        answered = await _answered(client)
    done = Counter[tuple[str, str]]({(who, id): count for who, id, count in state["effects"]})
    keys = {(each.producer, each.id) for each in sent}
    return Killed(
        commands=len(keys),
        copies=info.length - len(keys),
        answered=len(answered),
        kills=len(deaths),
        twice=done.total() - len(done),
        lost=len(answered - set(done)),
        missing=len(keys - set(done)),
    )


_STAMPS = (Stamp("north"), Stamp("south"))


def _commands(first: int, count: int) -> list[Envelope]:
    """Of both producers, whose ids are the same."""
    return [
        msgspec.structs.replace(
            stamp(Cancel(run="r", target=Target(site="a", slot=number))), id=f"command {number}"
        )
        for number in range(first, first + count)
        for stamp in _STAMPS
    ]


async def _publish(server: Server, envelopes: list[Envelope]) -> None:
    async with RedisStreamClient(server.url) as client:
        await client.publish_many(COMMANDS, [wire.encode(each) for each in envelopes])


async def _answered(client: RedisStreamClient) -> set[tuple[str, str]]:
    """Whose command of which id was answered as applied."""
    found, after = set[tuple[str, str]](), FIRST
    while page := await client.read(REPLIES, after=after):
        after = page[-1].id
        for envelope in (wire.decode(each.payload) for each in page):
            if isinstance(envelope.body, Applied):
                found.add((str(envelope.body.asker), str(envelope.correlation)))
    return found


async def _state(checkpoint: Path, last: str, run: BaseProcess) -> dict[str, Any]:
    """The checkpoint that holds all commands up to an entry."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            state = _loaded(checkpoint)
            if position(state["commands"]["position"]) >= position(last):
                return state
            require(run.is_alive(), f"the last run goes on: {run.exitcode}")
            await asyncio.sleep(0.02)


class _Life:
    """One process of the run, which is gone afterwards."""

    def __init__(
        self, server: Server, checkpoint: Path, remembers: bool, death: Death | None
    ) -> None:
        arguments = (server.url, checkpoint, remembers, death)
        self._process = SPAWN.Process(target=_live, args=arguments, daemon=True)

    def __enter__(self) -> BaseProcess:
        self._process.start()
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


# ---------------------------------------------------------------------- in the process of the run


def _loaded(checkpoint: Path) -> dict[str, Any]:
    if not checkpoint.exists():
        commands = {"position": FIRST, "seen": "", "done": []}
        return {"effects": [], "step": 0, "commands": commands}
    found: dict[str, Any] = msgspec.msgpack.decode(checkpoint.read_bytes())
    return found


def _live(url: str, checkpoint: Path, remembers: bool, death: Death | None) -> None:
    """Go on from the checkpoint until killed."""
    client = RedisStreamClient(url)
    handler = CommandHandler(
        client, COMMANDS, REPLIES, Stamp("run"), run="r", check=lambda command: None
    )
    state = _loaded(checkpoint)
    if not remembers:
        state["commands"]["done"] = []
    handler.load_state_dict(state["commands"])

    async def serve() -> None:
        async with client:
            await handler.look_at_earlier()
            Thread(target=_train, args=(handler, state, checkpoint, death), daemon=True).start()
            await handler.run()

    asyncio.run(serve())


def _train(
    handler: CommandHandler, state: dict[str, Any], checkpoint: Path, death: Death | None
) -> None:
    while not handler.caught_up:
        time.sleep(STEP_S)
    effects = Counter[tuple[str, str]]({(who, id): count for who, id, count in state["effects"]})
    step, done, saved, kept = state["step"], 0, 0, state["commands"]["position"]
    while True:
        for request in handler.take(AT_ONCE, moment=(0, step)):
            effects[request.asked.key] += 1
            done += 1
            if death == "before the answer" and done > PART:
                _die()
            handler.settle(request, Applied(run="r", epoch=0, step=step))
        step += 1
        answered = not len(handler._answers)
        if death == "after the answer" and done > PART and answered:
            _die()
        if done - saved >= EVERY if death else answered and handler.position != kept:
            saved, kept = done, _save(checkpoint, effects, step, handler)
            if death == "after the checkpoint" and done > PART:
                _die()
        time.sleep(STEP_S)


def _save(
    checkpoint: Path, effects: Counter[tuple[str, str]], step: int, handler: CommandHandler
) -> str:
    """Whole or not at all; returns up to where all commands are in it."""
    commands = handler.state_dict()
    plain = [(*key, count) for key, count in effects.items()]
    packed = msgspec.msgpack.encode({"effects": plain, "step": step, "commands": commands})
    new = checkpoint.with_suffix(".new")
    new.write_bytes(packed)
    new.replace(checkpoint)
    return str(commands["position"])


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody comes here")
