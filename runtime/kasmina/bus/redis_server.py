"""Which server a URL names, and what that server can and cannot do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis.asyncio import connection as redis_connection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from kasmina.bus.errors import BadBusUrl, BusTooOld
from kasmina.bus.redis_skim import BoundedParser
from kasmina.bus.redis_wire import info_text, pack
from kasmina.bus.urls import hidden

SCHEMES = ("redis", "rediss", "unix")
EXAMPLE = "redis://USER:PASSWORD@HOST:6379/0, rediss:// for TLS, unix:///path/of/socket"
LAG_SINCE = (7, 0)


class Features(NamedTuple):
    """What a server is and has; `lacks` says of everything that is missing what follows."""

    version: str  # "" where the server does not say
    lag: bool  # it counts the entries that a group has not been given
    append_only: bool | None  # None where it does not say
    snapshots: bool | None
    evicts: bool | None  # it forgets keys when its memory is full
    lacks: tuple[str, ...]


def connector(
    url: str, *, connect_s: float, parser: type[BoundedParser] = BoundedParser
) -> tuple[Callable[[], AbstractConnection], str]:
    """Return what makes connections to a URL, and how the server is called in messages.

    Args:
        url: of the server.
        connect_s: how long opening a connection may take.
        parser: of replies.

    Raises:
        BadBusUrl: the URL names no server.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadBusUrl(f"{hidden(url)!r} is no URL: {error}; write {EXAMPLE}") from None
    if parts.scheme not in SCHEMES:
        legal = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise BadBusUrl(f"{hidden(url)!r} does not begin with {legal}; write {EXAMPLE}")
    base = parts.path.strip("/")
    if parts.scheme != "unix" and not (base == "" or base.isdigit()):
        raise BadBusUrl(f"{hidden(url)!r}: {base!r} is no number of a database; write {EXAMPLE}")
    if parts.scheme == "unix" and not parts.path:
        raise BadBusUrl(f"{hidden(url)!r} names no socket; write unix:///path/of/socket")
    if port == 0:
        raise BadBusUrl(f"{hidden(url)!r}: port 0 is none; write {EXAMPLE}")
    make = _maker(url, connect_s, parser)
    return make, f"{parts.scheme}://{_address(parts.hostname, port, parts.path)}"


def _maker(
    url: str, connect_s: float, parser: type[BoundedParser]
) -> Callable[[], AbstractConnection]:
    """Return what makes connections; a link has its own waiting and trying again."""
    ours: dict[str, Any] = {
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": connect_s,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "kasmina",
        "socket_read_size": 1 << 16,
        "parser_class": parser,
    }
    if not url.startswith("unix"):
        ours["socket_keepalive"] = True

    def make() -> AbstractConnection:
        options: dict[str, Any] = {**ours, **redis_connection.parse_url(url)}
        kind = options.pop("connection_class", redis_connection.Connection)
        connection: AbstractConnection = kind(**options)
        return connection

    try:
        make()
    except (TypeError, ValueError) as error:
        raise BadBusUrl(f"{hidden(url)!r}: {error}; write {EXAMPLE}") from None
    return make


def _address(host: str | None, port: int | None, path: str) -> str:
    return f"{host}:{port or 6379}" if host else path or "localhost:6379"


def probe_commands() -> tuple[bytes, int]:
    """Return what to ask a server, and how many replies that gives."""
    commands = [
        pack("COMMAND", "INFO", "XAUTOCLAIM", "XADD", "XREADGROUP"),
        *(pack("INFO", section) for section in ("server", "persistence")),
        pack("CONFIG", "GET", "maxmemory-policy"),
    ]
    return b"".join(commands), len(commands)


def features(replies: list[Any], server: str) -> Features:
    """Return what a server's answers say of it.

    Raises:
        BusTooOld: it lacks a command that the bus cannot do without.
    """
    commands, about, persistence, policy = replies
    about = {} if isinstance(about, Exception) else info_text(about)
    version = about.get("redis_version", "")
    if not isinstance(commands, Exception) and None in commands:
        called = f"Redis {version}" if version else "the server"
        raise BusTooOld(
            f"{server}: {called} has no XAUTOCLAIM, by which work that a dead process left is taken "
            "over; 6.2 or newer is needed"
        )
    lacks = []
    if not version:
        lacks.append("the user may not run INFO, so its version and persistence are not known")
    if version and not (counts := _number(version) >= LAG_SINCE):
        lacks.append(f"Redis {version} does not count a group's lag (7.0 does): it is unknown")
    append_only, snapshots = _persistence(persistence)
    if append_only is False:
        lacks.append(
            "no append-only file: entries that were acknowledged to their sender are lost when it "
            "is killed; set `appendonly yes`"
        )
    evicts = None if isinstance(policy, Exception) or not policy else policy[1] != b"noeviction"
    if evicts:
        lacks.append(
            "it forgets keys when its memory is full, streams too; set `maxmemory-policy noeviction`"
        )
    return Features(version, not version or counts, append_only, snapshots, evicts, tuple(lacks))


def _persistence(reply: Any) -> tuple[bool | None, bool | None]:
    if isinstance(reply, Exception):
        return None, None
    told = info_text(reply)
    aof = told.get("aof_enabled")
    return (None if aof is None else aof == "1"), int(told.get("rdb_saves", "0") or 0) > 0


def _number(version: str) -> tuple[int, int]:
    parts = [int(part) if part.isdigit() else 0 for part in version.split(".")]
    return (parts[0], parts[1] if len(parts) > 1 else 0)
