"""One step of the lifecycle, and all that follows from it: rows, ramps, effects, planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from kasmina.growth.controller import Command
from kasmina.growth.planes import planes_in_use
from kasmina.growth.trial import CANCEL
from kasmina.lifecycle import ContextTable, StepResult, rest, step

if TYPE_CHECKING:
    from kasmina.growth.gardener import Gardener


class Advancing:
    """Steps the seeds of one Gardener.

    Args:
        gardener: which.

    Attributes:
        planes: those of all seeds that hold a blueprint.
        moves: steps of the lifecycle: where it is the same, no seed has moved.
    """

    def __init__(self, gardener: Gardener) -> None:
        self._gardener = gardener
        self.planes: frozenset[str] = frozenset()
        self.moves = 0

    def advance(
        self, commands: Sequence[Command], context: ContextTable, *, tick: bool
    ) -> StepResult:
        """Step every seed, and carry out what follows.

        Args:
            commands: of this step.
            context: the measurements.
            tick: whether an epoch has ended.
        """
        gardener, holdings = self._gardener, self._gardener.holdings
        holdings.check(gardener.optimizer)
        state = gardener.garden.state
        events = torch.zeros(len(state), dtype=torch.int32)
        for command in commands:
            gardener.journal.command(command)
            events[command.row] |= 1 << state.lifecycle.event(command.event)
        gardener.journal.inputs(events, context, tick)
        on_device = events.to(state.device), context.to(state.device)
        result = step(state, *on_device, gardener.limits, tick)
        result = result._replace(rows=result.rows.cpu(), edge=result.edge.cpu())
        reasons = {**gardener.contest.reasons, **{c.row: c.reason for c in commands}}
        gardener.journal.result(result, reasons)
        holdings.bind(commands, result)
        gardener.ramps.turn(result.rows, gardener.ending.left())
        holdings.release()
        refused = holdings.allocate()
        gardener.effects.apply(result)
        holdings.release()
        if refused:
            reason = "there is no memory for its blueprint"
            commands = [Command(CANCEL, row, reason, "detector") for row in refused]
            self.advance(commands, context, tick=False)
        gardener.effects.forget()
        self.refresh()
        self.moves += 1
        return result

    def rest(self) -> None:
        """A tick in which no seed can move, so that nothing follows from it."""
        self._gardener.journal.rest()
        rest(self._gardener.garden.state)
        if self._gardener.garden.refresh():  # somebody else has written
            self.refresh()
        self.moves += 1

    def refresh(self) -> None:
        """Let the sites, and the loop, know what there is to do until the next step."""
        self._gardener.garden.refresh()
        self.planes = planes_in_use(self._gardener.garden.state)
        self._gardener.trial.refresh()
