"""Writes a garden's life into the event log, with everything that replay needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from kasmina.growth.controller import Command, Observation, Proposal
from kasmina.growth.ledger import Clock
from kasmina.lifecycle import Address, ContextTable, StepResult
from kasmina.observe.log import EventLog
from kasmina.sites import Garden
from kasmina_generated.observation import SCHEMA_NAME, SCHEMA_VERSION


class Journal:
    """One run's log as the Gardener uses it; does nothing where `log` is None."""

    def __init__(self, log: EventLog | None, garden: Garden, clock: Clock) -> None:
        self._log, self._garden, self._clock = log, garden, clock
        self._lifecycle = garden.state.lifecycle

    def write(self, kind: str, *, of: int | None = None, **fields: Any) -> None:
        """Append one event at the run's clock; the seed `of` a row gives its address."""
        if self._log is not None:
            address = None if of is None else self._garden.address(of)
            self._log.append(
                kind, epoch=self._clock.epoch, step=self._clock.step, address=address, **fields
            )

    def command(self, command: Command) -> None:
        """A command was taken in."""
        self.write(
            "command",
            of=command.row,
            event=command.event,
            blueprint=command.blueprint,
            strategy=command.strategy,
            source=command.source,
            reason=command.reason,
        )

    def decision(self, seen: Observation, legal: int, proposal: Proposal, controller: str) -> None:
        """The controller decided; later outcomes follow as transitions of the same addresses."""
        self.write(
            "decision",
            controller=controller,
            schema=f"{SCHEMA_NAME}@{SCHEMA_VERSION}",
            observation=seen.to_plain(without=("seeds",)),  # its columns are too large
            states=self._counts(seen),
            legal=legal,
            action=[
                {"event": c.event, **self._place(c.row), "blueprint": c.blueprint}
                for c in proposal.commands
            ],
            reason=proposal.reason,
        )

    def _counts(self, seen: Observation) -> dict[str, int]:
        """Seeds per state that has some."""
        counts = np.bincount(seen.seeds.state, minlength=len(self._lifecycle.State)).tolist()
        return {s.name: n for s, n in zip(self._lifecycle.State, counts, strict=True) if n}

    def inputs(self, events: Tensor, context: ContextTable, tick: bool) -> None:
        """The inputs of a step, for every seed that could move; the others are at rest."""
        if self._log is None:
            return
        could = events.cpu().numpy() != 0
        if tick:
            could |= self._lifecycle.moves_by_itself[self._garden.state.codes.cpu().numpy()]
        rows = []
        for row in np.flatnonzero(could).tolist():
            values = context.row(row)
            rows.append(
                {
                    "row": row,
                    "events": int(events[row]),
                    "context": {
                        name: getattr(values, name) for name in self._lifecycle.context_fields
                    },
                }
            )
        self.write("step", tick=tick, rows=rows)

    def rest(self) -> None:
        """A tick at which no seed could move."""
        self.write("step", tick=True, rows=[])

    def result(self, result: StepResult, reasons: dict[int, str]) -> None:
        """What a step did: transitions, and commands that it refused."""
        for row in result.rows.tolist():
            edge = self._lifecycle.edges[int(result.edge[row])]
            self.write(
                "transition",
                of=row,
                event=edge.event.name if edge.event is not None else "recycle",
                **{"from": edge.source.name, "to": edge.target.name},
                edge=edge.index,
                effects=[effect.name for effect in edge.effects],
                reason=reasons.get(row, edge.guard_text),
            )
        for row, event, refusal in result.unused_events:
            self.write(
                "refused",
                of=row,
                event=event.name,
                edge=None,
                state=self._lifecycle.State(int(result.before[row])).name,
                reason=refusal.name.lower(),
            )

    def addresses(self, rows: Iterable[int]) -> list[dict[str, Any]]:
        """The rows' addresses as the log writes them."""
        return [self._place(row) for row in rows]

    def _place(self, row: int) -> dict[str, Any]:
        address: Address = self._garden.address(row)
        return {"site": address.site, "slot": address.slot, "generation": address.generation}
