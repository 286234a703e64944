"""`kasmina bus monitor`: figures of a bus, for people, programs, and Prometheus."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from kasmina.bus.errors import BusError
from kasmina.bus.names import DEAD_LETTERS, HEARTBEATS, streams_of
from kasmina.bus.operator import Operator
from kasmina.cli.reaching import HERE, Reach, through
from kasmina.cli.saying import line, say, warn
from kasmina.errors import UsageError

if TYPE_CHECKING:
    from kasmina.bus.client import MessageBusClient
    from kasmina.bus.monitor import MessageBusMonitor

SERIES = 4096  # of one label; ten for each run
LOOKS_EVERY_S = 5.0  # where nobody says
Format = Literal["log", "json", "prometheus"]


def monitor(
    *,
    format: Format | None = None,
    every: Annotated[float | None, Parameter(validator=Number(gte=0.1, lt=math.inf))] = None,
    listen: str | None = None,
    stream: Annotated[Sequence[str], Parameter(negative=())] = (),
    reach: Reach = HERE,
) -> int:
    """Tell how runs and streams do: once, from time to time, or to Prometheus.

    Args:
        format: a line for people, a line of JSON, or the text of Prometheus; the first if not given.
        every: seconds between two looks; it goes on until Ctrl-C then.
        listen: PORT or HOST:PORT at which Prometheus may ask, by http; on this machine alone where
            no host is given. Nothing is printed then, if no format is given.
        stream: another stream to look at; may be given again.
        reach: where the bus is.
    """
    address = None if listen is None else _address(listen)

    async def work(client: MessageBusClient) -> int:
        from kasmina.bus.monitor import MessageBusMonitor

        await client.info(HEARTBEATS)  # a bus that cannot be used is told at once
        looking = _Looking(client, stream)
        seen = MessageBusMonitor(client, looking.groups, series=SERIES)
        with _asked_at(address, seen):
            while True:
                await looking.look(seen)
                await seen.sample()
                if format is not None or listen is None:
                    _tell(seen, format or "log")
                if every is None and listen is None:
                    return int(not seen.last.up)
                await asyncio.sleep(every or LOOKS_EVERY_S)

    return through(reach.bus, work)


class _Looking:
    """Finds what there is to look at."""

    def __init__(self, client: MessageBusClient, streams: Sequence[str]) -> None:
        self.groups: list[tuple[str, str]] = []
        self._client, self._streams = client, streams
        self._values: dict[str, float] = {}

    async def look(self, monitor: MessageBusMonitor) -> None:
        """Look; what cannot be looked at now is not known."""
        values, groups = dict.fromkeys(self._values, math.nan), list[tuple[str, str]]()
        try:
            found, groups = await self._found()
            values |= found
        except BusError:
            pass  # the monitor's sample tells
        for name in values:  # one that is watched already stays in its place
            monitor.watch(name, partial(self._value, name))
        self._values, self.groups[:] = values, groups

    async def _found(self) -> tuple[dict[str, float], list[tuple[str, str]]]:
        """Figures of runs, the length of streams, and their groups."""
        values, groups = dict[str, float](), list[tuple[str, str]]()
        runs = await Operator(self._client).runs()
        values["runs alive"] = sum(not each.silent for each in runs.values())
        streams = [*self._streams, DEAD_LETTERS]
        for run, alive in runs.items():
            if alive.silent:
                continue
            streams += streams_of(run)
            values[f"{run}: heard s ago"] = alive.age_s
            values[f"{run}: step"] = alive.beat.step
            values[f"{run}: commands waiting"] = alive.beat.waiting
        for name in streams:
            with suppress(BusError):  # somebody else's key of that name
                info = await self._client.info(name)
                values[f"{name}: entries"] = info.length
                groups += [(name, group) for group in info.groups]
        return values, groups

    def _value(self, name: str) -> float:
        return self._values[name]


def _tell(monitor: MessageBusMonitor, format: Format) -> None:
    if format == "json":
        say(monitor.json_line().decode().rstrip("\n"))
    elif format == "prometheus":
        say(monitor.text().rstrip("\n"))
    else:
        say(line(monitor.line()))


@contextmanager
def _asked_at(address: tuple[str, int] | None, monitor: MessageBusMonitor) -> Iterator[None]:
    """Answer Prometheus meanwhile."""
    if address is None:
        yield
        return
    from prometheus_client import start_http_server

    host, port = address
    try:
        server, _ = start_http_server(port, host, monitor.registry)
    except OSError as error:
        raise UsageError(f"nobody can listen at {host}:{port}: {error.strerror}") from None
    warn(f"Prometheus may ask at http://{host}:{server.server_port}/metrics")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise UsageError(f"--listen is {text!r}; write PORT or HOST:PORT, e.g. 9100")
    return host or "127.0.0.1", int(port)
