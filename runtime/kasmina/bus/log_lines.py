"""Lines of an event log on disk, as the messages that they become."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import blake3
import msgspec

from kasmina.bus.errors import BusError
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import (
    VERSION,
    Address,
    Body,
    Envelope,
    GateEvidence,
    Logged,
    Transition,
)

_READ = 1 << 20  # bytes of the log at a time; a longer line is read whole


class BadEventLog(BusError, ValueError):
    """A line of the log that is no event; the message names file and byte."""


class _Line(msgspec.Struct):
    """What every line of a log has, and those fields that become messages of their own."""

    run: str
    seq: int
    kind: str
    epoch: int
    step: int
    clock: dict[str, Any]
    address: dict[str, Any] | None = None
    event: str | None = None
    source: str | None = msgspec.field(name="from", default=None)
    target: str | None = msgspec.field(name="to", default=None)
    reason: str | None = None
    measure: str | None = None
    value: float | str | None = None
    interval: tuple[float | str | None, float | str | None] | None = None


def payload_of(line: bytes, where: str) -> bytes:
    """The message of a line; what a message of its own has no room for goes as it stands."""
    try:
        read = msgspec.json.decode(line, type=_Line)
        with suppress(ValueError):
            if (body := _body(read)) is not None:
                return wire.encode(_envelope(read, line, body))
        text = line.decode().rstrip("\n")
        body = Logged(**_about(read), event=read.kind, line=text)
        return wire.encode(_envelope(read, line, body))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadEventLog(f"{where}: no event of a log: {error}") from None


def _envelope(read: _Line, line: bytes, body: Body) -> Envelope:
    return Envelope(
        version=VERSION,  # type: ignore[arg-type]  # generated together with its literal
        id=f"{read.seq}-{digest_of(line)}",
        producer=producer_of(read.run),
        sequence=read.seq,
        time=float(read.clock["time"]),
        body=body,
    )


def _about(line: _Line) -> dict[str, Any]:
    return {"run": line.run, "log": line.seq, "epoch": line.epoch, "step": line.step}


def producer_of(run: str) -> str:
    """The producer of a run's events: the run itself, whoever reads its log."""
    return run if len(run) <= 128 else f"blake3 {blake3.blake3(run.encode()).hexdigest()}"


def _body(line: _Line) -> Body | None:
    """The message of its own that a line has, if any; its fields are not checked yet."""
    if line.address is None:
        return None
    seed = msgspec.convert(line.address, Address)
    if line.kind == "transition":
        return Transition(
            **_about(line),
            seed=seed,
            source=line.source or "",
            target=line.target or "",
            event=line.event or "",
            reason=line.reason,
        )
    if line.kind == "evidence":
        low, high = line.interval or (None, None)
        value, low, high = (float("nan" if x is None else x) for x in (line.value, low, high))
        return GateEvidence(
            **_about(line), seed=seed, measure=line.measure or "", value=value, low=low, high=high
        )
    return None


def lines(number: int, at: int, count: int) -> list[bytes]:
    """Up to `count` whole lines from a byte on, and of several no more than are read at once."""
    size = _READ
    while True:
        chunk = os.pread(number, size, at)
        end = chunk.rfind(b"\n") + 1
        if end or len(chunk) < size:
            return [line + b"\n" for line in chunk[:end].split(b"\n", count)[:-1]]
        size *= 2


def last_lines(number: int, count: int) -> int:
    """The byte at which the last `count` whole lines begin."""
    at, left = os.fstat(number).st_size, count + 1
    while at:
        size = min(_READ, at)
        chunk = os.pread(number, size, at - size)
        found = chunk.count(b"\n")
        if found >= left:
            for _ in range(left):
                size = chunk.rindex(b"\n", 0, size)
            return at - len(chunk) + size + 1
        at, left = at - size, left - found
    return 0


def digest_of(line: bytes) -> str:
    """What a line is known by again."""
    return blake3.blake3(line).hexdigest(length=16)
