"""`kasmina bus` on real servers, and what the shell says of a bus that cannot be used."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from msgspec import structs

from kasmina.bus.attempts import Attempts
from kasmina.bus.client import Delivery
from kasmina.bus.consumer import Consumer, Label
from kasmina.bus.dead_letters import DeadLetterQueue
from kasmina.bus.names import DEAD_LETTERS, HEARTBEATS, streams_of
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.retry import Backoff
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import types, wire
from tests.faults.bus_runs import WITHIN_S, Shell, Told, kasmina, on, shell
from tests.helpers import ROOT
from tests.redis_servers import RedisServer, free_port, redis_server

WORK = "work"


async def consume(client: RedisStreamClient, poison: bytes, dead: int, done: int) -> list[bytes]:
    """Handle what is in the stream until so many are dead and done; what was handled."""
    handled: list[bytes] = []
    failed: list[bytes] = []

    async def handle(delivery: Delivery) -> None:
        if delivery.payload == poison:
            failed.append(delivery.payload)
            raise ZeroDivisionError("poison")
        handled.append(delivery.payload)

    letters = DeadLetterQueue(client, DEAD_LETTERS, reader="group")
    attempts = Attempts(handle, letters, backoff=Backoff(attempts=3, base_s=0.001))
    label = Label("", None)
    consumer = Consumer(client, [WORK], "group", "me", attempts, label=lambda _: label)
    running = asyncio.create_task(consumer.run())
    async with asyncio.timeout(WITHIN_S):
        while len(handled) < done or (await client.info(DEAD_LETTERS)).length < dead:
            await asyncio.sleep(0.01)
    consumer.stop()
    await running
    assert len(failed) == 3 * dead
    return handled


def test_dead_letters_from_the_shell(server: RedisServer, tell: Shell) -> None:
    """What a handler failed of is listed, sent again one by one or all, and thrown away."""
    assert tell("bus", "dlq", "list") == (0, "", "no dead letters\n")

    async def poisoned(client: RedisStreamClient) -> list[bytes]:
        await client.publish_many(WORK, [b"a", b"poison", b"b", b"poison", b"poison"])
        return await consume(client, b"poison", dead=3, done=2)

    assert on(server, poisoned) == [b"a", b"b"]
    told = tell("bus", "dlq", "list")
    lines = told.out.splitlines()
    ids = [line.partition(":")[0] for line in lines]
    assert len(lines) == 3
    assert all("of work for group, 3 attempts: ZeroDivisionError: poison" in line for line in lines)
    assert tell("bus", "dlq", "list", "--count", "1").out.splitlines() == lines[:1]
    assert "dead letters: 3 entries" in tell("bus", "lag").out

    missing = "'kasmina:dead' has no letter '5-0'; list them first\n"
    assert tell("bus", "dlq", "replay", "5-0") == (1, "", missing)
    assert tell("bus", "dlq", "purge", "5-0") == (1, "0 thrown away\n", "")
    wrong = (2, "", "give the ids of letters, or --all\n")
    assert tell("bus", "dlq", "replay") == wrong
    assert tell("bus", "dlq", "purge", ids[0], "--all") == wrong

    told = tell("bus", "dlq", "replay", ids[0])
    assert told.code == 0
    assert told.out.startswith(f"{ids[0]} sent again as ")
    assert tell("bus", "dlq", "purge", ids[1]) == (0, "1 thrown away\n", "")
    assert tell("bus", "dlq", "replay", "--all") == (0, "1 sent again\n", "")
    assert tell("bus", "dlq", "list").out == ""
    # the handler was mended meanwhile
    assert on(server, lambda client: consume(client, b"", dead=0, done=2)) == [b"poison"] * 2
    assert tell("bus", "dlq", "purge", "--all") == (0, "0 thrown away\n", "")


def test_what_is_no_letter_is_listed_and_purged(server: RedisServer, tell: Shell) -> None:
    """Somebody else has written into the queue."""
    on(server, lambda client: client.publish(DEAD_LETTERS, b"\xff\x00 no letter"))
    server.ask("XADD", DEAD_LETTERS, "*", "p", "x" * (1 << 20) + "x")
    line, large = tell("bus", "dlq", "list").out.splitlines()
    assert line.endswith(": cannot be read as a dead letter (12 bytes); purge it by its id")
    assert large.endswith(": cannot be read as a dead letter (too large); purge it by its id")
    told = tell("bus", "dlq", "replay", line.partition(":")[0])
    assert (told.code, told.out) == (1, "")
    assert told.err.endswith("cannot be read as a dead letter; purge it\n")
    assert tell("bus", "dlq", "replay", "--all").out == "0 sent again\n"
    assert tell("bus", "dlq", "purge", "--all").out == "2 thrown away\n"


def test_only_dead_letters_are_thrown_away(server: RedisServer, tell: Shell) -> None:
    """Acknowledgements, and what is no message, stay where they are."""
    replies, stamp = streams_of("r").replies, Stamp("r")
    applied = types.Applied(run="r", epoch=0, step=0, seeds=())

    async def fill(client: RedisStreamClient) -> str:
        await client.publish(WORK, b"work")
        return await client.publish(replies, wire.encode(stamp(applied)))

    id = on(server, fill)
    for which in ("--all", id):
        assert tell("bus", "dlq", "purge", which, "--stream", replies) == (
            1,
            "",
            f"{replies!r} holds Applied messages and not dead letters; nothing was thrown away\n",
        )
    assert tell("bus", "dlq", "purge", "--all", "--stream", WORK).err == (
        "'work' holds what is no message at all and not dead letters; nothing was thrown away\n"
    )
    assert [server.ask("XLEN", each) for each in (replies, WORK)] == [1, 1]
    assert tell("bus", "dlq", "purge", "--all", "--stream", "nothing").out == "0 thrown away\n"


@pytest.mark.parametrize("version", ["7", "6.2"])
def test_tail_lag_and_doctor(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without persistence and with, on the newest and the oldest server."""
    with redis_server(version) as server:

        def tell(*arguments: str) -> Told:
            return shell(["bus", *arguments, "--bus", server.url], capsys)

        assert tell("tail").err == (
            "no run was heard of on this bus; start one by `kasmina grow --bus URL`\n"
        )
        assert tell("tail", "--stream", "nothing") == (0, "", "'nothing' has no entries\n")
        beat = types.Heartbeat(run="r", epoch=3, step=40, every=1.0, paused=True, waiting=2)
        event = types.Logged(run="r", log=0, epoch=3, step=40, event="e", line='{"seq": 0}')
        stamp = Stamp("r")

        async def fill(client: RedisStreamClient) -> None:
            await client.publish(HEARTBEATS, wire.encode(stamp(beat)))
            events = [wire.encode(stamp(event)) for _ in range(5)]
            await client.publish_many(streams_of("r").events, [*events, b"\xff"])
            await client.create_group(streams_of("r").events, "readers")
            found = await client.consume([streams_of("r").events], "readers", "c", count=2)
            await client.acknowledge(streams_of("r").events, "readers", [found[0].id])

        on(server, fill)
        told = tell("tail", "--count", "2")
        last, broken = map(json.loads, told.out.splitlines())
        assert (told.code, last["body"]["kind"], last["sequence"]) == (0, "logged", 5)
        assert last["body"]["line"] == {"seq": 0}
        assert broken.keys() == {"entry", "unreadable"}
        assert [json.loads(x) for x in tell("tail", "--after", last["entry"]).out.splitlines()] == [
            broken
        ]
        told = tell("tail", "--after", "yesterday")
        assert (told.code, told.out) == (2, "")
        assert (
            told.err
            == "--after is 'yesterday'; it must be the id of an entry, as 1700000000000-0\n"
        )

        told = tell("lag")
        assert told.code == 0
        first, *rest = told.out.splitlines()
        assert first.startswith("r: heard ")
        assert first.endswith("epoch 3, step 40, held, 2 commands wait")
        behind = "4" if version == "7" else "unknown"
        assert f"    group readers: lag {behind}, 1 pending, 1 consumers" in rest
        assert tell("lag", "--run", "x").err == (
            "no run 'x' was heard of on this bus; there are: r\n"
        )
        health = streams_of("r").health
        server.ask("SET", health, "no stream")
        told = tell("lag")
        assert told.code == 0
        where = f"redis://127.0.0.1:{server.port} answered to"
        wrong = "WRONGTYPE Operation against a key holding the wrong kind of value"
        assert f"  health: {where} XINFO of {health!r}: {wrong}" in told.out.splitlines()
        _, *shown = told.out.splitlines()
        assert shown[-1] == "dead letters: 0 entries, last 0-0"
        server.ask("RENAME", HEARTBEATS, "aside")
        server.ask("SET", HEARTBEATS, "no stream")
        told = tell("lag", "--run", "r")
        broken = f"{where} XREVRANGE of {HEARTBEATS!r}: {wrong}\n"
        assert (told.code, told.err) == (1, f"which runs are alive is not known: {broken}")
        assert told.out.splitlines() == shown
        assert tell("lag").out == "dead letters: 0 entries, last 0-0\n"
        assert tell("tail").err == broken
        server.ask("RENAME", "aside", HEARTBEATS)

        told = tell("monitor")
        assert (told.code, told.err) == (0, "")
        assert told.out.startswith(f"bus up; {streams_of('r').events}/readers lag ")
        for figure in ("runs alive 1", "r: step 40", "r: commands waiting 2", "events: entries 6"):
            assert figure in told.out
        found = json.loads(tell("monitor", "--format", "json").out)
        assert (found["up"], found["groups"][0]["pending"]) == (True, 1)
        told = tell("monitor", "--format", "prometheus", "--stream", HEARTBEATS)
        assert 'kasmina_bus_value{what="kasmina:heartbeats: entries"} 1.0' in told.out

        told = tell("doctor")
        assert told.code == 1  # it lacks something
        assert told.err == ""
        assert told.out.startswith(f"redis://127.0.0.1:{server.port}: Redis {version}.")
        assert "  append-only file: no; snapshots: no; forgets keys when full: no;" in told.out
        assert (
            "  lacks: no append-only file: entries that were acknowledged to their sender are lost "
            "when it is killed; set `appendonly yes`"
        ) in told.out.splitlines()
        assert ("does not count a group's lag" in told.out) == (version == "6.2")
        server.ask("CONFIG", "SET", "appendonly", "yes")
        told = tell("doctor", "--json")
        found = json.loads(told.out)
        assert (found["append_only"], told.code) == (True, int(version == "6.2"))
        assert len(found["lacks"]) == told.code
        server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        told = tell("doctor")
        assert told.code == 1
        assert "  lacks: it forgets keys when its memory is full, streams too;" in told.out


def test_a_tail_that_follows_ends_by_ctrl_c(server: RedisServer) -> None:
    """What comes is printed at once, also after the server was killed; the end has no traceback."""
    command = kasmina("bus", "tail", "heartbeats", "--follow", "--bus", server.url)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as tail:
        beat = types.Heartbeat(run="r", epoch=0, step=0, every=1.0, paused=False, waiting=0)
        try:
            assert tail.stdout is not None
            payload = wire.encode(Stamp("r")(beat))
            again = partial(_publish_until, server, payload, tail)
            threading.Thread(target=again, daemon=True).start()
            line = tail.stdout.readline()
            assert json.loads(line)["body"]["run"] == "r"
            server.kill()
            assert tail.stderr is not None
            assert tail.stderr.readline().startswith("waits for the bus: redis://127.0.0.1:")
            server.start()
            late = wire.encode(Stamp("r")(structs.replace(beat, run="late")))
            on(server, lambda client: client.publish(HEARTBEATS, late))
            while json.loads(tail.stdout.readline())["body"]["run"] != "late":
                pass
        finally:
            tail.send_signal(signal.SIGINT)
        _, err = tail.communicate(timeout=WITHIN_S)
    assert (tail.returncode, err) == (130, "interrupted\n")


def _publish_until(server: RedisServer, beat: bytes, tail: subprocess.Popen[str]) -> None:
    """Again and again, as it is not known when somebody listens."""

    async def work(client: RedisStreamClient) -> None:
        while tail.poll() is None:
            await client.publish(HEARTBEATS, beat)
            await asyncio.sleep(0.1)

    with suppress(Exception):  # the server has ended
        on(server, work)


# ---------------------------------------------------------------------- what cannot be used

COMMANDS = (
    ("grow", "--task", "digits", "--out", "run"),
    ("ctl", "status"),
    ("bus", "doctor"),
    ("tamiyo",),
)


class OldServer:
    """Speaks the protocol, and is a Redis 5: it has no XAUTOCLAIM and says so."""

    ANSWERS: ClassVar = {
        b"INFO": b"$22\r\nredis_version:5.0.14\r\n\r\n",
        b"COMMAND": b"*3\r\n*-1\r\n*0\r\n*0\r\n",
        b"CONFIG": b"*2\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n",
        b"CLIENT": b"+OK\r\n",
    }

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            while header := stream.readline():
                words = []
                for _ in range(int(header[1:])):
                    size = int(stream.readline()[1:])
                    words.append(stream.read(size + 2)[:-2])
                self.asked.append(words[0])
                unknown = b"-ERR unknown command\r\n"
                connection.sendall(self.ANSWERS.get(words[0].upper(), unknown))


@contextmanager
def no_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is left in the folder."""
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    yield
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_bus_that_cannot_be_used_is_told(
    command: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, exit code 1, no traceback, no run directory, and no secret."""

    def tell(url: str) -> str:
        told = shell([*command, "--bus", url], capsys)
        assert (told.code, told.out) == (1, "")
        assert len(told.err.splitlines()) == 1
        assert "sesame" not in told.err
        return told.err

    with no_run(tmp_path, monkeypatch):
        assert tell("http://:sesame@host").startswith(
            "'http://...@host' does not begin with redis://, rediss://, unix://; write redis://USER"
        )
        with redis_server(requirepass="a-good-one") as server:
            where = f"127.0.0.1:{server.port}"
            assert tell(f"redis://{where}") == (
                f"redis://{where} answered: NOAUTH Authentication required.; it wants a password: "
                "write redis://USER:PASSWORD@HOST:PORT\n"
            )
            assert tell(f"redis://:sesame@{where}") == (
                f"redis://{where} answered: WRONGPASS invalid username-password pair or user is "
                "disabled.; user or password are wrong, or the user is off\n"
            )
        with closing(OldServer()) as old:
            assert tell(f"redis://127.0.0.1:{old.port}") == (
                f"redis://127.0.0.1:{old.port}: Redis 5.0.14 has no XAUTOCLAIM, by which work that "
                "a dead process left is taken over; 6.2 or newer is needed\n"
            )
            assert {b"INFO", b"COMMAND"} <= set(old.asked)


def test_a_bus_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the time that a call may take; a run that cannot tell is not begun."""
    url = f"redis://:sesame@127.0.0.1:{free_port()}"
    with no_run(tmp_path, monkeypatch):
        told = shell([*COMMANDS[0], "--bus", url], capsys)
    assert (told.code, told.out) == (1, "")
    assert len(told.err.splitlines()) == 1
    assert "is it running, and the URL right?" in told.err
    assert "sesame" not in told.err


def test_no_url_at_all_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the message says how to give one."""
    monkeypatch.delenv("KASMINA_BUS", raising=False)
    for command in (*COMMANDS[1:], ("bus", "lag"), ("bus", "dlq", "list")):
        told = shell(list(command), capsys)
        assert (told.code, told.out) == (2, "")
        assert told.err == ("give --bus URL, e.g. redis://localhost:6379, or set KASMINA_BUS\n")
    assert os.environ.get("KASMINA_BUS") is None
