"""How streams are spoken of to Redis: commands as bytes, replies as our records, errors as ours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from redis import exceptions as redis_errors

from kasmina.bus.client import Delivery, GroupInfo, Pending
from kasmina.bus.errors import (
    AnswerTooLarge,
    BusError,
    BusFull,
    BusLoading,
    BusReadOnly,
    BusRefused,
    BusRejected,
    BusTooOld,
    BusUnavailable,
    NoSuchGroup,
)
from kasmina.bus.redis_skim import ReplyTooLarge

FIELD = b"p"  # the one field of an entry: its payload

Argument = bytes | str | int


def pack(*arguments: Argument) -> bytes:
    """Return a command as the server reads it (RESP)."""
    parts = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        text = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)


def pack_publish(stream: str, payloads: Sequence[bytes], keep: int | None) -> bytes:
    """Return one XADD for each payload; as this is what most bytes pass, by one join."""
    limit: list[Argument] = [] if keep is None else ["MAXLEN", "~", keep]
    head = pack("XADD", stream, *limit, "*", FIELD)
    count = 4 + len(limit)
    head = head.replace(b"*%d\r\n" % count, b"*%d\r\n" % (count + 1), 1)
    return b"".join([b"%b$%d\r\n%b\r\n" % (head, len(each), each) for each in payloads])


def deliveries(stream: str, entries: Iterable[Any], attempt: int = 1) -> list[Delivery]:
    """Return entries `[id, [field, value, ...]]` as deliveries; ones of others have no payload."""
    return [
        Delivery(stream, entry_id.decode(), payload_of(fields), attempt)
        for entry_id, fields in entries
    ]


def payload_of(fields: list[bytes]) -> bytes:
    """Return the payload among an entry's fields; empty where there is none."""
    if len(fields) == 2 and fields[0] == FIELD:
        return fields[1]
    return dict(zip(fields[::2], fields[1::2], strict=False)).get(FIELD, b"")


def table(reply: Sequence[Any]) -> dict[str, Any]:
    """Return a flat list of names and values as a dictionary; a last name may lack its value."""
    return {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=False)}


def pending_of(reply: Iterable[Any]) -> list[Pending]:
    """Return what XPENDING gives of single entries."""
    return [
        Pending(entry_id.decode(), consumer.decode(), idle / 1000, count)
        for entry_id, consumer, idle, count in reply
    ]


def groups_of(reply: Iterable[Any], last: str) -> dict[str, GroupInfo]:
    """Return what XINFO GROUPS gives; before Redis 7 it tells no lag, but none is none."""
    found = {}
    for group in map(table, reply):
        delivered = group["last-delivered-id"].decode()
        lag = 0 if delivered == last else group.get("lag")
        name = group["name"].decode()
        found[name] = GroupInfo(delivered, group["pending"], lag, group["consumers"])
    return found


def info_text(reply: bytes) -> dict[str, str]:
    """Return what INFO gives, as names and values."""
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def is_no_group(error: Exception) -> bool:
    """Whether the server says that a stream or group is not there."""
    return str(error).startswith("NOGROUP")


def is_no_key(error: Exception) -> bool:
    """Whether the server says that a stream is not there."""
    return str(error).startswith("no such key") or "no such key" in str(error)


_KINDS: tuple[tuple[str, type[BusError], str], ...] = (
    ("OOM", BusFull, "it has no memory left: trim streams, pass `keep`, or raise its `maxmemory`"),
    ("READONLY", BusReadOnly, "it is a replica: give the primary's URL, or wait for the fail-over"),
    ("MISCONF", BusReadOnly, "it cannot save its data, and so takes none: see its own log"),
    ("NOREPLICAS", BusReadOnly, "it has too few replicas, and so takes no data"),
    ("LOADING", BusLoading, "it reads its data; wait"),
    ("BUSY ", BusLoading, "a script of somebody's holds it up; wait, or end it by SCRIPT KILL"),
    (
        "NOAUTH",
        BusRefused,
        "it wants a password: write redis://USER:PASSWORD@HOST:PORT",
    ),
    ("WRONGPASS", BusRefused, "user or password are wrong, or the user is off"),
    (
        "NOPERM",
        BusRefused,
        "this user may not do that: see `kasmina bus doctor` for what is needed",
    ),
    ("NOGROUP", NoSuchGroup, "make the group before it is read"),
    ("MOVED", BusRejected, "it is a cluster; give one server, or a proxy that speaks for all"),
    ("unknown command", BusTooOld, "6.2 or newer is needed"),
    ("DB index", BusRefused, "it has fewer databases: end the URL with a smaller number, as /0"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        BusRefused,
        "its certificate is by nobody that this machine trusts: add ?ssl_ca_certs=FILE to the URL",
    ),
)
_INSIDE = ("unknown command", "DB index", "CERTIFICATE_VERIFY_FAILED")  # not only at the start


def refusal(error: Exception, command: str, server: str) -> BusError:
    """Return a reply that is an error, or a connection that failed, as an error of ours."""
    code = str(getattr(error, "status_code", "") or "")
    text = str(error) if str(error).startswith(code) else f"{code} {error}"
    asked = f" to {command}" if command else ""
    for start, kind, advice in _KINDS:
        if text.startswith(start) or (start in _INSIDE and start in text):
            return kind(f"{server} answered{asked}: {text}; {advice}")
    if isinstance(error, redis_errors.AuthenticationError):
        return BusRefused(f"{server} answered{asked}: {text}; check user and password in the URL")
    if isinstance(error, ReplyTooLarge):
        return AnswerTooLarge(f"{server} answered{asked}: {text}")
    if isinstance(error, redis_errors.ResponseError):
        return BusRejected(f"{server} answered{asked}: {text}")
    told = text.strip() or type(error).__name__
    return BusUnavailable(f"{server} cannot be reached: {told}; is it running, and the URL right?")
