"""The end of a run: no seed may be under way then, so all are decided before it.

A withdrawal takes optimizer steps, so the last tick that leaves a quarter of a ramp for it decides:
seeds that the gate keeps on the evidence that there is are kept, the others leave along a ramp that
ends with the run. What could not be decided by then does not begin: no seed grafts whose ramp could
not end before it, and none germinates that could not graft in time. At the last tick at which one
may graft, contests are decided, and who has learned something grafts without waiting to be perfect.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kasmina.growth.controller import Command
from kasmina.growth.planes import rows_of
from kasmina.growth.trial import CANCEL
from kasmina.lifecycle import Lifecycle

if TYPE_CHECKING:
    from kasmina.growth.gardener import Gardener


class Ending:
    """Knows what a run has left, and ends what is under way.

    Args:
        gardener: of the run.

    Attributes:
        called: somebody has ended the run whatever was planned.
    """

    def __init__(self, gardener: Gardener) -> None:
        self._gardener = gardener
        lifecycle = gardener.garden.state.lifecycle
        self._ticks = torch.from_numpy(lifecycle.tables.MIN_EPOCHS.astype("int64")) + 1
        self._until_graft = ticks_until(lifecycle, "blend")
        self._blends = least_epochs(lifecycle, "blend")
        self.called = False

    def left(self) -> float:
        """Optimizer steps that are planned from now on; infinite where nobody has said."""
        clock, epochs = self._gardener.clock, self._gardener.config.epochs
        if epochs is None or not clock.step or not clock.epoch:
            return math.inf
        return max(0, epochs - clock.epoch) * clock.steps_an_epoch

    def ramp(self) -> int:
        """Optimizer steps of a ramp up, 1 or more: as configured, if its state lasts so long.

        A tick has passed before the first step of it is seen, and another must see its end.
        """
        most = (self._blends - 2) * self._per_epoch
        return int(max(1, min(self._gardener.config.ramp_steps, most)))

    def decides(self) -> bool:
        """Whether this is the last tick that leaves enough for a ramp down, or a later one."""
        return self._has_less_than(self._down + self._per_epoch)

    def forbids_grafts(self) -> bool:
        """Whether no tick that decides could see the end of a ramp that began now."""
        return self._has_less_than(self._up + self._down)

    def is_last_call(self) -> bool:
        """Whether this is the last tick at which a seed may graft: what is ready enough does."""
        soon = self._has_less_than(self._up + self._down + self._per_epoch)
        return soon and not self.forbids_grafts()

    def forbids_germination(self) -> bool:
        """Whether a seed that germinated now would learn too late to graft."""
        return self._has_less_than(self._up + self._down + self._until_graft * self._per_epoch)

    def conclude(self) -> None:
        """Decide all seeds under way.

        The lifecycle ticks on, without steps of the optimizer, while its own edges may still take
        them; a seed that a tick has left where it was, although it had waited long enough, has had
        its say and is cancelled. (In a lifecycle without "cancel" it stays where it is.)
        """
        for _ in range(int(self._ticks.sum())):
            rows = self._under_way()
            if not len(rows):
                return
            state = self._gardener.garden.state
            settled = state.epochs[rows].cpu() >= self._ticks[state.codes[rows].long().cpu()]
            settled |= state["blueprint_slot"][rows].cpu() < 0  # it waits for room, no judgement
            if bool(settled.any()):
                self._stop(rows[settled])
            else:
                self._gardener.tick_again()
        self._stop(self._under_way())  # a lifecycle that turns in circles

    def _has_less_than(self, steps: float) -> bool:
        return self.called or self.left() < steps

    @property
    def _up(self) -> float:
        """Steps until the first tick that sees the end of a ramp."""
        epoch = max(self._per_epoch, 1)
        return math.ceil(self.ramp() / epoch) * epoch

    @property
    def _down(self) -> float:
        return self._gardener.config.ramp_steps / 4

    @property
    def _per_epoch(self) -> float:
        return self._gardener.clock.steps_an_epoch

    def _under_way(self) -> Tensor:
        """Rows that are neither in the initial state nor in a terminal one."""
        state = self._gardener.garden.state
        ended = state.lifecycle.table("IS_TERMINAL", state.device)[state.codes.long()]
        return rows_of(~ended & (state.codes != int(state.lifecycle.initial)))

    def _stop(self, rows: Tensor) -> None:
        lifecycle = self._gardener.garden.state.lifecycle
        if len(rows) and CANCEL in lifecycle.Event.__members__:
            reason = "the run ends, and what evidence there is takes it no further"
            self._gardener.obey([Command(CANCEL, row, reason, "ending") for row in rows.tolist()])


def ticks_until(lifecycle: Lifecycle, plane: str) -> int:
    """Ticks that a seed needs at least from its germination to a state of `plane`; 0 for no way."""
    tables, wanted = lifecycle.tables, lifecycle.attribute_code("plane", plane)
    least = {lifecycle.initial: 0}
    for _ in lifecycle.State:  # Bellman-Ford
        for edge in lifecycle.edges:
            if edge.source in least:
                waits = (
                    0 if edge.source == lifecycle.initial else tables.MIN_EPOCHS[edge.source] + 1
                )
                ticks = least[edge.source] + int(waits)
                least[edge.target] = min(ticks, least.get(edge.target, ticks))
    return min((n for s, n in least.items() if tables.STATE_PLANE[s] == wanted), default=0)


def least_epochs(lifecycle: Lifecycle, plane: str) -> float:
    """The fewest epochs after which a state of `plane` is out of time; infinite for none."""
    wanted, tables = lifecycle.attribute_code("plane", plane), lifecycle.tables
    most = (
        int(tables.MAX_EPOCHS[state])
        for state in lifecycle.State
        if int(lifecycle.plane_of(torch.tensor([int(state)]))) == wanted
    )
    return min((epochs for epochs in most if epochs >= 0), default=math.inf)
