"""What the runtime does when a seed takes an edge, by the effect's name in the spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.growth import rewind
from kasmina.growth.planes import rows_of
from kasmina.growth.rewind import Snapshot, Stateful
from kasmina.growth.scaling import line_search
from kasmina.lifecycle import StepResult

if TYPE_CHECKING:
    from kasmina.growth.gardener import Gardener


class Effects:
    """Handlers of the spec's effects; built for one Gardener.

    Raises:
        KasminaError: the spec declares an effect that has no handler.
    """

    def __init__(self, gardener: Gardener, stateful: Mapping[str, Stateful]) -> None:
        self._gardener = gardener
        self._handlers = {  # in the order in which they happen within one step
            "snapshot": self._snapshot,
            "graft": self._graft,
            "judge": self._judge,
            "rewind": self._rewind,
        }
        self._snapshots: dict[int, Snapshot] = {}
        self._taken = 0
        self.rewinds: dict[str, int] = dict.fromkeys(gardener.garden.sites, 0)
        self.stateful = {**gardener.stateful(), **stateful}
        unknown = [
            e.name for e in gardener.garden.state.lifecycle.Effect if e.name not in self._handlers
        ]
        if unknown:
            raise KasminaError(
                f"the spec declares effect(s) that nothing carries out: {', '.join(map(str, unknown))}; "
                f"known effects: {', '.join(self._handlers)}"
            )

    def apply(self, result: StepResult) -> None:
        """Carry out the effects of the edges that were taken, kind by kind."""
        lifecycle = self._gardener.garden.state.lifecycle
        taken = [lifecycle.edges[int(edge)].effects for edge in result.edge[result.rows].tolist()]
        for name, handler in self._handlers.items():
            flag = lifecycle.Effect.__members__.get(name)
            if flag is not None:
                hit = torch.tensor([flag in effects for effects in taken], dtype=torch.bool)
                if bool(hit.any()):
                    handler(result.rows[hit], result)

    def embargoed(self, site: str) -> bool:
        """Whether the site has used up its rewinds."""
        return self.rewinds[site] >= self._gardener.config.max_rewinds

    def forget(self) -> None:
        """Drop snapshots that no seed on its way can need any more."""
        state = self._gardener.garden.state
        alive = ~state.lifecycle.table("IS_TERMINAL", state.device)[state.codes.long()]
        needed = set(state["checkpoint_id"][alive].tolist())
        self._snapshots = {n: s for n, s in self._snapshots.items() if n in needed}

    def snapshot(self, number: int) -> Snapshot | None:
        """The snapshot of this number, while it is kept."""
        return self._snapshots.get(number)

    def rewindable(self) -> bool:
        """Whether there is anything to return to."""
        return bool(self._snapshots)

    @property
    def milestones(self) -> int:
        """Snapshots and rewinds so far."""
        return self._taken + sum(self.rewinds.values())

    def state_dict(self) -> dict[str, Any]:
        """What no rewind brings back: the snapshots themselves, and how often it was done."""
        return {
            "taken": self._taken,
            "rewinds": dict(self.rewinds),
            "snapshots": [snapshot.parts() for snapshot in self._snapshots.values()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._taken, self.rewinds = state["taken"], dict(state["rewinds"])
        self._snapshots = {parts["number"]: Snapshot(**parts) for parts in state["snapshots"]}

    def _snapshot(self, rows: Tensor, result: StepResult) -> None:
        gardener = self._gardener
        self._taken += 1
        gardener.garden.state.update(rows, {"checkpoint_id": self._taken})
        self._snapshots[self._taken] = rewind.take(
            self._taken, gardener.clock.step, gardener.model, gardener.optimizer, self.stateful
        )
        gardener.journal.write("snapshot", number=self._taken)

    def _graft(self, rows: Tensor, result: StepResult) -> None:
        gardener = self._gardener
        losses = line_search(gardener.garden, rows, gardener.loss)
        gardener.journal.write("scaled", rows=rows.tolist(), losses=list(losses.items()))
        gardener.ramps.start(rows, gardener.ending.ramp())
        gardener.judge.start(rows)
        gardener.ledger.loss_at_graft[rows.cpu()] = gardener.validation.loss

    def _judge(self, rows: Tensor, result: StepResult) -> None:
        gardener = self._gardener
        rent = gardener.judge.rents()
        for row in rows.tolist():
            found = gardener.judge.evidence(row)
            gardener.garden.state.update([row], {"evaluation_score": [found[0].value]})
            for judgement in found:
                gardener.journal.write(
                    "evidence",
                    of=row,
                    measure=judgement.measure,
                    value=judgement.value,
                    interval=[judgement.low, judgement.high] if judgement.terms > 1 else None,
                    terms=judgement.terms,
                    rent=float(rent[row]),
                    decides=judgement is found[0],
                )

    def _rewind(self, rows: Tensor, result: StepResult) -> None:
        """Return to the oldest snapshot of `rows`; they and their cohorts end as `rows` did."""
        gardener, state = self._gardener, self._gardener.garden.state
        numbers = [n for n in state["checkpoint_id"][rows].tolist() if n in self._snapshots]
        if not numbers:
            return  # none of them had touched the host
        number, left = min(numbers), gardener.clock.step
        target = int(state.codes[rows[0]])
        rewind.restore(self._snapshots[number], gardener.model, gardener.optimizer, self.stateful)
        cohort = rows_of(state["checkpoint_id"] == number)
        ended = torch.tensor(sorted({*rows.tolist(), *cohort.tolist()}))
        for site in {gardener.garden.address(row).site for row in ended.tolist()}:
            self.rewinds[site] += 1
        gardener.journal.write(
            "rewind",
            number=number,
            from_step=left,
            to_step=gardener.clock.step,
            to=state.lifecycle.State(target).name,
            addresses=gardener.journal.addresses(ended.tolist()),
        )
        state.move(ended, target)
        state.update(ended, {"checkpoint_id": -1})
        self._snapshots = {n: s for n, s in self._snapshots.items() if n < number}
