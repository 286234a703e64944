"""The honest gate: what a graft is worth against the network without it.

Every seed's path integrals estimate it (see `evidence`). Where the interval of the estimate does
not tell a gain from a loss, and on a sample, the true control is trained (see `twin`) and decides.
What removing the seed would cost now is measured too, for the log: by then the host leans on the
seed, so it never decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kasmina.growth.evidence import HeldOut, Judgement, paired
from kasmina.growth.flops import FlopMeter
from kasmina.growth.planes import rows_in, rows_of
from kasmina.growth.rent import rents
from kasmina.growth.twin import Twin

if TYPE_CHECKING:
    from kasmina.growth.gardener import Gardener

MOST_REMOVALS = 16  # of one cohort; each is a validation pass that decides nothing


class Judge:
    """Gathers the evidence of every graft and gives a verdict once a seed's state asks for one.

    Args:
        gardener: whose seeds.
        twin: trains the true control; None has only the integrals.
    """

    def __init__(self, gardener: Gardener, twin: Twin | None) -> None:
        self._gardener, self._twin = gardener, twin
        self._held_out = HeldOut(gardener.garden)
        self._verdicts: dict[int, list[Judgement]] = {}  # by row; the first one decides
        self._at_graft: dict[int, Tensor] = {}  # by row: `Validation.parts` before the graft
        lifecycle = gardener.garden.state.lifecycle
        effect = lifecycle.Effect.__members__.get("judge")
        judged = {e.source for e in lifecycle.edges if effect is not None and effect in e.effects}
        self._judged = torch.tensor([state in judged for state in lifecycle.State])

    def start(self, rows: Tensor) -> None:
        """The rows graft now."""
        self._held_out.start(rows)
        for row in rows.tolist():
            self._verdicts.pop(row, None)
            self._at_graft.pop(row, None)
            parts = self._gardener.validation.parts
            if parts is not None:
                self._at_graft[row] = parts

    def measure(self) -> None:
        """Take the validation loss's gradient by all that blends, for the integrals."""
        gardener = self._gardener
        rows = rows_in(gardener.garden.state, "plane", "blend")
        leaves = self._held_out.leaves(rows)
        if leaves:
            key = ("held out", gardener.garden.signature())
            with (
                gardener.measuring.one_number(),
                gardener.meter.forward(key, FlopMeter.EVALUATE),  # the backward pass is in it
            ):
                gradients = gardener.measuring.validator.gradients(leaves)
            self._held_out.add(rows, gradients)

    def reach_verdicts(self) -> None:
        """Judge the seeds whose state waits for it and that have no verdict yet."""
        state = self._gardener.garden.state
        waiting = self._judged[state.codes.long().cpu()].nonzero().squeeze(1).tolist()
        fresh = [row for row in waiting if row not in self._verdicts]
        cohorts = state["checkpoint_id"].cpu()
        for number in sorted({int(cohorts[row]) for row in fresh}):
            self._judge(number, [row for row in fresh if int(cohorts[row]) == number])

    def score(self) -> Tensor:
        """What the graft surely saves, float32 `[N]`, nats: the verdict's lower end less the rent."""
        found = self._gardener.ledger.integral.gain()
        found[self._judged[self._gardener.garden.state.codes.long().cpu()]] = -torch.inf
        for row, verdict in self._verdicts.items():
            found[row] = verdict[0].low
        return found - self.rents()

    def improvement(self) -> Tensor:
        """What the validation loss has surely lost since the graft less the rent, float32 `[N]`, nats.

        Without the parts of the validation loss, what it has lost by its mean.
        """
        gardener = self._gardener
        found = gardener.ledger.loss_at_graft - gardener.validation.loss
        parts = gardener.validation.parts
        for row, before in self._at_graft.items():
            if parts is not None and len(parts) == len(before):
                found[row] = paired(before, parts, "improvement").low
        found -= self.rents()
        return found.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def rents(self) -> Tensor:
        """What every seed must save in order to stay, float32 `[N]`, nats."""
        return rents(self._gardener.garden, self._gardener.config.rent)

    def evidence(self, row: int) -> list[Judgement]:
        """All that was measured of a row, what decides first."""
        return self._verdicts.get(row) or [self._gardener.ledger.integral.judgement(row)]

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "held_out": self._held_out.state_dict(),
            "verdicts": {row: [astuple(j) for j in held] for row, held in self._verdicts.items()},
            "at_graft": {row: parts.clone() for row, parts in self._at_graft.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._held_out.load_state_dict(state["held_out"])
        held = state["verdicts"].items()
        self._verdicts = {row: [Judgement(*values) for values in each] for row, each in held}
        self._at_graft = {row: parts.clone() for row, parts in state["at_graft"].items()}

    def _judge(self, number: int, fresh: list[int]) -> None:
        """Reach the verdicts of a cohort's seeds.

        What the sample leaves open of the joint gain of k seeds is that of k parts: an error of its
        k-th root each, were they independent.
        """
        part = len(fresh) ** -0.5
        estimates = {row: self._estimates(row, part) for row in fresh}
        joint = None
        if self._is_in_doubt(number, {row: found[0] for row, found in estimates.items()}):
            joint = self._control(number)
        rest = 0.0
        if joint is not None:
            rest = (joint.value - sum(found[0].value for found in estimates.values())) / len(fresh)
        for row, found in estimates.items():
            if joint is not None:
                found.insert(0, _share(joint, found[0].value + rest, part))
            if len(fresh) <= MOST_REMOVALS:
                found.append(self._removal(row))
            self._verdicts[row] = found

    def _estimates(self, row: int, part: float) -> list[Judgement]:
        training = self._gardener.ledger.integral.judgement(row)
        loss = float(self._gardener.ledger.loss_at_graft[row])
        held_out = self._held_out.judgement(row, part * self.sampling(row), loss)
        return [held_out, training] if held_out.terms else [training]

    def sampling(self, row: int) -> float:
        """Standard error of what the validation loss has lost since the graft; 0 if not known."""
        before, now = self._at_graft.get(row), self._gardener.validation.parts
        if before is None or now is None or len(before) != len(now):
            return 0.0
        return paired(before, now, "").error

    def _is_in_doubt(self, number: int, estimates: Mapping[int, Judgement]) -> bool:
        config, rent = self._gardener.config, self.rents()
        sampled = config.twin_sample > 0 and number % config.twin_sample == 0
        return sampled or any(each.straddles(float(rent[row])) for row, each in estimates.items())

    def _control(self, number: int) -> Judgement | None:
        """The cohort's joint gain against its true control; None where there is none."""
        gardener, parts = self._gardener, self._gardener.validation.parts
        snapshot = gardener.effects.snapshot(number)
        small = gardener.parameters() <= gardener.config.twin_parameters
        if self._twin is None or snapshot is None or parts is None or not small:
            return None
        cohort = rows_of(gardener.garden.state["checkpoint_id"] == number)
        without = self._twin(snapshot, cohort, gardener.clock.step - snapshot.step)
        return None if without is None else paired(without, parts, "paired_control")

    def _removal(self, row: int) -> Judgement:
        """What the validation loss would rise by at once, without the seed."""
        gardener = self._gardener
        state, one = gardener.garden.state, [row]
        alpha = state["alpha"][one].clone()
        state.update(one, {"alpha": 0.0})
        gardener.garden.refresh()
        rise = gardener.loss() - gardener.validation.loss
        state.update(one, {"alpha": alpha})
        gardener.garden.refresh()
        return Judgement(rise, rise, rise, 1, "removal_cost")


def _share(joint: Judgement, value: float, part: float) -> Judgement:
    """One seed's share of a joint judgement, and its part of the error."""
    low, high = (value + part * (end - joint.value) for end in (joint.low, joint.high))
    return Judgement(value, low, high, joint.terms, joint.measure)
