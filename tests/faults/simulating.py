"""What simulations of the bus on virtual time share: clients that fail, and seeds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from typing import Any, Protocol

from kasmina.bus.errors import BusUnavailable
from kasmina.bus.in_process import InProcessBus
from tests.runtime.bus.virtual import run

SHARES = (0.0, 0.1, 0.3)  # of the calls of a client that fail


class World(Protocol):
    """One simulation; everything in it follows from its seed."""

    fired: Counter[str]

    def live(self) -> Coroutine[Any, Any, None]:
        """Run it all, and hold it against the model."""


class Unreliable:
    """A client whose calls fail before or after they were applied, or stall, and that can die."""

    def __init__(
        self, bus: InProcessBus, rng: Random, failing: Sequence[str], fired: Counter[str]
    ) -> None:
        self._bus, self._rng, self._failing, self._fired = bus, rng, failing, fired
        self._share = rng.choice(SHARES)
        self._dead = False

    def die(self) -> None:
        """Let no call do anything from now on."""
        self._dead = True

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._bus, name)
        if name not in self._failing:
            return call

        async def unreliable(*arguments: Any, **settings: Any) -> Any:
            self._check_alive()
            kind = self._rng.choice(("before", "after", "stall"))
            if self._rng.random() >= self._share:
                return await call(*arguments, **settings)
            self._fired[f"{name} {kind}"] += 1
            if kind == "before":
                raise BusUnavailable("not sent")
            if kind == "stall":
                await asyncio.sleep(self._rng.random())
                self._check_alive()
            answer = await call(*arguments, **settings)
            if kind == "after":
                raise BusUnavailable("the answer got lost")
            return answer

        return unreliable

    async def publish(self, stream: str, payload: bytes, *, keep: int | None = None) -> str:
        """As the client does it: through `publish_many`, so that it can fail."""
        ids: list[str] = await self.publish_many(stream, [payload], keep=keep)
        return ids[0]

    def _check_alive(self) -> None:
        if self._dead:
            raise asyncio.CancelledError


def simulate(world: Callable[[int], World], seeds: range) -> Counter[str]:
    """Run simulations; returns which faults fired how often."""
    fired: Counter[str] = Counter()
    for seed in seeds:
        each = world(seed)
        try:
            run(each.live())
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        fired += each.fired
    return fired


def finds(world: Callable[[int], World], seeds: range) -> bool:
    """Whether the model says no to one of the seeds."""
    found = False
    for seed in seeds:
        try:
            run(world(seed).live())
        except* AssertionError:
            found = True
        if found:
            break
    return found


def check_fired(fired: Counter[str], failing: Sequence[str], *others: str) -> None:
    """Every fault must have happened, or the simulation proves nothing."""
    kinds = {f"{name} {kind}" for name in failing for kind in ("before", "after", "stall")}
    assert not (kinds | {*others}) - set(fired), fired
