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
        self._drop = False
        self._cut: int | None = None
        self._held = False
        self._held_connections: set[int] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"redis://127.0.0.1:{self.port}"

    def drop_next_reply(self) -> None:
        """Pass the next request; close the connection when its reply comes."""
        self._drop = True

    def cut_next_reply(self, after: int) -> None:
        """Pass so many bytes of the next reply, then close the connection."""
        self._cut = after

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
                if replies and self._spoils(data):
                    if self._cut is not None:
                        target.write(data[: self._cut])
                        with suppress(OSError):
                            await target.drain()
                    self._drop, self._cut = False, None
                    self.faults += 1
                    break
                target.write(data)
                await target.drain()
        for writer in both:
            writer.close()
            self._writers.discard(writer)

    def _spoils(self, data: bytes) -> bool:
        return self._drop or (self._cut is not None and len(data) > self._cut)
