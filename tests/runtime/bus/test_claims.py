"""Large payloads apart from their messages, and what hostile tickets get."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kasmina.bus.claims import (
    CHUNK,
    BadClaim,
    ClaimCorrupt,
    ClaimExpired,
    ClaimMissing,
    ClaimStore,
)
from kasmina.bus.client import LARGEST_PAYLOAD
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.retry import BadSetting
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import ClaimCheck, Logged


class Clock:
    """Seconds that pass when told to."""

    now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def store(folder: Path | None = None, **settings: Any) -> tuple[ClaimStore, InProcessBus, Clock]:
    """A store, its bus and their clock."""
    clock = Clock()
    bus = InProcessBus(clock=clock)
    return ClaimStore(bus, folder=folder, clock=clock, **settings), bus, clock


@pytest.fixture(params=["chunks", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Both places."""
    return None if request.param == "chunks" else tmp_path / "claims"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5_000_001])
def test_a_payload_comes_back(folder: Path | None, size: int) -> None:
    """Of any size, also by another store that shares the place."""
    payload = os.urandom(size)

    async def main() -> bytes:
        claims, bus, clock = store(folder)
        ticket = await claims.put(payload)
        assert ticket.chunks == max(1, -(-size // CHUNK))
        other = ClaimStore(bus.peer(), folder=folder, clock=clock)
        return await other.get(ticket)

    assert asyncio.run(main()) == payload


def test_a_message_goes_apart_only_where_it_must() -> None:
    """Below 1 MiB it is an entry of its own, above it a ticket; the reader sees no difference."""

    async def main() -> None:
        claims, _, _ = store()
        stamp = Stamp("test")
        for size, apart in ((10, False), (LARGEST_PAYLOAD - 10, True)):
            body = Logged(run="r", log=1, epoch=0, step=0, event="note", line="x" * size)
            payload = await claims.fit(stamp(body), stamp)
            assert len(payload) <= LARGEST_PAYLOAD
            assert isinstance(wire.decode(payload).body, ClaimCheck) == apart
            assert (await claims.read(payload)).body == body

    asyncio.run(main())


def test_a_ticket_expires(folder: Path | None) -> None:
    """It says how long ago."""

    async def main() -> None:
        claims, _, clock = store(folder, expires_s=60.0)
        ticket = await claims.put(b"x" * 10)
        clock.now += 61
        with pytest.raises(ClaimExpired) as expired:
            await claims.get(ticket)
        assert str(expired.value).endswith("(10 bytes) expired 1 s ago")

    asyncio.run(main())


def test_a_ticket_that_never_expires_by_nan_is_expired() -> None:
    """NaN is refused on the wire and fails closed here."""

    async def main() -> None:
        claims, _, _ = store()
        ticket = msgspec.structs.replace(await claims.put(b"x"), expires=float("nan"))
        with pytest.raises(ClaimExpired):
            await claims.get(ticket)

    asyncio.run(main())


def test_missing_bytes_are_said(tmp_path: Path) -> None:
    """Which chunk, or which file; and a file where this side has no folder."""

    async def main() -> None:
        claims, bus, _ = store()
        ticket = await claims.put(os.urandom(3 * CHUNK))
        await bus.put_many({f"{ticket.name}.1": b""}, expires_s=0.0)
        with pytest.raises(ClaimMissing, match="chunk 1 of 3 is not there"):
            await claims.get(ticket)
        by_file, _, _ = store(tmp_path)
        ticket = await by_file.put(b"payload")
        (tmp_path / ticket.digest.hex()).unlink()
        with pytest.raises(ClaimMissing, match="No such file or directory"):
            await by_file.get(ticket)
        with pytest.raises(ClaimMissing, match="is a file, and this side was given no folder"):
            await claims.get(ticket)

    asyncio.run(main())


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    """A flipped bit, a longer chunk, a longer file, a link in the place of a file."""

    async def main() -> None:
        claims, bus, _ = store()
        ticket = await claims.put(bytes(2 * CHUNK))
        key = f"{ticket.name}.1"
        await bus.put_many({key: b"\x01" + bytes(CHUNK - 1)}, expires_s=60.0)
        with pytest.raises(ClaimCorrupt, match="its bytes have the digest"):
            await claims.get(ticket)
        await bus.put_many({key: bytes(CHUNK + 1)}, expires_s=60.0)
        with pytest.raises(ClaimCorrupt, match="chunk 1 has 65537 bytes"):
            await claims.get(ticket)
        by_file, _, _ = store(tmp_path)
        ticket = await by_file.put(b"payload")
        path = tmp_path / ticket.digest.hex()
        path.write_bytes(b"payloaD")
        with pytest.raises(ClaimCorrupt, match="its bytes have the digest"):
            await by_file.get(ticket)
        path.write_bytes(b"payload and more")
        with pytest.raises(ClaimCorrupt, match="its file has 16 bytes"):
            await by_file.get(ticket)
        path.unlink()
        (tmp_path / "secret").write_bytes(b"payload")
        path.symlink_to(tmp_path / "secret")
        with pytest.raises(ClaimMissing):
            await by_file.get(ticket)

    asyncio.run(main())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../etc/passwd"},
        {"name": "/etc/passwd"},
        {"name": "kasmina.claim.other"},
        {"chunks": 1 << 20},
        {"size": 1 << 34},
        {"digest": bytes(32)},
    ],
)
def test_a_ticket_that_points_elsewhere_is_refused(folder: Path | None, changes: Any) -> None:
    """The name must follow from the digest and the chunks from the size; nothing is opened."""

    async def main() -> None:
        claims, _, _ = store(folder)
        ticket = msgspec.structs.replace(await claims.put(b"payload"), **changes)
        with pytest.raises(BadClaim, match="by its digest and size it is called"):
            await claims.get(ticket)

    asyncio.run(main())


def test_more_than_this_side_takes_is_refused_before_a_byte_is_read() -> None:
    """Both in handing in and in giving out; 100 MB too."""

    async def main() -> None:
        small, bus, clock = store(largest=1000)
        with pytest.raises(BadClaim, match="a payload of 1001 bytes; at most 1000 go"):
            await small.put(bytes(1001))
        ticket = await ClaimStore(bus, clock=clock).put(bytes(100_000_000))
        with pytest.raises(BadClaim, match="a payload of 100000000 bytes; at most 1000 go"):
            await small.get(ticket)

    asyncio.run(main())


def test_a_ticket_for_a_ticket_is_refused() -> None:
    """Else two could point at each other."""

    async def main() -> None:
        claims, _, _ = store()
        stamp = Stamp("test")
        inner = wire.encode(stamp(await claims.put(b"x")))
        outer = wire.encode(stamp(await claims.put(inner)))
        with pytest.raises(BadClaim, match="holds another ticket"):
            await claims.read(outer)

    asyncio.run(main())


def test_sweeping_deletes_what_is_over_and_nothing_else(tmp_path: Path) -> None:
    """A file of the user's in the same folder stays."""

    async def main() -> None:
        claims, _, clock = store(tmp_path, expires_s=60.0)
        assert await claims.sweep() == 0
        old = tmp_path / (await claims.put(b"old")).digest.hex()
        new = tmp_path / (await claims.put(b"new")).digest.hex()
        mine, part = tmp_path / "notes.txt", tmp_path / "0.part"
        mine.write_text("mine")
        part.write_text("torn")
        for path, age in ((old, 61), (new, 59), (mine, 61), (part, 61)):
            os.utime(path, (clock.now - age, clock.now - age))
        assert await claims.sweep() == 2
        assert {path.name for path in tmp_path.iterdir()} == {new.name, "notes.txt"}

    asyncio.run(main())


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """With the reason, and nothing is left behind."""
    blocked = tmp_path / "file"
    blocked.write_text("in the way")

    async def main() -> None:
        with pytest.raises(BadClaim, match="the payload cannot be kept: "):
            await store(blocked)[0].put(b"x")

    asyncio.run(main())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_settings_outside_their_range_are_refused() -> None:
    """The message names setting, value and range."""
    with pytest.raises(BadSetting, match="expires_s is 0; it is more than 0 seconds"):
        store(expires_s=0)
    with pytest.raises(BadSetting, match="largest is 0; it is from 1 to 1073741824 bytes"):
        store(largest=0)
