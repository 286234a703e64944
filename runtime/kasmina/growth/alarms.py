"""What a person should look at: in the program's log at once, and on the bus when it takes it."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from kasmina.bus.client import Loss, MessageBusClient
from kasmina.bus.errors import BusError
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import types, wire

logger = logging.getLogger(__name__)

AGAIN_S = 60.0  # after which one that is sounded again and again is told again
MOST = 64  # that wait for the bus; of more the oldest stand in the log only
_LEVELS = {"notice": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


class Alarms:
    """Alarms of one run.

    Args:
        client: the bus.
        stream: of the run's events.
        stamp: of this process.
        run: its name.
        keep: entries that the stream keeps; None keeps all.
        wake: says that there is one to send.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        stamp: Stamp,
        run: str,
        *,
        keep: int | None = None,
        wake: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.count = 0
        self._client, self._stream, self._stamp, self._run = client, stream, stamp, run
        self._keep, self._wake, self._clock = keep, wake, clock
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._waiting: deque[tuple[Literal["notice", "warning", "critical"], str, str]] = deque(
            maxlen=MOST
        )

    def sound(
        self,
        severity: Literal["notice", "warning", "critical"],
        what: str,
        detail: str,
        *,
        same: str | None = None,
    ) -> None:
        """Tell, if the same was not told a moment ago; from any thread.

        Args:
            severity: how soon somebody should look.
            what: in a word or two, to count by.
            detail: what is wrong, and what to do.
            same: what makes two of them the same; the detail if not given.
        """
        now, key = self._clock(), (what, detail if same is None else same)
        if now - self._told.get(key, -AGAIN_S) < AGAIN_S:
            return
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > MOST:
            self._told.popitem(last=False)
        self.count += 1
        logger.log(_LEVELS[severity], "run %s: %s: %s", self._run, what, detail)
        self._waiting.append((severity, what, detail))
        self._wake()

    async def send(self, beat: types.Heartbeat) -> None:
        """Send all there are; those that the bus does not take now wait.

        Args:
            beat: tells where the run stands.
        """
        with suppress(BusError):
            while self._waiting:
                severity, what, detail = self._waiting[0]
                alarm = types.Alarm(
                    run=self._run,
                    epoch=beat.epoch,
                    step=beat.step,
                    severity=severity,
                    what=what[:64],
                    detail=detail[:8192],
                )
                payload = wire.encode(self._stamp(alarm))
                await self._client.publish(self._stream, payload, keep=self._keep)
                self._waiting.popleft()


class Losses:
    """What the clients of one run find that their server has lost; each is told once.

    Args:
        alarms: where it is told.
        clients: two or more may find the same.
    """

    def __init__(self, alarms: Alarms, *clients: MessageBusClient) -> None:
        self.count = self.entries = 0
        self._alarms, self._told = alarms, 0
        for client in clients:
            client.on_loss(_Ear(self).hear)

    def wiped(self, times: int, loss: Loss) -> None:
        """A client has found for the so manyeth time that everything is gone."""
        if times > self._told:
            self._told = times
            self.lost(loss)

    def lost(self, loss: Loss) -> None:
        """Tell of a loss."""
        self.count += 1
        self.entries += loss.entries or 0
        many = f" ({loss.entries} entries that this process knew)" if loss.entries else ""
        detail = f"{loss.detail}{many}; events are sent again, commands by who has asked them"
        self._alarms.sound("warning", f"bus {loss.kind}", detail)


class _Ear:
    """Hears for one client."""

    def __init__(self, losses: Losses) -> None:
        self._losses, self._wiped = losses, 0

    def hear(self, loss: Loss) -> None:
        if loss.kind == "wiped":
            self._wiped += 1
            self._losses.wiped(self._wiped, loss)
        else:
            self._losses.lost(loss)
