"""One run that is decided for from outside: its controller, and what is kept of it on the bus."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import blake3
import msgspec
import numpy as np
from numpy.typing import NDArray

from kasmina.bus.client import FIRST, MessageBusClient, position
from kasmina.bus.names import streams_of
from kasmina.bus.signing import Signer
from kasmina.errors import KasminaError
from kasmina.growth.controller import Command, Controller, Observation, Proposal
from kasmina_generated.messages import types, wire
from kasmina_generated.messages.types import VERSION, Envelope

EPOCHS = 256  # back from which a controller is still known
KEPT_S = 30 * 86_400.0  # a controller's state on the bus
MESSAGES = {
    "request_germination": types.Germinate,
    "cancel": types.Cancel,
    "emergency": types.Rollback,
}


class BadState(KasminaError, ValueError):
    """What is kept of a controller cannot be used."""


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    """What is kept on the bus, as JSON: state of a controller holds numbers of any size."""

    last: str
    now: dict[str, Any]
    before: list[tuple[int, dict[str, Any]]]


class SteeredRun:
    """A run, its controller, and how that stood before each of the last epochs.

    Args:
        run: its name.
        make: makes a controller.
        name: of whoever decides.
        sign: signs commands.
    """

    def __init__(
        self, run: str, make: Callable[[], Controller], name: str, sign: Signer | None
    ) -> None:
        self.run, self.streams = run, streams_of(run)
        self.producer = f"{name[:40]}/{blake3.blake3(run.encode()).hexdigest(length=8)}"
        self.key = f"{self.streams.observed}:{name}"
        self.last = FIRST  # entry that was decided on
        self.replied = FIRST  # entry of its answers that was read
        self.asked: set[str] = set()  # ids of commands that have no final answer
        self.heard = self.silent_s = 0.0  # last sign of life, by the loop's clock; what is too long
        self.tries, self.until = 0, 0.0  # failures in a row, and until when it is left alone
        self.failed = 0  # tries to decide on the observation that is next
        self._make, self._sign = make, sign
        self._controller: Controller | None = None
        self._before: dict[int, dict[str, Any]] = {}

    @property
    def ready(self) -> bool:
        """Whether it has its controller."""
        return self._controller is not None

    def begin(self) -> None:
        """Take a new controller."""
        self._controller, self._before = self._make(), {}

    def drop(self) -> None:
        """Let go of the controller; `restore` gives one as the bus knows it."""
        self._controller = None

    async def restore(self, client: MessageBusClient) -> None:
        """Take a controller as it was left on the bus; a new one where there is none.

        Raises:
            BadState: what is kept cannot be used; it has a new one.
            BusError: the bus is away, or holds no state under that key.
        """
        (kept,) = await client.get_many([self.key])
        self.begin()
        if kept is None:
            return
        try:
            self._load(kept)
        except Exception as error:
            self.begin()
            raise BadState(f"what {self.key!r} holds is no controller's state: {error}") from error

    async def save(self, client: MessageBusClient) -> None:
        """Keep the controller on the bus.

        Raises:
            BusError: the bus is away.
        """
        assert self._controller is not None
        plain = {
            "last": self.last,
            "now": self._controller.state_dict(),
            "before": list(self._before.items()),
        }
        await client.put_many({self.key: json.dumps(plain).encode()}, expires_s=KEPT_S)

    def decide(
        self, seen: Observation, mask: NDArray[np.bool_], digest: str
    ) -> tuple[Proposal, dict[str, bytes]]:
        """Decide; returns commands by their ids as well.

        The same observation gives commands with the same ids, which are done once. Whatever the
        controller raises is passed on.
        """
        assert self._controller is not None
        self._go_back(seen.epoch)
        self._before[seen.epoch] = self._controller.state_dict()
        for old in sorted(self._before)[:-EPOCHS]:
            del self._before[old]
        proposal = self._controller.propose(seen, mask)
        made = [
            self._envelope(seen, command, f"{seen.epoch}:{digest}") for command in proposal.commands
        ]
        return proposal, {each.id: wire.encode(self._signed(each)) for each in made}

    def _load(self, kept: bytes) -> None:
        assert self._controller is not None
        plain = msgspec.convert(json.loads(kept), _Kept)
        position(plain.last)
        self._controller.load_state_dict(plain.now)
        self.last, self._before = plain.last, dict(plain.before)

    def _go_back(self, epoch: int) -> None:
        """Stand as before an epoch that the run has come to once more."""
        assert self._controller is not None
        back = [each for each in self._before if each >= epoch]
        if back:
            self._controller.load_state_dict(self._before[min(back)])
        for each in back:
            del self._before[each]

    def _signed(self, envelope: Envelope) -> Envelope:
        return envelope if self._sign is None else self._sign(envelope)

    def _envelope(self, seen: Observation, command: Command, which: str) -> Envelope:
        site = next(s for s in seen.sites if s.first_row <= command.row < s.first_row + s.seeds)
        target = types.Target(
            site=site.path or ".",
            slot=command.row - site.first_row,
            generation=int(seen.seeds.generation[command.row]),
        )
        kind = MESSAGES[command.event]
        more: dict[str, Any] = {}
        if kind is types.Germinate:
            more = {"blueprint": command.blueprint, "strategy": command.strategy}
        return Envelope(
            version=VERSION,  # type: ignore[arg-type]  # generated together with its literal
            id=f"{which}:{command.row}:{command.event}",
            producer=self.producer,
            sequence=seen.epoch,
            time=time.time(),
            body=kind(run=self.run, reason=command.reason[:1024], target=target, **more),
        )
