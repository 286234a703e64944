"""Which commands the checkpoints of a run hold: those may leave their stream, and are answered for."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from kasmina.bus.client import FIRST, MessageBusClient, position
from kasmina.bus.commands import CommandHandler
from kasmina.bus.errors import BusError
from kasmina.bus.requests import Outcome, Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from kasmina.growth.saving import Keeper


class Durable:
    """The commands of a run and its checkpoints on the disk.

    Args:
        handler: of the commands.
        client: the bus.
        stream: of the commands.
    """

    def __init__(self, handler: CommandHandler, client: MessageBusClient, stream: str) -> None:
        self.keeper: Keeper | None = None  # without one nothing can go on from anything earlier
        self._handler, self._client, self._stream = handler, client, stream
        self._positions: dict[str, str] = {}  # of commands, by the checkpoint that holds them
        self._waiting: deque[tuple[Request, str]] = deque()  # for their checkpoint
        self._newest = ""  # checkpoint that was not seen on the disk yet
        self._trimmed = FIRST

    @property
    def keeps(self) -> bool:
        """Whether checkpoints are saved at all."""
        return self.keeper is not None and self.keeper.keeps

    @property
    def waits(self) -> bool:
        """Whether somebody waits for a checkpoint."""
        return bool(self._waiting)

    def saved(self, checkpoint: str, position: str) -> None:
        """A checkpoint is on its way to the disk, which holds what was done up to a position."""
        self._positions[checkpoint] = position
        self._newest = checkpoint

    def save(self, request: Request, tag: str | None) -> None:
        """Save in the background; `look` answers when the checkpoint is on the disk."""
        assert self.keeper is not None
        self._waiting.append((request, self.keeper.save("high", tag=tag)))

    async def look(self, answer: Callable[[str], Outcome]) -> None:
        """Answer for checkpoints that are there, and let go of commands that all of them hold.

        Args:
            answer: what is told of a checkpoint, by its id.
        """
        if self._waiting or self._newest or not self.keeps:
            await self.trim(answer)

    async def trim(self, answer: Callable[[str], Outcome]) -> None:
        """As `look`, at any time."""
        if self.keeper is None or not self.keeper.keeps:
            before: str | None = self._handler.position
        else:
            names = await asyncio.to_thread(self.keeper.names)
            while self._waiting and self._waiting[0][1] in names:
                request, checkpoint = self._waiting.popleft()
                self._handler.settle(request, answer(checkpoint))
            self._newest = "" if self._newest in names else self._newest
            before = self._oldest(set(names))
        if before is not None and before not in (FIRST, self._trimmed):
            with suppress(BusError):
                await self._client.trim(self._stream, before=before)
                self._trimmed = before

    def _oldest(self, there: set[str]) -> str | None:
        """The position up to which all checkpoints on the disk have done; None: not known of one."""
        newest = max(there, default="")
        for gone in [name for name in self._positions if name not in there and name < newest]:
            del self._positions[gone]
        if not there or not there <= self._positions.keys():
            return None
        return min((self._positions[name] for name in there), key=position)
