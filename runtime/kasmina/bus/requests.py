"""What those who handle commands speak of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import blake3
import msgspec
from msgspec import structs

from kasmina.bus.deduplication import MessageKey
from kasmina_generated.messages.types import Applied, Command, Refused, Status

Outcome = Applied | Refused | Status
Check = Callable[[Command], Refused | None]

PRIORITIES = {  # 0 goes first; what stops harm before what asks before what grows
    "Rollback": 0,
    "Cancel": 1,
    "Pause": 1,
    "Resume": 1,
    "Query": 2,
    "SetLimit": 4,
    "SetStrategy": 4,
    "Checkpoint": 4,
    "Germinate": 5,
}


class Asked(NamedTuple):
    """Which message is answered: two producers may have given one id."""

    key: MessageKey
    entry: str  # its place in the stream
    digest: bytes | None = None  # of what it asks for
    trace: str | None = None  # its W3C trace context


def digest_of(command: Command) -> bytes:
    """Tell a command from another one of the same id; why, how soon and until when do not count."""
    bare = structs.replace(command, reason="", priority=None, expires=None)
    return blake3.blake3(msgspec.msgpack.encode(bare)).digest(length=16)


class Request(NamedTuple):
    """An accepted command; give it back to `settle`."""

    asked: Asked
    command: Command
    arrived: float  # when it was accepted, by the handler's clock
    life: int  # of the handler; another one begins when a checkpoint is restored
    told: Applied | None = None  # it is done again: what was answered the first time


@dataclass(frozen=True, slots=True)
class CommandConfig:
    """Settings of a handler.

    Attributes:
        window: commands whose outcome is remembered; a copy that comes later is done again.
        capacity: commands that wait at most; more are refused as overloaded.
        earlier: of those that had come before the run went on; more wait in their stream.
        stride: see `FairQueue`.
        timeout_s: after which a command that still waits is refused as expired, seconds.
        batch: entries that are read at a time.
        wait_s: how long an empty stream is waited for, seconds.
        keep: acknowledgements that their stream keeps.
        unsent: acknowledgements that wait for the bus at most; beyond, no command is read.
    """

    window: int = 65_536
    capacity: int = 4096
    earlier: int = 65_536
    stride: int = 64
    timeout_s: float = 3600.0
    batch: int = 256
    wait_s: float = 0.5
    keep: int = 100_000
    unsent: int = 8192
