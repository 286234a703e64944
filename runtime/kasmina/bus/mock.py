"""A bus for tests of your own code: a real one in memory, that notes what is asked and can fail."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from kasmina.bus.client import FIRST
from kasmina.bus.errors import BusError
from kasmina.bus.in_process import InProcessBus

P = ParamSpec("P")
R = TypeVar("R")


class Call(NamedTuple):
    """One call of a method of the bus."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


class _Fault(NamedTuple):
    error: BusError
    applied: bool


def _noted(
    method: Callable[Concatenate[Any, P], Awaitable[R]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Return a method that notes its calls, and fails where it was told to."""
    name = getattr(method, "__name__", "")

    async def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.calls.append(Call(name, args, dict(kwargs)))
        fault = self.next_fault(name)
        if fault is not None and not fault.applied:
            raise fault.error
        result = await method(self, *args, **kwargs)
        if fault is not None:
            raise fault.error
        return result

    functools.update_wrapper(call, method)
    return call


class MockMessageBusClient(InProcessBus):
    """An `InProcessBus` that notes every call in `calls` and fails on demand.

    >>> bus = MockMessageBusClient()
    >>> bus.fail("publish_many", BusUnavailable("cut"), times=2)  # the next two calls raise it
    >>> bus.fail("acknowledge", BusUnavailable("cut"), applied=True)  # done, but the answer is lost
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[Call] = []
        self._faults: dict[str, deque[_Fault]] = {}

    def fail(self, method: str, error: BusError, *, times: int = 1, applied: bool = False) -> None:
        """Let the next calls of a method raise an error.

        Args:
            method: its name; `publish` is `publish_many` of one.
            error: what they raise.
            times: how many calls.
            applied: whether they do first what they are asked, as where only the answer is lost.

        Raises:
            ValueError: there is no such method.
        """
        if method not in METHODS:
            raise ValueError(f"{method!r} cannot fail; legal are {', '.join(sorted(METHODS))}")
        self._faults.setdefault(method, deque()).extend([_Fault(error, applied)] * times)

    def next_fault(self, method: str) -> _Fault | None:
        """Take the fault of the next call; None where it shall go well."""
        waiting = self._faults.get(method)
        return waiting.popleft() if waiting else None

    async def published(self, stream: str) -> list[bytes]:
        """Return the payloads that a stream holds, the oldest first; this is not noted."""
        found = await InProcessBus.read(self, stream, after=FIRST, count=1 << 30)
        return [delivery.payload for delivery in found]

    publish_many = _noted(InProcessBus.publish_many)
    create_group = _noted(InProcessBus.create_group)
    consume = _noted(InProcessBus.consume)
    acknowledge = _noted(InProcessBus.acknowledge)
    claim = _noted(InProcessBus.claim)
    pending = _noted(InProcessBus.pending)
    read = _noted(InProcessBus.read)
    read_many = _noted(InProcessBus.read_many)
    read_back = _noted(InProcessBus.read_back)
    remove = _noted(InProcessBus.remove)
    trim = _noted(InProcessBus.trim)
    info = _noted(InProcessBus.info)
    time = _noted(InProcessBus.time)
    put_many = _noted(InProcessBus.put_many)
    get_many = _noted(InProcessBus.get_many)


METHODS = frozenset(
    name for name, value in vars(MockMessageBusClient).items() if hasattr(value, "__wrapped__")
)
