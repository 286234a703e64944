"""Large payloads by claim-check: the bytes go apart, and the message carries a ticket for them.

What is fetched is found by the ticket's digest alone; its name must be the one that follows from
it. So no message can point anywhere else, and bytes that do not have the digest are refused.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import blake3

from kasmina.bus.client import LARGEST_PAYLOAD, MessageBusClient
from kasmina.bus.errors import BusError
from kasmina.bus.retry import BadSetting
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import ClaimCheck, Envelope

CHUNK = 64 << 10  # bytes; small enough that a command waits behind one for microseconds
_TOGETHER = 8  # chunks in one call of the client
LARGEST_CLAIM = 1 << 30
_PREFIX = "kasmina.claim."


class BadClaim(BusError, ValueError):
    """A ticket, or a payload, that cannot be used."""


class ClaimExpired(BadClaim):
    """The time of the ticket is over."""


class ClaimMissing(BadClaim):
    """There are no bytes for the ticket, or not all of them."""


class ClaimCorrupt(BadClaim):
    """The bytes are not those that were handed in."""


class ClaimStore:
    """Hands payloads in and gives them out.

    Args:
        client: keeps the chunks where there is no folder.
        folder: keeps payloads as files, for processes that share a disk. It is this side's own
            setting and comes from no message.
        expires_s: how long a payload is kept, seconds.
        largest: bytes of a payload, at most.
        clock: seconds since 1970.

    Raises:
        BadSetting: a setting is outside its range.
    """

    def __init__(
        self,
        client: MessageBusClient,
        *,
        folder: Path | None = None,
        expires_s: float = 3600.0,
        largest: int = 1 << 28,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 < expires_s < float("inf"):
            raise BadSetting("ClaimStore", "expires_s", expires_s, "more than 0 seconds")
        if not 0 < largest <= LARGEST_CLAIM:
            rule = f"from 1 to {LARGEST_CLAIM} bytes"
            raise BadSetting("ClaimStore", "largest", largest, rule)
        self._client, self._folder, self._clock = client, folder, clock
        self._expires_s, self._largest = expires_s, largest

    async def put(self, payload: bytes) -> ClaimCheck:
        """Keep a payload; raises BadClaim where it is too large."""
        self._check_size(len(payload))
        digest = await asyncio.to_thread(_digest, payload)
        if self._folder is None:
            await self._put_chunks(digest, payload)
        else:
            await asyncio.to_thread(_write, self._folder, digest.hex(), payload)
        return ClaimCheck(
            place="chunks" if self._folder is None else "file",
            name=_name(digest),
            chunks=_chunks(len(payload)),
            size=len(payload),
            digest=digest,
            expires=self._clock() + self._expires_s,
        )

    async def fit(self, envelope: Envelope, stamp: Stamp, *, room: int = 0) -> bytes:
        """Return a message as an entry, by claim-check where it is too large for one.

        Args:
            envelope: the message.
            stamp: of this process.
            room: bytes of the entry that are for something else.

        Raises:
            BadClaim: it is larger than `largest`.
            MessageRefused: a value is not legal.
        """
        payload = wire.encode(envelope)
        if len(payload) <= LARGEST_PAYLOAD - room:
            return payload
        ticket = await self.put(payload)
        return wire.encode(stamp(ticket, correlation=envelope.id))

    async def read(self, payload: bytes) -> Envelope:
        """Return the message of an entry, fetched where it went by claim-check.

        Raises:
            MessageRefused: it is no message that can be read.
            BadClaim: see `get`; a ticket for a ticket too.
        """
        return await self.fetched(wire.decode(payload))

    async def fetched(self, envelope: Envelope) -> Envelope:
        """Return a message, fetched where it went by claim-check; see `read`."""
        if not isinstance(envelope.body, ClaimCheck):
            return envelope
        found = wire.decode(await self.get(envelope.body))
        if isinstance(found.body, ClaimCheck):
            raise BadClaim(f"{_what(envelope.body)} holds another ticket")
        return found

    async def get(self, claim: ClaimCheck) -> bytes:
        """Return the payload of a ticket.

        Raises:
            ClaimExpired: its time is over.
            ClaimMissing: there are no bytes, or not all of them.
            ClaimCorrupt: the bytes are others.
            BadClaim: it is for more than `largest`, or says two things at once.
        """
        _check(claim)
        if not self._clock() < claim.expires:
            raise ClaimExpired(f"{_what(claim)} expired {self._clock() - claim.expires:.3g} s ago")
        self._check_size(claim.size)
        if claim.place == "chunks":
            payload = await self._get_chunks(claim)
        else:
            payload = await asyncio.to_thread(_read, self._folder, claim)
        found = await asyncio.to_thread(_digest, payload)
        if found != claim.digest:
            raise ClaimCorrupt(f"{_what(claim)}: its bytes have the digest {found.hex()[:16]}...")
        return payload

    async def sweep(self) -> int:
        """Delete files whose time is over; returns how many. Chunks on the bus go by themselves."""
        if self._folder is None:
            return 0
        return await asyncio.to_thread(_sweep, self._folder, self._clock() - self._expires_s)

    def _check_size(self, size: int) -> None:
        if size > self._largest:
            raise BadClaim(f"a payload of {size} bytes; at most {self._largest} go by claim-check")

    async def _put_chunks(self, digest: bytes, payload: bytes) -> None:
        keys = _keys(digest, len(payload))
        for first in range(0, len(keys), _TOGETHER):
            chunks = {
                keys[at]: payload[at * CHUNK : (at + 1) * CHUNK]
                for at in range(first, min(first + _TOGETHER, len(keys)))
            }
            await self._client.put_many(chunks, expires_s=self._expires_s)
            await asyncio.sleep(0)  # let commands pass in between

    async def _get_chunks(self, claim: ClaimCheck) -> bytes:
        keys, chunks = _keys(claim.digest, claim.size), list[bytes]()
        for first in range(0, len(keys), _TOGETHER):
            found = await self._client.get_many(keys[first : first + _TOGETHER])
            for at, chunk in enumerate(found, start=first):
                if chunk is None:
                    raise ClaimMissing(f"{_what(claim)}: chunk {at} of {len(keys)} is not there")
                if len(chunk) != min(CHUNK, claim.size - at * CHUNK):
                    raise ClaimCorrupt(f"{_what(claim)}: chunk {at} has {len(chunk)} bytes")
                chunks.append(chunk)
        return b"".join(chunks)


def _digest(payload: bytes) -> bytes:
    return blake3.blake3(payload).digest()


def _what(claim: ClaimCheck) -> str:
    return f"claim {claim.digest.hex()[:16]}... ({claim.size} bytes)"


def _name(digest: bytes) -> str:
    return f"{_PREFIX}{digest.hex()}"


def _chunks(size: int) -> int:
    return max(1, -(-size // CHUNK))


def _keys(digest: bytes, size: int) -> list[str]:
    return [f"{_name(digest)}.{at}" for at in range(_chunks(size))]


def _check(claim: ClaimCheck) -> None:
    if claim.name != _name(claim.digest) or claim.chunks != _chunks(claim.size):
        raise BadClaim(
            f"{_what(claim)} is called {claim.name[:128]!r} and has {claim.chunks} chunks; by its "
            f"digest and size it is called {_name(claim.digest)!r} and has {_chunks(claim.size)}"
        )


def _write(folder: Path, digest: str, payload: bytes) -> None:
    """Write under another name and rename, so that nobody reads a part."""
    temporary = folder / f"{uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(payload)
        temporary.replace(folder / digest)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise BadClaim(f"{folder}: the payload cannot be kept: {error.strerror}") from error


def _read(folder: Path | None, claim: ClaimCheck) -> bytes:
    if folder is None:
        raise ClaimMissing(f"{_what(claim)} is a file, and this side was given no folder for them")
    try:
        number = os.open(folder / claim.digest.hex(), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(number, "rb") as file:
            size = os.fstat(number).st_size
            payload = file.read(claim.size) if size == claim.size else b""
    except OSError as error:
        raise ClaimMissing(f"{_what(claim)}: {folder}: {error.strerror}") from None
    if size != claim.size:
        raise ClaimCorrupt(f"{_what(claim)}: its file has {size} bytes")
    return payload


def _sweep(folder: Path, before: float) -> int:
    """Delete what this module wrote, and nothing else, if it is older."""
    swept = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        ours = path.suffix == ".part" or (len(path.name) == 64 and path.name.isalnum())
        with suppress(FileNotFoundError):  # another process sweeps too
            if ours and path.stat(follow_symlinks=False).st_mtime < before:
                path.unlink()
                swept += 1
    return swept
