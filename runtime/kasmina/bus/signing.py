"""Commands that prove whom they come from: a shared secret, HMAC-SHA256 (RFC 2104), no replay.

What is signed is the whole message with its envelope, so its id, producer and time are proved as
well. Its time must be close to when the bus took it (the id of its entry says when), so an old
command that somebody sends again is refused; a copy that comes soon is known by its id. Whoever can
rewrite the server's data and clock can still send a command again that the receiver has forgotten;
against that the server itself must be protected (TLS, ACL).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from kasmina.bus.client import position
from kasmina.bus.errors import BusError
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import Envelope, Signed

LEAST_KEY = 32  # bytes
AROUND = 2048  # bytes that a signature takes at most, with its envelope
_PURPOSE = b"kasmina signed message 1\x00"
Reason = Literal["unsigned", "forged", "replayed", "expired"]


class BadKeyFile(BusError, ValueError):
    """A file that holds no key that may be used."""


class SignatureRefused(BusError):
    """A message that is not proved; `reason` is one of those of a refused command."""

    transient: ClassVar[bool] = False

    def __init__(self, reason: Reason, detail: str, message_id: str) -> None:
        super().__init__(f"message {message_id!r} refused ({reason}): {detail}")
        self.reason: Reason = reason
        self.detail = detail
        self.message_id = message_id


class Key(NamedTuple):
    """A shared secret; `name` says which it is and tells nothing of it."""

    name: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.name!r})"

    def mac(self, payload: bytes) -> bytes:
        """Return the proof for a payload, 32 bytes."""
        return hmac.digest(self.secret, _PURPOSE + payload, "sha256")


def key_of(secret: bytes) -> Key:
    """Return a key by its secret."""
    name = hashlib.blake2b(secret, digest_size=8, person=b"kasmina key").hexdigest()
    return Key(name, secret)


def make_key_file(path: Path) -> Key:
    """Write a new key into a new file that only its owner may read.

    Raises:
        BadKeyFile: it cannot be written, or exists.
    """
    secret = secrets.token_bytes(LEAST_KEY)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise BadKeyFile(f"{path}: cannot be made: {error.strerror}") from None
    with os.fdopen(handle, "w") as file:
        file.write(f"{secret.hex()}\n")
    return key_of(secret)


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys, one a line in hexadecimal, the newest first; `#` begins a remark.

    The first one signs; all are taken for proof, so that a key can be changed without a pause.

    Raises:
        BadKeyFile: it cannot be read, others may read it, or a line is no key.
    """
    try:
        rights = path.stat().st_mode
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "it is not plain text"
        raise BadKeyFile(f"{path}: cannot be read: {told}") from None
    if rights & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadKeyFile(f"{path}: others may read it, so it is no secret; run: chmod 600 {path}")
    keys = [
        _key(path, number, line.partition("#")[0].strip())
        for number, line in enumerate(text.splitlines(), 1)
        if line.partition("#")[0].strip()
    ]
    if not keys:
        raise BadKeyFile(f"{path}: holds no key; write one a line in hexadecimal")
    return tuple(keys)


def _key(path: Path, number: int, line: str) -> Key:
    try:
        secret = bytes.fromhex(line)
    except ValueError:
        raise BadKeyFile(f"{path}:{number}: is not hexadecimal") from None
    if len(secret) < LEAST_KEY:
        raise BadKeyFile(
            f"{path}:{number}: has {len(secret)} bytes; a key has {LEAST_KEY} or more "
            f"({2 * LEAST_KEY} digits)"
        )
    return key_of(secret)


class Signer:
    """Signs what is sent."""

    def __init__(self, key: Key) -> None:
        self._key = key

    def __call__(self, envelope: Envelope) -> Envelope:
        """Return a message that carries this one and its proof, by the same id.

        Raises:
            MessageRefused: the message is not legal.
        """
        payload = wire.encode(envelope)
        return Envelope(
            version=envelope.version,
            id=envelope.id,
            producer=envelope.producer,
            sequence=envelope.sequence,
            time=envelope.time,
            trace=envelope.trace,
            correlation=envelope.correlation,
            body=Signed(key=self._key.name, mac=self._key.mac(payload), payload=payload),
        )


def unsealed(envelope: Envelope) -> Envelope:
    """Return the message inside of a signed one, unproved; any other as it is.

    Raises:
        MessageRefused: what is signed is no message.
    """
    signed = envelope.body
    return wire.decode(signed.payload) if isinstance(signed, Signed) else envelope


class Verifier:
    """Takes messages out of their signatures, and refuses all that is not proved.

    Args:
        keys: any of which may have signed, one or more; `sign` signs by the first.
        window_s: how far a message's own time and the time at which the bus took it may be apart,
            seconds. Clocks that go wrong by more make commands fail.
        remembered: ids of messages that came before. Of more, the oldest are forgotten: those that
            no replay within the window can name, as long as fewer come in twice the window.
    """

    def __init__(
        self, keys: tuple[Key, ...], *, window_s: float = 300.0, remembered: int = 200_000
    ) -> None:
        self.since = 0.0  # what was made before is refused, seconds since 1970
        self.sign = Signer(keys[0])
        self._keys = {key.name: key for key in keys}
        self._window_s, self._remembered = window_s, remembered
        self._entries: OrderedDict[tuple[str, str], str] = OrderedDict()  # by producer and id

    def __call__(self, envelope: Envelope, entry: str) -> Envelope:
        """Return the message that is proved.

        Args:
            envelope: as it was read.
            entry: the id of its entry in the stream.

        Raises:
            SignatureRefused: "unsigned"; "forged": no known key, or another proof; "expired": its
                time is too far from the entry's; "replayed": it was made before `since`.
            MessageRefused: what is signed is no message.
        """
        message = self.recent(envelope, entry)
        if message.time < self.since:
            raise SignatureRefused("replayed", "it was made before this run began", message.id)
        return message

    def recent(self, envelope: Envelope, entry: str) -> Envelope:
        """Return the message that is proved and was made when its entry was; see `__call__`."""
        message = self.opened(envelope)
        taken = position(entry)[0] / 1000
        if abs(taken - message.time) > self._window_s:
            detail = (
                f"it was made {taken - message.time:.0f} s before the bus took it, and at most "
                f"{self._window_s:g} s are allowed: an old command that is sent again, or a clock "
                "that is wrong"
            )
            raise SignatureRefused("expired", detail, message.id)
        return message

    def opened(self, envelope: Envelope) -> Envelope:
        """Return the message that is proved, however old it is.

        Raises:
            SignatureRefused: "unsigned"; "forged": no known key, or another proof.
            MessageRefused: what is signed is no message.
        """
        signed = envelope.body
        if not isinstance(signed, Signed):
            detail = "only what is signed counts here; give the sender the key's file"
            raise SignatureRefused("unsigned", detail, envelope.id)
        key = self._keys.get(signed.key)
        if key is None:
            detail = f"it is signed by key {signed.key!r}, which is not known here"
            raise SignatureRefused("forged", detail, envelope.id)
        if not hmac.compare_digest(key.mac(signed.payload), signed.mac):
            detail = f"its proof is not that of key {key.name!r}"
            raise SignatureRefused("forged", detail, envelope.id)
        return wire.decode(signed.payload)

    def is_replayed(self, message: Envelope, entry: str) -> bool:
        """Whether a message has come before in another entry; remembers it otherwise.

        A copy whose outcome is known is answered by it; one whose outcome is forgotten is refused.
        """
        name = (message.producer, message.id)
        first = self._entries.setdefault(name, entry)
        if len(self._entries) > self._remembered:
            self._entries.popitem(last=False)
        return first != entry
