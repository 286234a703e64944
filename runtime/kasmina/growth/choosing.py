"""Lets a run learn which grafting strategy works on it.

A seed's strategy is chosen when its graft begins, and learned from when its life has ended: by the
share of the validation loss that its judgement says it saved, from -1 (it cost as much as the loss
was, or its run was rewound) to 1. Choices survive a rewind: they are what was learned from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kasmina.grafting import UNDECIDED, StrategySelector, strategy_number
from kasmina.growth.journal import Journal
from kasmina.growth.planes import mask_in
from kasmina.sites import Garden


@dataclass(frozen=True, slots=True)
class _Chosen:
    strategy: str
    generation: int
    loss: float  # validation loss at the graft, nats


class Choices:
    """What was chosen for which seed, and is waiting for its end.

    Args:
        garden: whose seeds have `grafting_strategy` -1 where one shall be chosen.
        journal: gets every choice and what came of it.
        selector: chooses and learns.
    """

    def __init__(self, garden: Garden, journal: Journal, selector: StrategySelector) -> None:
        self._garden, self._journal, self.selector = garden, journal, selector
        self._waiting: dict[int, _Chosen] = {}

    def choose(self, rows: list[int], loss: float) -> None:
        """Decide for those of `rows` that are undecided; `loss` is the validation loss, nats."""
        state = self._garden.state
        for row in rows:
            if int(state["grafting_strategy"][row]) != UNDECIDED:
                continue
            self._forget(row)  # a rewind has brought it back to before its last graft
            choice = self.selector.choose()
            self._waiting[row] = _Chosen(choice.strategy, int(state["generation"][row]), loss)
            state.update([row], {"grafting_strategy": strategy_number(choice.strategy)})
            self._journal.write(
                "strategy", of=row, strategy=choice.strategy, indices=dict(choice.indices)
            )

    def settle(self) -> None:
        """Learn from the seeds that have ended since."""
        state = self._garden.state
        undone = mask_in(state, "plane", "identity")
        for row, chosen in list(self._waiting.items()):
            if int(state["generation"][row]) != chosen.generation:
                self._forget(row)
            elif state.lifecycle.tables.IS_TERMINAL[int(state.codes[row])]:
                score = -chosen.loss if undone[row] else float(state["evaluation_score"][row])
                self._learn(row, _reward(score, chosen.loss))

    def state_dict(self) -> dict[str, Any]:
        """What waits, and what was learned."""
        waiting = [(row, asdict(chosen)) for row, chosen in self._waiting.items()]
        return {"waiting": waiting, "selector": self.selector.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._waiting = {row: _Chosen(**chosen) for row, chosen in state["waiting"]}
        self.selector.load_state_dict(state["selector"])

    def _learn(self, row: int, reward: float) -> None:
        name = self._waiting.pop(row).strategy
        self.selector.learn(name, reward)
        regret = self.selector.regret()
        self._journal.write("learned", of=row, strategy=name, reward=reward, regret=regret)

    def _forget(self, row: int) -> None:
        chosen = self._waiting.pop(row, None)
        if chosen is not None:
            self.selector.forget(chosen.strategy)


def _reward(score: float, loss: float) -> float:
    """The share of `loss` that was saved, from [-1, 1] to [0, 1]; 1/2 where nothing is known."""
    share = score / loss if loss > 0 else math.nan
    return 0.5 if math.isnan(share) else 0.5 * (1 + min(max(share, -1.0), 1.0))
