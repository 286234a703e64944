"""A controller that grows by lot: what a steered one must be better than."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kasmina.control.timing import FIRST, LAST, STEPS_LEFT, first_wave
from kasmina.growth.controller import Command, Observation, Proposal
from kasmina.lifecycle import generator


class RandomController:
    """Germinates one seed at a time, of a kind and at a place that are drawn, within the budget.

    Args:
        seed: of the draws.
        warm_up: epochs before the first one at least.
        first: share of the planned epochs before it, as Tamiyo's.
        steps_left: optimizer steps that should be left at the first one, as Tamiyo's.
        last: share of the planned epochs after which nothing germinates.
        chance: of a draw at an epoch in which nothing is under way.
        germinate: the spec's command that asks for a seed.
    """

    name = "random"

    def __init__(
        self,
        seed: int,
        *,
        warm_up: int = 2,
        first: float = FIRST,
        steps_left: int = STEPS_LEFT,
        last: float = LAST,
        chance: float = 0.5,
        germinate: str = "request_germination",
    ) -> None:
        self._seed, self._warm_up, self._first, self._last = seed, warm_up, first, last
        self._steps_left, self._chance, self._germinate = steps_left, chance, germinate

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Decide at an epoch's end; the draw depends on the seed and the epoch alone."""
        late = observation.epochs is not None and (
            observation.epoch > self._last * observation.epochs
        )
        begins = first_wave(
            observation,
            warm_up=self._warm_up,
            first=self._first,
            steps_left=self._steps_left,
        )
        if observation.epoch < begins or late or observation.busy:
            return Proposal((), "not now")
        draw = generator(self._seed, "control", 0, observation.epoch, "random growth")
        numbers = np.random.default_rng(draw.initial_seed())
        if numbers.random() > self._chance:
            return Proposal((), "not drawn")
        left = np.inf if observation.budget is None else observation.budget - observation.parameters
        column = observation.commands.index(self._germinate)
        offers = [
            (int(row), kind.name)
            for site in observation.sites
            for row in np.flatnonzero(mask[:, column])
            if site.first_row <= row < site.first_row + site.seeds and not site.embargoed
            for kind in site.kinds
            if kind.parameters <= left
        ]
        if not offers:
            return Proposal((), "nothing may germinate")
        row, kind = offers[int(numbers.integers(len(offers)))]
        command = Command(self._germinate, row, "drawn by lot", self.name, blueprint=kind)
        return Proposal((command,), "drawn by lot")

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""
