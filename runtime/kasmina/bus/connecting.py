"""A bus by its URL."""

from __future__ import annotations

from typing import Any

from kasmina.bus.client import MessageBusClient
from kasmina.bus.errors import BadBusUrl
from kasmina.bus.in_process import InProcessBus


def open_bus(url: str | None = None, **options: Any) -> MessageBusClient:
    """Return a client of a bus; nothing is sent yet.

    Args:
        url: of a Redis server; None is a new bus of this process.
        options: those of `RedisStreamClient`, or of `InProcessBus`.

    Raises:
        BadBusUrl: the URL names no bus, or what a Redis server needs is not installed.
    """
    if url is None:
        return InProcessBus(**options)
    try:
        from kasmina.bus.redis_client import RedisStreamClient
    except ModuleNotFoundError as error:
        raise BadBusUrl(
            f"a bus on a Redis server needs the package {error.name!r}: pip install 'kasmina[bus]'"
        ) from error
    return RedisStreamClient(url, **options)
