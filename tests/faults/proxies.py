"""A proxy between a client and a server that loses, holds or cuts what passes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class Proxy:
    """Passes bytes of TCP connections on loopback, until it is told to do otherwise.

    Attributes:
        port: where clients connect.
        connections: how many there were.
        faults: how often a fault that was asked for has happened.
    """

    def __init__(self, target: int) -> None:
        self.port, self.connections, self.faults = 0, 0, 0
        self._target = target
        self._command = b""  # that the next fault waits for
        self._passed = 0  # bytes of the reply that pass before the fault
        self._armed = 0  # the connection whose next reply is spoiled
        self._held = False
        self._held_connections: set[int] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"redis://127.0.0.1:{self.port}"

    def cut_reply(self, command: bytes, after: int = 0) -> None:
        """Pass the next request that holds `command`, and so much of its reply; then close.

        Args:
            command: part of the request, e.g. the name of a command.
            after: bytes of the reply that pass.
        """
        self._command, self._passed, self._armed = command, after, 0

    def hold(self) -> None:
        """Let the connections of now pass nothing any more and stay open; new ones are whole."""
        self._held = True
        self._held_connections = set(range(self.connections + 1))

    def close_all(self) -> None:
        """Close every connection."""
        for writer in list(self._writers):
            writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.close_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, back}
        for source, target, replies in ((reader, back, False), (there, writer, True)):
            task = asyncio.ensure_future(
                self._pass(source, target, (writer, back), number, replies)
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        both: tuple[asyncio.StreamWriter, ...],
        number: int,
        replies: bool,
    ) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if number in self._held_connections:
                    self.faults += 1
                    await asyncio.Event().wait()
                if replies and self._armed == number:
                    self._armed = 0
                    self.faults += 1
                    target.write(data[: self._passed])
                    await target.drain()
                    break
                if not replies and self._command and self._command in data:
                    self._command, self._armed = b"", number
                target.write(data)
                await target.drain()
        for writer in both:
            writer.close()
            self._writers.discard(writer)
