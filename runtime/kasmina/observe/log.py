"""The event log of a run: append-only JSON lines, from which the run can be replayed.

One line is one object: `v` (schema version), `run`, `seq` (from 0, without a gap), `kind`,
`epoch`, `step`, for events of one seed `address` {site, slot, generation}, the kind's own fields,
and `clock`, the only part that differs between two equal runs. Numbers keep every bit: a float32
is written as the double that equals it. NaN and the infinities, which JSON does not have, are the
strings "nan", "inf" and "-inf", so `float(value)` reads any number of a log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self

from kasmina.observe.record import (
    KINDS,
    Addressed,
    LogError,
    Record,
    SeedKey,
    TornLine,
    check,
    decode,
    dump,
    encode,
    parse,
    plain,
)

__all__ = [
    "KINDS",
    "EventLog",
    "LogError",
    "Position",
    "Record",
    "SeedKey",
    "TornLine",
    "canonical",
    "read_log",
    "read_until",
]


class Position(NamedTuple):
    """A place in a log, between two events."""

    bytes: int
    events: int


class EventLog:
    """Writes a log, one whole line an event; safe for several threads.

    An existing log of the same run is continued: a torn last line is cut off first.

    Args:
        path: the file; its folder exists.
        run: name of the run, without a slash.
        clock: seconds since the epoch, for the `clock` part.
        at: go on from here, as `read_until` has checked it; what stands behind is cut off when the
            first event is written.

    Raises:
        LogError: the file cannot be opened, belongs to another run, or holds no log.
    """

    def __init__(
        self,
        path: Path | str,
        run: str,
        *,
        clock: Callable[[], float] = time.time,
        at: Position | None = None,
    ) -> None:
        self.path, self.run, self._clock = Path(path), run, clock
        self._subscribers: list[Callable[[Record], None]] = []
        self._lock = Lock()
        self._at = at  # until the first event is written
        if at is not None:
            self._seq = at.events
        else:
            self._seq = _continue(self.path, run) if self.path.exists() else 0
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
            self._file: int | None = os.open(self.path, flags, 0o644)
        except OSError as error:
            raise LogError(f"{self.path}: the log cannot be opened: {error.strerror}") from error

    def append(
        self,
        kind: str,
        *,
        epoch: int,
        step: int,
        address: Addressed | None = None,
        clock: Mapping[str, float] | None = None,
        **fields: Any,
    ) -> Record:
        """Write one event and tell the subscribers.

        Args:
            kind: one of `KINDS`.
            epoch: epochs finished before the event, 0 or more.
            step: training steps done before the event, 0 or more.
            address: of the seed that the event is about.
            clock: measured times, seconds, beside the time of day.
            fields: those of the kind and any others; numbers, strings, None, sequences and
                mappings of them. Tensors and arrays are written as lists.

        Raises:
            LogError: the event is not legal, or cannot be written. Then the file holds what it
                held before.
        """
        with self._lock:
            record = Record(
                run=self.run,
                seq=self._seq,
                kind=kind,
                epoch=int(epoch),
                step=int(step),
                address=None if address is None else _key(address),
                fields={name: plain(value, f"{kind}.{name}") for name, value in fields.items()},
                clock={"time": self._clock(), **(clock or {})},
            )
            check(record, str(self.path))
            self._write(encode(record))
            self._seq += 1
        for subscriber in self._subscribers:
            subscriber(record)
        return record

    def subscribe(self, callback: Callable[[Record], None]) -> None:
        """Call back after each event, in the thread that appends it."""
        self._subscribers.append(callback)

    def sync(self) -> Position:
        """Bring all events so far onto the disk; returns where the next one will stand.

        Raises:
            LogError: the log is closed, or the disk refused.
        """
        with self._lock:
            if self._file is None:
                raise LogError(f"{self.path}: the log is closed")
            try:
                os.fsync(self._file)
            except OSError as error:
                raise LogError(f"{self.path}: the log cannot be kept: {error.strerror}") from error
            size = os.fstat(self._file).st_size if self._at is None else self._at.bytes
            return Position(size, self._seq)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        """Write a whole line or nothing."""
        if self._file is None:
            raise LogError(f"{self.path}: the log is closed, so event {self._seq} is not written")
        if self._at is not None:
            os.ftruncate(self._file, self._at.bytes)
            self._at = None
        before = os.fstat(self._file).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            os.ftruncate(self._file, before)  # a disk that is full still takes this
            raise LogError(
                f"{self.path}: event {self._seq} cannot be written: {error.strerror}; the log "
                "ends whole with the event before it: make room and run again"
            ) from error


def read_log(path: Path | str, *, ignore_torn: bool = False) -> list[Record]:
    """Read a log strictly.

    Args:
        path: the file.
        ignore_torn: leave out a torn last line, as a reader of an interrupted run wants, instead
            of refusing it.

    Raises:
        TornLine: the last line has no end; the message says how many whole events stand before.
        LogError: the file cannot be read or a line is not legal; the message names file and line.
    """
    path = Path(path)
    *lines, rest = _bytes(path).split(b"\n")
    records = _records(lines, path)
    if rest and not ignore_torn:
        raise TornLine(
            f"{path}:{len(lines) + 1}: the last line is torn after {len(rest)} bytes: its writer "
            f"was killed; the {len(records)} events before it are whole, read them with "
            "ignore_torn=True"
        )
    return records


def read_until(path: Path | str, position: Position) -> list[Record]:
    """Read the events before a position strictly, whatever stands behind it.

    Raises:
        LogError: the file cannot be read, a line is not legal, or the position is none of this log.
    """
    path = Path(path)
    content = _bytes(path)[: position.bytes] if position.bytes else b""
    *lines, rest = content.split(b"\n")
    records = _records(lines, path)
    if len(content) < position.bytes or rest or len(records) != position.events:
        raise LogError(
            f"{path}: {position.events} events should end at byte {position.bytes}; the log has "
            f"{len(records)} whole ones up to byte {len(content)}"
        )
    return records


def canonical(line: str | bytes) -> str:
    """Return a line without its clock, keys in order: equal runs have equal canonical lines.

    Raises:
        LogError: the line is not legal.
    """
    decode(line, "line")
    raw = parse(line, "line")
    return dump({key: raw[key] for key in sorted(raw) if key != "clock"})


def _records(lines: Sequence[bytes], path: Path) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        record = decode(line, f"{path}:{number}")
        _check_follows(record, records, f"{path}:{number}")
        records.append(record)
    return records


def _key(address: Addressed) -> SeedKey:
    return SeedKey(str(address.site), int(address.slot), int(address.generation))


def _check_follows(record: Record, before: list[Record], where: str) -> None:
    if record.seq != len(before):
        raise LogError(
            f"{where}: seq is {record.seq}, but {len(before)} comes next: lines are missing, "
            "doubled or out of order"
        )
    if before and record.run != before[0].run:
        raise LogError(f"{where}: run {record.run!r} in the log of run {before[0].run!r}")


def _continue(path: Path, run: str) -> int:
    """Cut a torn last line off an existing log and return the next sequence number."""
    records = read_log(path, ignore_torn=True)
    if records and records[0].run != run:
        raise LogError(
            f"{path}: this is the log of run {records[0].run!r}, not of {run!r}: choose another "
            "folder"
        )
    whole = _bytes(path).rfind(b"\n") + 1
    if whole < path.stat().st_size:
        os.truncate(path, whole)
    return len(records)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LogError(f"{path}: the log cannot be read: {error.strerror}") from error
