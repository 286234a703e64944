"""How a run's bus does, for Prometheus: what the run itself knows of it, by no seed.

`kasmina bus monitor` tells of a bus from outside, of all its runs; this tells what only the process
of the run knows: what it has dropped, lost, refused, and how long its commands took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import start_http_server

from kasmina.bus.client import MessageBusClient
from kasmina.bus.monitor import MessageBusMonitor
from kasmina.errors import KasminaError

HOST = "127.0.0.1"
EVERY_S = 5.0  # between two looks
STANDING = frozenset({"bytes of events not sent", "commands waiting", "frames waiting"})


class PortIsTaken(KasminaError, OSError):
    """Nobody can listen at the port."""


class Metrics:
    """Answers http://127.0.0.1:PORT/metrics.

    Args:
        client: of the bus that is looked at.
        port: 0 takes a free one.
        counts: what there is to tell, by name; asked from the thread of the bus.

    Raises:
        PortIsTaken: somebody else has it.
    """

    def __init__(
        self, client: MessageBusClient, port: int, counts: Callable[[], Mapping[str, int]]
    ) -> None:
        self._counts = counts
        self._monitor = MessageBusMonitor(client)
        self.observe = self._monitor.observe
        try:
            self._server, _ = start_http_server(port, HOST, self._monitor.registry)
        except OSError as error:
            raise PortIsTaken(
                f"nobody can listen at {HOST}:{port}: {error.strerror}; give another port, or 0 for "
                "a free one"
            ) from None
        self.port: int = self._server.server_port

    async def run(self) -> None:
        """Look from time to time, until it is cancelled."""
        for name in self._counts():
            tell = self._monitor.watch if name in STANDING else self._monitor.count
            tell(name, lambda name=name: self._counts()[name])  # type: ignore[misc]
        await self._monitor.run(EVERY_S)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
