"""A Redis server of the benchmark's own, on loopback, gone afterwards."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kasmina.errors import UsageError

STARTS_WITHIN_S = 10.0


@contextmanager
def server(*options: str) -> Iterator[str]:
    """Give the URL of a running server; without `options` it writes nothing to the disk.

    Raises:
        UsageError: there is no `redis-server` on this machine, or it does not start.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise UsageError("no `redis-server` found; on Debian or Ubuntu: apt install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        fixed = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        process = subprocess.Popen([binary, *fixed, *options], stdout=subprocess.DEVNULL)
        try:
            _wait_for(port, process)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.02)
    raise UsageError("the `redis-server` of this machine does not start")
