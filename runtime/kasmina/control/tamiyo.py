"""The heuristic controller.

Tamiyo germinates a wave of seeds when the network has stopped getting better on validation data,
and no wave is under way. A wave spends a share of what is left of the parameter budget, at the
sites that are the narrowest for what the loss asks of them (`rank`). Waves that add nothing make it
patient, and after some in a row no site is worth its price. Where a parallel site grows several
kinds, candidates of each germinate: they compete, and one kind will graft, so the dearest is what the
wave sets aside for them. Of a kind that costs few FLOPs for its parameters several germinate at once,
and graft together. It never proposes what the mask forbids, nor what the budget cannot hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from kasmina.control.timing import FIRST, LAST, STEPS_LEFT, first_wave
from kasmina.errors import KasminaError
from kasmina.growth.controller import (
    Command,
    KindOffer,
    Observation,
    Proposal,
    SiteObservation,
)


@dataclass(frozen=True, slots=True)
class TamiyoConfig:
    """Settings of the heuristic.

    Attributes:
        warm_up: epochs before the first wave at least, so that gradients mean something.
        first: share of the planned epochs before the first wave: until then the small host's steps
            are cheap, and what it can learn by itself needs no seed; in [0, 1).
        steps_left: optimizer steps that should be left of the run when the first wave begins, 0 or
            more: what comes later does not catch up, so a short run grows before `first`.
        patience: epochs without a better validation loss or metric that count as a plateau.
        tolerance: fall of the validation loss (relative) or rise of the metric (absolute) that
            counts as better.
        wave: largest share of the remaining budget that one wave may spend, in (0, 1].
        back_off: factor on the patience for each wave in a row that has added nothing, so that a
            network that has nothing to gain is left alone; 1 or more.
        last: share of the planned epochs after which nothing germinates, so that every seed has
            time to be judged; in (0, 1].
        breadth: of one kind several seeds germinate together while they cost at most so many FLOPs
            an example for each parameter of the budget.
        crowd: and never more than so many, since they wait for each other; 1 or more.
        failures: waves in a row that have added nothing, after which no site is worth its price.
        dearest: a kind that costs more FLOPs than so many times the site's cheapest is not tried.
        rank: which sites come first: by `bottleneck` (see `growth.bottleneck`), `gradient_ratio`,
            `deviation` of what passes, or `random`, by lot.
        germinate: the spec's command that asks for a seed.

    Raises:
        KasminaError: a value is out of its range.
    """

    warm_up: int = 2
    first: float = FIRST
    steps_left: int = STEPS_LEFT
    patience: int = 2
    tolerance: float = 0.01
    wave: float = 1.0
    back_off: int = 4
    last: float = LAST
    breadth: float = 4.0
    crowd: int = 3
    failures: int = 3
    dearest: float = 20.0
    rank: Literal["bottleneck", "gradient_ratio", "deviation", "random"] = "bottleneck"
    germinate: str = "request_germination"

    def __post_init__(self) -> None:
        for name, (legal, what) in _LEGAL.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not legal(float(value)):
                raise KasminaError(f"TamiyoConfig({name}={value!r}): it must be {what}")
        if self.first >= self.last:
            raise KasminaError(
                f"TamiyoConfig(first={self.first!r}, last={self.last!r}): nothing would germinate; "
                "first must be below last"
            )
        ranks = get_args(get_type_hints(TamiyoConfig)["rank"])
        if self.rank not in ranks:
            raise KasminaError(f"TamiyoConfig(rank={self.rank!r}); legal: {', '.join(ranks)}")


_LEGAL: dict[str, tuple[Callable[[float], bool], str]] = {
    "first": (lambda value: 0 <= value < 1, "0 or more and below 1"),
    **dict.fromkeys(("wave", "last"), (lambda value: 0 < value <= 1, "above 0 and at most 1")),
    **dict.fromkeys(
        ("warm_up", "steps_left", "patience", "tolerance"),
        (lambda value: 0 <= value < math.inf, "a finite number, 0 or more"),
    ),
    **dict.fromkeys(
        ("back_off", "crowd", "failures"),
        (lambda value: 1 <= value < math.inf, "a finite number, 1 or more"),
    ),
    **dict.fromkeys(("breadth", "dearest"), (lambda value: value > 0, "a number above 0")),
}


class TamiyoController:
    """Heuristic controller by plateau of the validation loss, budget and gradient ratio."""

    name = "tamiyo"

    def __init__(self, config: TamiyoConfig = TamiyoConfig()) -> None:
        self.config = config
        self._best, self._best_metric = math.inf, -math.inf
        self._since = 0
        self._failures = 0  # waves in a row that have added nothing
        self._before: int | None = None  # parameters before the wave under way
        self._begins: int | None = None  # epoch of the first wave, once the length of one is known

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Decide on a wave; see the module's docstring. Arguments as in `Controller`."""
        if self._begins is None:
            config = self.config
            self._begins = first_wave(
                observation,
                warm_up=config.warm_up,
                first=config.first,
                steps_left=config.steps_left,
            )
        self._watch(observation.validation_loss, observation.validation_metric)
        self._conclude(observation)
        refusal = self._why_not(observation)
        if refusal:
            return Proposal((), refusal)
        return self._wave(observation, mask)

    def wants_scores(self, epoch: int, epochs: int | None) -> bool:
        """See `Controller`: not where no wave can begin, whatever this epoch's validation says."""
        config = self.config
        first = config.warm_up if self._begins is None else self._begins
        late = epochs is not None and epoch > config.last * epochs
        if epoch < first or late or self._failures >= config.failures:
            return False
        return epoch == first or self._since + 1 >= self._patience()

    def _patience(self) -> int:
        return int(self.config.patience * self.config.back_off**self._failures)

    def state_dict(self) -> dict[str, Any]:
        """Plateau and waves so far."""
        return {
            "best": self._best,
            "best_metric": self._best_metric,
            "since": self._since,
            "failures": self._failures,
            "before": self._before,
            "begins": self._begins,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._best, self._since = state["best"], state["since"]
        self._best_metric = state["best_metric"]
        self._failures, self._before = state["failures"], state["before"]
        self._begins = state.get("begins")

    def _watch(self, loss: float, metric: float) -> None:
        """Count the epochs in which neither loss nor metric has become clearly better."""
        better = loss < self._best * (1 - self.config.tolerance)
        better |= metric > self._best_metric + self.config.tolerance
        self._best = min(self._best, loss)
        self._best_metric = max(self._best_metric, metric)  # stays where a task gives none
        self._since = 0 if better else self._since + 1

    def _why_not(self, seen: Observation) -> str:
        """Why nothing germinates now, or an empty string."""
        config = self.config
        begins = self._begins or 0
        if seen.epoch < begins:
            return f"warming up: epoch {seen.epoch} of {begins}"
        if seen.epochs is not None and seen.epoch > config.last * seen.epochs:
            return f"too late to judge a new seed: epoch {seen.epoch} of {seen.epochs}"
        if seen.busy:
            return f"{_seeds(seen.busy)} under way"
        if self._failures >= config.failures:
            return f"no site is worth its price: {self._failures} waves in a row have added nothing"
        patience = self._patience()
        if seen.epoch != begins and self._since < patience:
            return f"no better validation for {self._since} epochs; a plateau is {patience}"
        return ""

    def _conclude(self, seen: Observation) -> None:
        """Note whether the last wave has added anything; each failure lengthens the patience by `back_off`."""
        if self._before is not None and not seen.busy:
            self._failures = 0 if seen.parameters > self._before else self._failures + 1
            self._before = None
            self._since = 0

    def _wave(self, seen: Observation, mask: NDArray[np.bool_]) -> Proposal:
        left = math.inf if seen.budget is None else seen.budget - seen.parameters
        ready = {site.path: self._ready(site, seen, mask) for site in seen.sites}
        sites = sorted(
            (site for site in seen.sites if ready[site.path]),
            key=lambda site: (-self._score(site, seen), site.first_row),
        )
        room, spent, commands = left * self.config.wave, 0.0, list[Command]()
        for place, site in enumerate(sites):
            share = (room - spent) / (len(sites) - place)
            if not commands:  # what is left of the budget may hold one seed
                share = max(share, min(left, min(kind.parameters for kind in site.kinds)))
            chosen, price = self._crowd(site, seen, len(ready[site.path]), share)
            commands += [
                self._germinate(row, site, kind.name, self._score(site, seen))
                for row, kind in zip(ready[site.path], chosen, strict=False)
            ]
            spent += price
        if not commands:
            return Proposal((), self._empty(seen, left, bool(sites)))
        self._before = seen.parameters
        first = seen.epoch == self._begins
        cause = "the first wave" if first else f"no better validation for {self._since} epochs"
        rest = "" if seen.budget is None else f"; {left - spent:g} of {seen.budget} parameters left"
        return Proposal(tuple(commands), f"{cause}: {_seeds(len(commands))}{rest}")

    def _crowd(
        self, site: SiteObservation, seen: Observation, rows: int, share: float
    ) -> tuple[list[KindOffer], float]:
        """The kind of each seed that germinates at a site, and the parameters that they may cost.

        Args:
            site: where.
            seen: the whole observation.
            rows: seeds that are free, 1 or more.
            share: parameters that they may cost.
        """
        least = min(kind.flops for kind in site.kinds)
        worth = [k for k in site.kinds if k.flops <= self.config.dearest * least]
        rivals = [kind for kind in worth if kind.parameters <= share][:rows]
        most = math.inf if seen.budget is None else self.config.breadth * seen.budget
        compete = site.placement == "parallel"
        chosen: list[KindOffer] = []
        price = 0.0
        for turn in range(1, min(rows, self.config.crowd) + 1):  # every round one more of each kind
            more = [k for k in rivals if turn == 1 or turn * k.flops <= most]
            costs = [turn * kind.parameters for kind in more]
            after = max([price, *costs]) if compete else price + sum(k.parameters for k in more)
            if not more or after > share or len(chosen) + len(more) > rows:
                break
            chosen, price = chosen + more, after
        return chosen, price

    def _score(self, site: SiteObservation, seen: Observation) -> float:
        """How much the site is in need, by the ranking that was asked for; -inf if not known."""
        rows = slice(site.first_row, site.first_row + site.seeds)
        score = {
            "bottleneck": site.bottleneck,
            "gradient_ratio": site.gradient_ratio,
            "deviation": float(np.mean(seen.seeds.deviation[rows])),
            "random": float(np.random.default_rng([seen.epoch, site.first_row]).random()),
        }[self.config.rank]
        return -math.inf if math.isnan(score) else score

    def _ready(
        self, site: SiteObservation, seen: Observation, mask: NDArray[np.bool_]
    ) -> list[int]:
        """The site's rows that may germinate, lowest first."""
        if site.embargoed:
            return []
        rows = np.arange(site.first_row, site.first_row + site.seeds)
        column = seen.commands.index(self.config.germinate)
        return [int(row) for row in rows[mask[rows, column]]]

    def _germinate(self, row: int, site: SiteObservation, kind: str, score: float) -> Command:
        found = f", {self.config.rank.replace('_', ' ')} {score:.3g}"
        reason = f"room to grow at {site.path}{found if math.isfinite(score) else ''}"
        return Command(self.config.germinate, row, reason, self.name, blueprint=kind)

    def _empty(self, seen: Observation, left: float, any_ready: bool) -> str:
        if not any_ready:
            return "no seed may germinate: none is free, or too little of the run is left"
        cheapest = min(kind.parameters for site in seen.sites for kind in site.kinds)
        return f"budget: {left:g} parameters left, the cheapest seed costs {cheapest}"


def _seeds(number: int) -> str:
    return f"{number} seed" if number == 1 else f"{number} seeds"
