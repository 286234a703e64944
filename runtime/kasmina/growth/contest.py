"""Kinds compete for a site: candidates learn aside, and held-out data say which of them may graft.

A candidate's *gain* is the best share of the held-out negative gradient that it has explained so
far (for seeds that reproduce their input: of the input), its *cost* the FLOPs of one example. The
largest gain over `cost ** PRICE` wins: of equals the cheaper, and ten times the cost must explain a
quarter more. The others stand aside and are culled by the lifecycle. What they gain on training data
never counts: there the kind with the most parameters leads, whether it fits or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from kasmina.growth.aside import Learned
from kasmina.growth.journal import Journal
from kasmina.growth.planes import beds, rows_in
from kasmina.sites import Garden, SiteLayer

PRICE = 0.1  # exponent of the cost
TOO_LATE = "too little of the run is left to graft and to be judged"
WAITS, FREE, LOST = 0, 1, -1  # how a seed stands: it may not graft yet, it may, it never will
_LONG = 2**30  # epochs; longer than any patience


class Candidates(NamedTuple):
    """The seeds of one kind that compete at a site."""

    kind: str
    rows: list[int]
    gain: float
    flops: int
    parameters: int


class Contest:
    """Decides who may graft at each site of a garden.

    Args:
        garden: the sites.
        journal: told of each decision with all candidates' figures.
        epochs: how long every candidate learns before a contest is decided.
    """

    def __init__(self, garden: Garden, journal: Journal, epochs: int) -> None:
        self._garden, self._journal, self._epochs = garden, journal, epochs
        self.reasons: Mapping[int, str] = {}  # of the rows that have lost just now

    def standing(
        self, learned: Learned, on_trial: int, *, late: bool = False, last: bool = False
    ) -> Tensor:
        """How every seed stands, int32 `[N]`.

        Args:
            learned: by all seeds that train aside.
            on_trial: seeds of an earlier cohort that have grafted and are neither kept nor ended;
                the next cohort waits for them.
            late: what grafts now could not be judged before the run ends.
            last: what grafts later could not: contests are decided whatever has been learned.
        """
        free = WAITS if on_trial else FREE
        found = torch.full((len(self._garden.state),), free, dtype=torch.int32)
        self.reasons = {}
        shadow = rows_in(self._garden.state, "plane", "shadow")
        if late:
            found[shadow.cpu()] = LOST
            self.reasons = dict.fromkeys(shadow.tolist(), TOO_LATE)
            return found
        for site in self._garden.sites.values():
            if site.placement != "parallel":  # each inline seed has a chunk of its own
                continue
            here = shadow[(shadow >= site.first_row) & (shadow < site.first_row + site.n_seeds)]
            rivals = list(self._rivals(here, learned))
            if len(rivals) < 2:
                continue
            if not (last or self._ripe(here)):
                found[here.cpu()] = WAITS
                continue
            winner = _winner(rivals)
            for each in rivals:
                found[each.rows] = free if each is winner else LOST
            self._tell(site, rivals, winner)
        return found

    def in_step(self, learned: Learned, standing: Tensor, *, last: bool = False) -> Learned:
        """Seeds that may graft do so together, once the first of them gets no better.

        What the others have still to learn they learn on the ramp; behind a cohort they would wait
        until their time is out. At the last call they do so as they are.
        """
        shadow = rows_in(self._garden.state, "plane", "shadow").cpu()
        free = shadow[(standing[shadow] == FREE) & (learned.peak[shadow] > 0)]
        stale = learned.stale_epochs.clone()
        if len(free):
            stale[free] = _LONG if last else stale[free].max()
        return learned._replace(stale_epochs=stale)

    def _rivals(self, rows: Tensor, learned: Learned) -> Iterator[Candidates]:
        for bed in beds(self._garden, rows):
            cost = bed.pool.kind.cost()
            gain = float(learned.peak[bed.rows].max())
            yield Candidates(
                bed.pool.name, bed.rows.tolist(), gain, cost.flops_per_example, cost.parameters
            )

    def _ripe(self, rows: Tensor) -> bool:
        """Whether all have learned for long enough; who was asked for later is waited for."""
        return bool((self._garden.state.epochs[rows] >= self._epochs).all())

    def _tell(self, site: SiteLayer, rivals: list[Candidates], winner: Candidates | None) -> None:
        lost = [each for each in rivals if each is not winner]
        self.reasons = {
            **self.reasons,
            **{row: _reason(each, winner) for each in lost for row in each.rows},
        }
        self._journal.write(
            "contest",
            site=site.path,
            winner=None if winner is None else winner.kind,
            candidates=[
                {
                    "kind": each.kind,
                    "slots": [row - site.first_row for row in each.rows],
                    "gain": each.gain,
                    "flops": each.flops,
                    "parameters": each.parameters,
                }
                for each in rivals
            ],
        )


def _winner(rivals: list[Candidates]) -> Candidates | None:
    """The one with the largest gain for its price; None where none has gained anything."""
    best = max(rivals, key=lambda each: (each.gain / max(each.flops, 1) ** PRICE, -each.parameters))
    return best if best.gain > 0 else None


def _reason(loser: Candidates, winner: Candidates | None) -> str:
    if winner is None:
        return "no kind explains more of the held-out gradient than chance does"
    return (
        f"{winner.kind} was chosen: it explains {winner.gain:.3g} of the held-out gradient at "
        f"{winner.flops} FLOPs an example, {loser.kind} {loser.gain:.3g} at {loser.flops}"
    )
