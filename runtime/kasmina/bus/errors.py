"""What a bus answers when it cannot do what it was asked; each says what to do next."""

from __future__ import annotations

from typing import ClassVar

from kasmina.errors import KasminaError


class BusError(KasminaError):
    """Base of what goes wrong on the way to, on, or from a bus.

    `transient` says whether the same call may succeed later; what a retry or a breaker goes by.
    """

    transient: ClassVar[bool] = False


class BusUnavailable(BusError, ConnectionError):
    """Nobody answers, or not in time. What was under way may have been applied: send it again."""

    transient = True


class BusFull(BusError):
    """There is no room (Redis: OOM); nothing of the call that failed was stored."""

    transient = True


class BusReadOnly(BusError):
    """The server is a replica, or was made one; writes go on when it is a primary again."""

    transient = True


class BusLoading(BusError):
    """The server has started and still reads its data."""

    transient = True


class BusRefused(BusError, PermissionError):
    """The server wants a password or a user, or this user may not do it."""


class BusTooOld(BusError):
    """The server lacks what the bus needs."""


class BusRejected(BusError):
    """The server answered with an error that this client has no name for."""


class AnswerTooLarge(BusRejected):
    """The server answered with more than anything of ours takes; it was not read."""


class BadBusUrl(BusError, ValueError):
    """A text that names no bus."""


class BusClosed(BusError):
    """The client was closed; open another one."""


class BadName(BusError, ValueError):
    """A name of a stream, group, consumer or key that is empty, too long or not printable."""


class PayloadTooLarge(BusError, ValueError):
    """More bytes than one entry may hold; larger payloads go by claim-check."""


class NoSuchGroup(BusError, LookupError):
    """The group does not exist: it was never made, or it went with its stream (a `Loss`)."""
