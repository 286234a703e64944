"""A Redis server of the benchmark's own, on loopback, gone afterwards."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from kasmina.errors import UsageError

STARTS_WITHIN_S = 10.0
AOF = ("--appendonly", "yes", "--appendfsync", "everysec")


class Server:
    """A server that may be killed and started again; without `options` it writes nothing to the disk.

    Args:
        options: of `redis-server`.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = self.url = ""
        self._port = 0

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Give the running server.

        Raises:
            UsageError: there is no `redis-server` on this machine, or it does not start.
        """
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self._port}"
        with tempfile.TemporaryDirectory() as self._folder:
            try:
                self.start()
                yield self
            finally:
                self.kill()

    def start(self) -> None:
        """Start it, on the data that it left."""
        binary = shutil.which("redis-server")
        if binary is None:
            raise UsageError(
                "no `redis-server` found; on Debian or Ubuntu: apt install redis-server"
            )
        where = ["--port", str(self._port), "--bind", "127.0.0.1", "--dir", self._folder]
        command = [binary, *where, "--save", "", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _wait_for(self._port, self._process)

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask(self, command: str) -> bytes:
        """Send a command of one word, as no client of ours does; returns what is answered."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=5) as line:
            line.sendall(command.encode() + b"\r\n")
            return line.recv(1024)


@contextmanager
def server(*options: str) -> Iterator[str]:
    """Give the URL of a running server; see `Server`."""
    with Server(*options).running() as found:
        yield found.url


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise UsageError("the `redis-server` of this machine does not start")
