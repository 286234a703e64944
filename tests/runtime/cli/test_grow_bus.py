"""`kasmina grow --bus`: what of it fits together, and what a resumed run keeps of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import msgspec
import pytest
import torch

from kasmina.bus.names import streams_of
from kasmina.bus.redis_client import RedisStreamClient
from kasmina.bus.signing import make_key_file
from kasmina.bus.stamping import Stamp
from kasmina.growth import Gardener
from kasmina.observe.folder import MARKER
from kasmina_generated.messages import types, wire
from tests.redis_servers import RedisServer, free_port, redis_server
from tests.runtime.cli.conftest import Kasmina
from tests.runtime.cli.test_grow import USER

RUN = "bustask:line-0"
STREAMS = streams_of(RUN)
WITHIN_S = 170.0  # a run that nothing ends any more is ended then
ENOUGH: list[Callable[[], bool]] = []  # whether a run shall end now
WORDS = ["--task", "bustask:line", "--epochs", "4000", "--out", "r"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the test's own, with a user's module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KASMINA_BUS", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "bustask.py").write_text(USER)
    monkeypatch.delitem(sys.modules, "bustask", raising=False)
    step, begun = Gardener.step, time.monotonic()

    def ended_soon(self: Gardener, loss: torch.Tensor) -> bool:
        """Until what it shall do is done."""
        done = step(self, loss)
        if time.monotonic() > begun + WITHIN_S or ENOUGH[-1]():
            ENOUGH[:] = [lambda: False]  # a second Ctrl-C would end it at once
            os.kill(os.getpid(), signal.SIGINT)
        return done

    monkeypatch.setattr(Gardener, "step", ended_soon)
    return tmp_path


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """An empty server."""
    with redis_server() as found:
        yield found


def kept() -> dict[str, object]:
    """What the run has kept of its bus."""
    options = msgspec.json.decode(Path("r", MARKER).read_bytes())["options"]
    return {name: options[name] for name in ("bus", "bus_password", "bus_key", "controller")}


def unfinished(kasmina: Kasmina, *words: str) -> None:
    """A run that was ended by Ctrl-C after its first step."""
    ENOUGH[:] = [lambda: True]
    assert kasmina("grow", *WORDS, *words)[0] == 130


def asked(url: str) -> str:
    """Put an unsigned command into the stream of a run that is away; gives its id."""
    command = Stamp("somebody")(types.Query(run=RUN))

    async def work() -> None:
        async with RedisStreamClient(url) as client:
            await client.publish(STREAMS.commands, wire.encode(command))

    asyncio.run(work())
    return command.id


def answer(url: str, id: str) -> types.Acknowledgement | None:
    """The last that was answered to a command; None where nothing was."""

    async def work() -> list[types.Envelope]:
        async with RedisStreamClient(url) as client:
            return [wire.decode(each.payload) for each in await client.read(STREAMS.replies)]

    found = [_unsigned(each) for each in asyncio.run(work())]
    bodies = [each.body for each in found if each.correlation == id]
    return bodies[-1] if bodies else None  # type: ignore[return-value]


def _unsigned(envelope: types.Envelope) -> types.Envelope:
    signed = isinstance(envelope.body, types.Signed)
    return wire.decode(envelope.body.payload) if signed else envelope  # type: ignore[union-attr]


def resumes(kasmina: Kasmina, url: str, *words: str) -> str:
    """How a resumed run on the bus answers an unsigned command; it is unfinished again."""
    id = asked(url)
    ENOUGH[:] = [lambda: not isinstance(answer(url, id), types.Accepted | None)]
    code, _, said = kasmina("grow", "--resume", "r", *words)
    assert code == 130, said
    found = answer(url, id)
    return found.reason if isinstance(found, types.Refused) else type(found).__name__


def resumes_alone(kasmina: Kasmina, url: str, *words: str) -> bool:
    """Whether a resumed run leaves alone what it is asked on the bus; it is unfinished again."""
    id = asked(url)
    ENOUGH[:] = [lambda: True]
    assert kasmina("grow", "--resume", "r", *words)[0] == 130
    return answer(url, id) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--controller bus",
            (
                "--controller bus leaves all decisions to who listens on a server: give --bus URL, e.g. "
                "redis://localhost:6379, and start `kasmina tamiyo` there\n"
            ),
        ),
        (
            "--controller bus --bus redis://localhost --no-bus",
            (
                "--controller bus leaves all decisions to who listens on a server: give --bus URL, e.g. "
                "redis://localhost:6379, and start `kasmina tamiyo` there\n"
            ),
        ),
        (
            "--bus-key key",
            "--bus-key is for commands that come over a server: give --bus URL\n",
        ),
        (
            "--bus redis://localhost --bus-key key --no-bus-key",
            "--bus-key and --no-bus-key say two things: leave one out\n",
        ),
        (
            "--telemetry quantised:0",
            (
                "--telemetry quantised:0: legal are lossless, float16, and quantised:BOUND with a bound "
                "of more than 0, as quantised:1e-3\n"
            ),
        ),
    ],
)
def test_options_that_do_not_fit_are_told(
    here: Path, kasmina: Kasmina, words: str, message: str
) -> None:
    """As wrong usage, before anything is made."""
    assert kasmina("grow", *WORDS, *words.split()) == (2, "", message)
    assert not Path("r").exists()


@pytest.mark.parametrize("telemetry", ["lossless", "float16", "quantised:1e-3"])
def test_a_url_that_names_no_bus_is_told_at_once(
    here: Path, kasmina: Kasmina, telemetry: str
) -> None:
    """Without its password, and before anything is made; how health is packed does not matter."""
    words = ["--bus", "http://me:secret@host", "--telemetry", telemetry]
    code, out, said = kasmina("grow", *WORDS, *words)
    assert (code, out) == (1, "")
    assert said.startswith("'http://...@host' does not begin with redis://, rediss://, unix://")
    assert not Path("r").exists()


def test_a_resumed_run_goes_on_on_its_bus(
    here: Path, kasmina: Kasmina, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is told to leave it; elsewhere it is found by what was said last."""
    unfinished(kasmina, "--bus", server.url)
    assert kept() == {
        "bus": server.url, "bus_password": False, "bus_key": None, "controller": "tamiyo",
    }  # fmt: skip
    assert resumes(kasmina, server.url) == "Status"
    monkeypatch.setenv("KASMINA_BUS", "redis://127.0.0.1:1")  # where nobody is
    assert resumes_alone(kasmina, server.url, "--no-bus")
    assert kept()["bus"] is None
    monkeypatch.delenv("KASMINA_BUS")
    assert resumes_alone(kasmina, server.url)
    assert resumes(kasmina, server.url, "--bus", f"{server.url}/0") == "Status"
    assert kept()["bus"] == f"{server.url}/0"
    code, _, said = kasmina("grow", "--resume", "r", "--bus", f"{server.url}/99")
    assert (code, "DB index is out of range" in said) == (1, True)
    assert kept()["bus"] == f"{server.url}/0"


def test_a_resumed_run_keeps_its_key(here: Path, kasmina: Kasmina, server: RedisServer) -> None:
    """Also after it was on no bus; only who says so leaves it."""
    make_key_file(Path("key"))
    make_key_file(Path("other"))
    unfinished(kasmina, "--bus", server.url, "--bus-key", "key")
    assert kept()["bus_key"] == str(here / "key")
    assert resumes(kasmina, server.url) == "unsigned"
    assert resumes_alone(kasmina, server.url, "--no-bus")
    assert resumes(kasmina, server.url, "--bus", server.url) == "unsigned"
    assert resumes(kasmina, server.url, "--bus-key", "other") == "unsigned"
    assert kept()["bus_key"] == str(here / "other")
    Path("other").unlink()
    code, told, said = kasmina("grow", "--resume", "r")
    assert (code, told, said.startswith(f"{here / 'other'}: ")) == (1, "", True)  # it says no more
    assert resumes(kasmina, server.url, "--no-bus-key") == "Status"
    assert resumes(kasmina, server.url) == "Status"


def test_a_password_is_kept_nowhere(
    here: Path, kasmina: Kasmina, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who goes on says it again, or leaves the bus."""
    with redis_server(requirepass="secret") as server:
        url = server.url.replace("//", "//:secret@")
        unfinished(kasmina, "--bus", url)
        assert kept()["bus"] == server.url
        assert b"secret" not in Path("r", MARKER).read_bytes()
        assert kasmina("grow", "--resume", "r") == (
            2,
            "",
            (
                f"the run was on {server.url}, by a password, which is kept nowhere: give --bus with "
                "it again, or set KASMINA_BUS; or leave the server by --no-bus\n"
            ),
        )
        monkeypatch.setenv("KASMINA_BUS", url)
        assert resumes(kasmina, url) == "Status"
    monkeypatch.delenv("KASMINA_BUS")
    ENOUGH[:] = [lambda: True]
    assert kasmina("grow", "--resume", "r", "--no-bus")[0] == 130


def test_a_run_that_a_controller_elsewhere_decides_for_stays_on_its_bus(
    here: Path, kasmina: Kasmina, server: RedisServer
) -> None:
    """Without one nobody would decide."""
    unfinished(kasmina, "--bus", server.url, "--controller", "bus")
    code, _, said = kasmina("grow", "--resume", "r", "--no-bus")
    assert (code, said.startswith("--controller bus leaves all decisions")) == (2, True)
    assert resumes(kasmina, server.url) == "Status"


def test_health_is_packed_as_it_was_said_and_prometheus_is_answered(
    here: Path, kasmina: Kasmina, server: RedisServer
) -> None:
    """Also where the run is resumed."""
    port = free_port()

    def batches() -> list[types.TelemetryBatch]:
        async def work() -> list[types.Envelope]:
            async with RedisStreamClient(server.url) as client:
                return [wire.decode(each.payload) for each in await client.read(STREAMS.health)]

        return [each.body for each in asyncio.run(work())]  # type: ignore[misc]

    def enough() -> bool:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            assert b"kasmina_bus_up" in answer.read()
        return len(batches()) > before

    before = 0
    ENOUGH[:] = [enough]
    words = ["--telemetry", "quantised:1e-3", "--metrics", str(port)]
    code, out, _ = kasmina("grow", *WORDS, "--bus", server.url, *words)
    assert code == 130
    assert f"on {server.url} as {RUN}: `kasmina ctl status` there tells of it\n" in out
    assert f"Prometheus may ask at http://127.0.0.1:{port}/metrics\n" in out
    before = len(batches())
    ENOUGH[:] = [enough]
    code, out, _ = kasmina("grow", "--resume", "r")
    assert (code, f"127.0.0.1:{port}/metrics" in out) == (130, True)
    codings = {(batch.precision, batch.bound) for batch in batches()}
    assert codings == {("bounded", 1e-3)}
    assert kasmina("grow", *WORDS, "--metrics", "65536")[2] == (
        "--metrics is 65536; a port is from 0 to 65535\n"
    )
