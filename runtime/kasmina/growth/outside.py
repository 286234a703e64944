"""A run on a message bus: it tells how it is, and obeys.

This is the training thread's side. `Serving` has a thread of its own; between two steps it costs a
look at a queue and at a clock here. The training thread never waits for the bus, except while the
run is held by a `Pause`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from kasmina.bus.client import MessageBusClient
from kasmina.bus.requests import Outcome, Request
from kasmina.bus.signing import Verifier
from kasmina.growth.controller import Observation
from kasmina.growth.gardener import Gardener
from kasmina.growth.orders import Orders
from kasmina.growth.outside_config import OutsideConfig
from kasmina.growth.proofs import Broken, Proofs, Prove
from kasmina.growth.serving import Serving
from kasmina.growth.telling import frames_of
from kasmina.observe.log import EventLog
from kasmina_generated.messages import types
from kasmina_generated.messages.types import Refused

if TYPE_CHECKING:
    from kasmina.growth.saving import Keeper

__all__ = ["Broken", "Outside", "OutsideConfig", "Prove"]

PAUSED_S = 0.02  # between two looks for commands while the run is held
SKEW_S = 1.0  # that the clock of who signs may be late behind that of a run that begins


class Outside:
    """One run on a bus.

    `start` once the run stands as it shall go on, then `after_step` between each two steps.

    Args:
        run: its name; one process at a time is the run of a name on a bus.
        bus: opens a client; called twice, so that commands never wait behind telemetry.
        log: whose events are published.
        cursor: file that keeps how far they are, so that a run that goes on sends what is new; None
            sends all that the stream keeps.
        verify: takes signed commands only.
        prove: says what a change of limits would break; takes all limits by name, runs in a thread
            of its own. None lets every legal value pass.
        config: see `OutsideConfig`.

    Raises:
        BadBusUrl: `bus` opened none.
    """

    def __init__(
        self,
        run: str,
        bus: Callable[[], MessageBusClient],
        *,
        log: EventLog | None = None,
        cursor: Path | None = None,
        verify: Verifier | None = None,
        prove: Prove | None = None,
        config: OutsideConfig | None = None,
    ) -> None:
        self.run, self.config, self._verify = run, config or OutsideConfig(), verify
        self._serving = Serving(run, bus, self.config, log=log, cursor=cursor, verify=verify)
        self.handler, self.telemetry = self._serving.handler, self._serving.telemetry
        self._proofs = None if prove is None else Proofs(prove)
        self._gardener: Gardener | None = None
        self._orders: Orders | None = None
        self._kept: Mapping[str, Any] | None = None  # of a checkpoint, until `start`
        self._due = 0.0

    @property
    def fault(self) -> BaseException | None:
        """What ended the bus for this run, while training goes on; None while it serves."""
        return self._serving.fault

    @property
    def metrics_port(self) -> int | None:
        """Where Prometheus may ask; None where it may not."""
        return None if self._serving.metrics is None else self._serving.metrics.port

    def start(self, gardener: Gardener, keeper: Keeper | None = None, *, fresh: bool) -> None:
        """Connect, and begin to obey.

        Args:
            gardener: of the run, as it goes on.
            keeper: saves its checkpoints.
            fresh: the run begins: what was asked of an earlier one of its name is left alone.

        Raises:
            BusError: nobody answers, wants a password, or cannot do what is needed.
            RunIsTaken: another process is the run of this name, and alive.
        """
        self._gardener, self._serving.durable.keeper = gardener, keeper
        self._orders = Orders(gardener, self.run, keeps=self._serving.durable.keeps)
        if self._kept is not None:
            self._orders.load_state_dict(self._kept["orders"])
        self.handler.check = self._orders.check
        if fresh and self._verify is not None:
            self._verify.since = time.time() - SKEW_S
        self._serving.start(self._beat, self._saved, fresh=fresh)

    def after_step(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Carry out what was asked, and hand over what is due; call between two steps.

        Args:
            stop: asked while the run is held; True goes on.
        """
        due = time.monotonic() >= self._due
        if due or self.handler.waiting or self._proofs or self._is_held():
            self._attend(stop, due)

    def _attend(self, stop: Callable[[], bool], due: bool) -> None:
        if self.handler.waiting or self._proofs:
            self._obey()
        if due:
            self._tell()
        while self._is_held() and not stop():
            time.sleep(PAUSED_S)
            self._obey()

    def _is_held(self) -> bool:
        return self._orders is not None and self._orders.paused

    def observed(self, seen: Observation, mask: NDArray[np.bool_]) -> None:
        """Hand over what a controller outside decides by; neither may change any more."""
        self._serving.show(seen, mask)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Hold commands while a checkpoint restores: they are carried out after it."""
        self.handler.held = True
        try:
            yield
        finally:
            self.handler.held = False

    def state_dict(self) -> dict[str, Any]:
        """What was done, and from where commands are read on; for a checkpoint."""
        orders = {} if self._orders is None else self._orders.state_dict()
        return {"commands": self.handler.state_dict(), "orders": orders}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.handler.load_state_dict(state["commands"])
        self._kept = state
        if self._orders is not None:
            self._orders.load_state_dict(state["orders"])

    def saved(self, checkpoint: str, state: Mapping[str, Any]) -> None:
        """A checkpoint with this `state_dict` is on its way to the disk."""
        self._serving.durable.saved(checkpoint, state["commands"]["position"])

    def close(self, *, finished: bool = False) -> None:
        """Send what waits, within a bounded time, and let go of the bus.

        Args:
            finished: the run is over: commands that still wait are refused. Otherwise they stay in
                their stream, for the run that goes on from here.
        """
        if finished:
            proving = () if self._proofs is None else self._proofs.waiting()
            for request in (*proving, *self.handler.take()):
                self._refuse(request, "expired", "the run has ended")
        if self._proofs is not None:
            self._proofs.close()
        self._serving.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _beat(self) -> types.Heartbeat:
        assert self._gardener is not None and self._orders is not None
        return types.Heartbeat(
            run=self.run,
            epoch=self._gardener.clock.epoch,
            step=self._gardener.clock.step,
            every=self.config.heartbeat_s,
            paused=self._orders.paused,
            waiting=self.handler.waiting,
        )

    def _saved(self, checkpoint: str) -> Outcome:
        assert self._orders is not None
        return self._orders.done((), f"checkpoint {checkpoint}", self._orders.moment())

    def _obey(self) -> None:
        """One by one, so that a checkpoint never holds half of what was asked."""
        assert self._gardener is not None and self._orders is not None
        if not self._serving.lease.held:
            return  # somebody else may be the run by now; what waits is looked at when it is sure
        for request, broken in () if self._proofs is None else self._proofs.known(self._limits):
            if broken is None:
                self.handler.settle(request, self._carried_out(request.command))
            else:
                self._refuse(request, "property", broken.what, witness=broken.witness[:256])
        gardener = self._gardener
        for request in self.handler.take(moment=(gardener.milestones, gardener.clock.step)):
            asks = self._proofs is not None and request.told is None
            if isinstance(request.command, types.SetLimit) and asks:
                self._ask_for_proof(request, request.command)
            elif isinstance(request.command, types.Checkpoint) and self._serving.durable.keeps:
                self._serving.durable.save(request, request.command.tag)
                self._serving.wake()
            else:
                self.handler.settle(request, self._carried_out(request.command))
        self._orders.look()

    def _carried_out(self, command: types.Command) -> Outcome:
        assert self._orders is not None
        found, keeper = self._orders.carry_out(command), self._serving.durable.keeper
        if not isinstance(command, types.Query) or not isinstance(found, types.Status):
            return found
        counts = tuple(types.Count(what=w, number=n) for w, n in self._serving.counts().items())
        found = msgspec.structs.replace(found, counts=counts)
        if command.what == "checkpoints" and keeper is not None:
            return msgspec.structs.replace(found, detail=json.dumps(keeper.names()))
        return found

    def _refuse(self, request: Request, reason: Any, detail: str, **fields: Any) -> None:
        refused = Refused(run=self.run, reason=reason, detail=detail[:8192], **fields)
        self.handler.settle(request, refused)

    def _ask_for_proof(self, request: Request, command: types.SetLimit) -> None:
        assert self._orders is not None and self._proofs is not None
        if (refused := self._orders.check(command)) is not None:
            self.handler.settle(request, refused)
            return
        self._proofs.ask(request, command, self._limits)

    def _limits(self) -> Mapping[str, float]:
        assert self._gardener is not None
        return self._gardener.limits.as_dict()

    def _tell(self) -> None:
        """Hand over a frame of every site."""
        gardener, every = self._gardener, self.config.telemetry_s
        if gardener is None or not every:
            self._due = float("inf")
            return
        self._due = time.monotonic() + every
        for frame in frames_of(gardener, self.run):
            self.telemetry.offer(frame)
