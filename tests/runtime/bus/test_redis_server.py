"""What a user gives wrongly, and what a server will not do: told typed, with what to do."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kasmina.bus.connecting import open_bus
from kasmina.bus.errors import (
    BadBusUrl,
    BusError,
    BusRefused,
    BusRejected,
    BusTooOld,
    BusUnavailable,
)
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.redis_client import RedisStreamClient
from tests.redis_servers import RedisServer, free_port, redis_server
from tests.runtime.bus.buses import run


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host", "'http://host' does not begin with redis://, rediss://, unix://; write"),
        ("localhost:6379", "does not begin with redis://"),
        ("", "'' does not begin with redis://"),
        ("redis://host:port", "is no URL: Port could not be cast"),
        ("redis://host:99999", "is no URL: Port out of range"),
        ("redis://host:0", "port 0 is none"),
        ("redis://host/first", "'first' is no number of a database"),
        ("redis://host?db=x", "Invalid value for 'db'"),
        ("redis://host?colour=red", "unexpected keyword argument 'colour'"),
        ("unix://", "names no socket; write unix:///path/of/socket"),
    ],
)
def test_a_url_that_names_no_server_is_refused_before_anything_is_sent(url: str, says: str) -> None:
    """With an example of one that does."""
    with pytest.raises(BadBusUrl) as caught:
        open_bus(url)
    assert says in str(caught.value)


def test_a_password_is_never_told() -> None:
    """Neither in a URL that is refused, nor in the name of a server that is away."""
    with pytest.raises(BadBusUrl) as caught:
        open_bus("redis://me:secret@host:port")
    assert "secret" not in str(caught.value)
    url = f"redis://me:secret@127.0.0.1:{free_port()}"
    error = error_of(url)
    assert "secret" not in str(error)
    assert url.partition("@")[2] in str(error)


def test_without_a_url_the_bus_is_in_the_process() -> None:
    """The default."""
    assert isinstance(open_bus(), InProcessBus)
    assert isinstance(open_bus(None, limit_bytes=1), InProcessBus)


def error_of(url: str, timeout_s: float = 0.3) -> BusError:
    """What publishing on a server raises."""

    async def script() -> BusError:
        async with RedisStreamClient(url, timeout_s=timeout_s) as client:
            with pytest.raises(BusError) as caught:
                await client.publish("s", b"x")
            with pytest.raises(type(caught.value)):
                await client.read("s", wait_s=0.1)
            return caught.value

    return run(script())


def test_a_server_that_is_not_there_is_told_with_its_address() -> None:
    """After the time that a call may take."""
    port = free_port()
    error = error_of(f"redis://127.0.0.1:{port}")
    assert type(error) is BusUnavailable
    assert f"redis://127.0.0.1:{port} did not answer to XADD within 0.3 s" in str(error)
    assert "Connect call failed" in str(error) or "refused" in str(error)
    assert "is it running, and the URL right?" in str(error)


def test_what_is_no_redis_server_is_told() -> None:
    """Something that answers otherwise on the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        async def script() -> BusError:
            server = await asyncio.start_server(answer, sock=listener)
            async with (
                server,
                RedisStreamClient(f"redis://127.0.0.1:{port}", timeout_s=0.4) as client,
            ):
                with pytest.raises(BusUnavailable) as caught:
                    await client.publish("s", b"x")
                return caught.value

        assert "cannot be reached" in str(run(script()))


def test_a_server_that_needs_a_password_says_so_and_takes_the_right_one() -> None:
    """None, a wrong one, the right one: at once, and not after the time of the call."""
    with redis_server(requirepass="open/sesame") as server:
        host = f"127.0.0.1:{server.port}"
        error = error_of(f"redis://{host}", timeout_s=20)
        assert type(error) is BusRefused
        assert "it wants a password: write redis://USER:PASSWORD@HOST:PORT" in str(error)
        error = error_of(f"redis://:wrong@{host}", timeout_s=20)
        assert type(error) is BusRefused
        assert "user or password are wrong" in str(error)

        async def script() -> None:
            async with RedisStreamClient(f"redis://:open%2Fsesame@{host}/3") as client:
                await client.publish("s", b"x")
                assert len(await client.read("s")) == 1
                assert (await client.features()).version.startswith("7.")

        run(script())


def test_a_user_may_do_what_its_rights_say() -> None:
    """By name in the URL; what it may not is refused by name, and what cannot be known is said."""
    rights = "on >pw ~kasmina* ~run* +@stream +@connection +set +get +mget +exists"
    with redis_server() as server:
        server.ask("ACL", "SETUSER", "worker", *rights.split())

        async def script() -> None:
            url = f"redis://worker:pw@127.0.0.1:{server.port}"
            async with RedisStreamClient(url) as client:
                await client.create_group("run/commands", "g")
                await client.publish("run/commands", b"x")
                (found,) = await client.consume(["run/commands"], "g", "c", wait_s=1)
                assert await client.acknowledge("run/commands", "g", [found.id]) == 1
                with pytest.raises(BusRefused, match=r"to XADD of .*: NOPERM .*this user may not"):
                    await client.publish("other", b"x")
                about = await client.features()
                assert (about.version, about.append_only, about.evicts) == ("", None, None)
                assert about.lacks == (
                    "the user may not run INFO, so its version and persistence are not known",
                )
                assert (await client.info("run/commands")).groups["g"].lag == 0
                before = time.time()  # the server's may not be asked
                assert before <= await client.time() <= time.time()

        run(script())


def test_who_may_not_come_in_is_told_at_once() -> None:
    """A database that there is not, and a user without the rights to connect."""
    with redis_server() as server:
        server.ask("ACL", "SETUSER", "guest", "on", ">pw", "~*", "+@all", "-select")
        error = error_of(f"{server.url}/99", timeout_s=600)
        assert type(error) is BusRefused
        assert str(error) == (
            f"{server.url} answered: ERR DB index is out of range; it has fewer databases: end the "
            "URL with a smaller number, as /0"
        )
        error = error_of(f"redis://guest:pw@127.0.0.1:{server.port}/1", timeout_s=600)
        assert type(error) is BusRefused
        assert "NOPERM" in str(error)
        assert "this user may not do that" in str(error)


def test_only_a_write_that_was_sent_may_have_been_applied() -> None:
    """By a server that is not there nothing was; reading changes nothing."""

    async def told(server: RedisServer, publishes: bool) -> str:
        async with RedisStreamClient(server.url, timeout_s=0.3, watch_s=0) as client:
            await client.publish("s", b"x")
            server.hold()
            with pytest.raises(BusUnavailable, match=r"did not answer to X(ADD|READ) within") as e:
                await (client.publish("s", b"y") if publishes else client.read("s"))
            server.release()
            return str(e.value)

    with redis_server() as server:
        assert run(told(server, True)).endswith("; it may have been applied")
        assert "applied" not in run(told(server, False))
    assert "applied" not in str(error_of(server.url))


def test_a_server_that_is_too_old_is_refused_at_once() -> None:
    """One without XAUTOCLAIM, as before 6.2."""
    with redis_server(rename_command='XAUTOCLAIM ""') as server:
        error = error_of(server.url, timeout_s=20)
        assert type(error) is BusTooOld
        assert "has no XAUTOCLAIM, by which work that a dead process left is taken over" in str(
            error
        )
        assert "6.2 or newer is needed" in str(error)


def test_a_key_of_another_kind_is_told_as_the_server_tells_it() -> None:
    """An error that has no name of its own."""
    with redis_server() as server:
        server.ask("SET", "s", "x")
        error = error_of(server.url)
        assert type(error) is BusRejected
        assert "answered to XADD of 's': WRONGTYPE" in str(error)


@pytest.mark.parametrize(("version", "lag"), [("7", True), ("6.2", False)])
def test_a_server_is_known_by_what_it_has(version: str, lag: bool) -> None:
    """And what it lacks is said with what follows."""
    options = {"appendonly": "yes", "maxmemory_policy": "noeviction"}
    with redis_server(version, **options) as server:

        async def script() -> None:
            async with RedisStreamClient(server.url) as client:
                about = await client.features()
                assert about.version.startswith(version)
                assert (about.lag, about.append_only, about.evicts) == (lag, True, False)
                told = (
                    f"Redis {about.version} does not count a group's lag (7.0 does): it is unknown"
                )
                assert about.lacks == (() if lag else (told,))

        run(script())


def test_a_server_that_forgets_is_found_out() -> None:
    """No append-only file, and keys that go when memory is full."""
    with redis_server(maxmemory_policy="allkeys-lru") as server:

        async def script() -> None:
            async with RedisStreamClient(server.url) as client:
                about = await client.features()
                assert about.evicts and about.append_only is False
                lost, forgets = about.lacks
                assert lost.startswith("no append-only file: entries that were acknowledged")
                assert forgets.startswith("it forgets keys when its memory is full, streams too;")

        run(script())


def test_a_socket_of_this_machine_will_do(tmp_path: Path) -> None:
    """By unix:// and its path."""
    path = tmp_path / "redis.sock"
    with redis_server(unixsocket=str(path)):

        async def script() -> None:
            async with RedisStreamClient(f"unix://{path}") as client:
                await client.publish("s", b"x")
                assert client.server == f"unix://{path}"

        run(script())


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, Path]]:
    """A server that speaks TLS only, and the certificate that proves it."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    port = free_port()
    options = {
        "tls_port": str(port),
        "tls_cert_file": str(certificate),
        "tls_key_file": str(key),
        "tls_ca_cert_file": str(certificate),
        "tls_auth_clients": "no",
    }
    with redis_server(**options) as server:
        server.port = port  # from here on
        yield server, certificate


def test_tls_by_its_url_is_used_and_checked(tls: tuple[RedisServer, Path]) -> None:
    """The right certificate passes, an unknown one and a line without TLS do not."""
    server, certificate = tls

    async def script() -> None:
        url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={certificate}"
        async with RedisStreamClient(url) as client:
            await client.create_group("s", "g")
            await client.publish("s", b"x" * 100_000)
            (found,) = await client.consume(["s"], "g", "c", wait_s=1)
            assert len(found.payload) == 100_000

    run(script())
    error = error_of(f"rediss://127.0.0.1:{server.port}", timeout_s=600)
    assert type(error) is BusRefused
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)
    assert str(error).endswith(
        "its certificate is by nobody that this machine trusts: add ?ssl_ca_certs=FILE to the URL"
    )
    assert type(error_of(f"redis://127.0.0.1:{server.port}")) is BusUnavailable
