"""Which strategy works on this run: a bandit over the strategies.

Delayed-UCB1 (Joulani, György & Szepesvári 2013, Online learning under delayed feedback), that is
UCB1 (Auer, Cesa-Bianchi & Fischer 2002) whose rewards may come back late and in any order: play the
arm with the largest

    mean_i + sqrt(2 ln t / s_i)

where t counts the choices and s_i the rewards that arm i has got back. With rewards in [0, 1] that
are drawn independently, each arm from its own distribution, the expected regret after n choices is
at most

    sum over the arms worse than the best of  8 ln(n) / gap_i + 3.5 gap_i + gap_i E[G_i]

where G_i is the largest number of choices of arm i that were waiting for their reward at once.
A run that trains is not stationary, so there the bound holds as far as a strategy's worth does not
change during the run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kasmina.grafting.registry import StrategyError, known_strategies, strategy_by_name


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy with the reasons for it: each arm's index (infinite where it was never tried)."""

    strategy: str
    indices: Mapping[str, float]


@dataclass(slots=True)
class _Arm:
    rewards: int = 0
    total: float = 0.0
    waiting: int = 0  # choices whose reward has not come back
    most: int = 0  # of them at once

    @property
    def mean(self) -> float:
        return self.total / self.rewards if self.rewards else 0.0


class StrategySelector:
    """Chooses strategies and learns from what came of them; deterministic in what it was told.

    Args:
        names: the strategies to choose from; all that are registered now by default.

    Raises:
        StrategyError: there is no name, one is given twice, or one is no strategy.
    """

    def __init__(self, names: Sequence[str] | None = None) -> None:
        names = known_strategies() if names is None else tuple(names)
        for name in names:
            strategy_by_name(name)
        if not names or len(set(names)) < len(names):
            raise StrategyError(
                f"a selector needs each of its strategies once, and one at least; got {list(names)}"
            )
        self._arms = {name: _Arm() for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        """The strategies, in the order in which ties are broken."""
        return tuple(self._arms)

    def choose(self) -> Choice:
        """The strategy of the next seed; call `learn` or `forget` when its graft has ended.

        Arms with equal indices, such as those never tried, take turns: the one that fewest seeds
        are waiting for comes first.
        """
        indices = self._indices()
        name = max(self._arms, key=lambda n: (indices[n], -self._arms[n].waiting))
        arm = self._arms[name]
        arm.waiting += 1
        arm.most = max(arm.most, arm.waiting)
        return Choice(name, indices)

    def learn(self, name: str, reward: float) -> None:
        """What came of one choice of `name`.

        Args:
            name: as it was chosen.
            reward: in [0, 1].

        Raises:
            StrategyError: no choice of `name` is waiting, or the reward is outside of [0, 1].
        """
        if not 0 <= reward <= 1:
            raise StrategyError(f"strategy {name!r}: a reward is in [0, 1], got {reward}")
        arm = self._ended(name)
        arm.rewards += 1
        arm.total += reward

    def forget(self, name: str) -> None:
        """A choice of `name` came to nothing that could be judged, so it counts nowhere."""
        self._ended(name)

    def regret(self) -> float:
        """The bound above for the choices so far, at the mean rewards that are known.

        No more than if each choice had lost the largest gap; 0 before the first reward.
        """
        tried = {name: arm.mean for name, arm in self._arms.items() if arm.rewards}
        gaps = {name: max(tried.values()) - mean for name, mean in tried.items()}
        choices = sum(arm.rewards + arm.waiting for arm in self._arms.values())
        waiting = max(arm.most for arm in self._arms.values())
        most = choices * max(gaps.values(), default=0.0)
        return min(self.regret_bound(gaps, choices, waiting), most)

    def regret_bound(self, gaps: Mapping[str, float], choices: int, waiting: int = 1) -> float:
        """The bound above.

        Args:
            gaps: by strategy, what its mean reward is below the best one's; 0 for the best.
            choices: n.
            waiting: most choices of one strategy that wait at once.
        """
        worse = [gap for gap in gaps.values() if gap > 0]
        return sum(8 * math.log(choices) / gap + (3.5 + waiting) * gap for gap in worse)

    def state_dict(self) -> dict[str, Any]:
        """What it has learned."""
        return {name: asdict(arm) for name, arm in self._arms.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave; a strategy that it does not know was never tried."""
        self._arms = {name: _Arm(**state.get(name, {})) for name in self._arms}

    def _indices(self) -> dict[str, float]:
        made = 1 + sum(arm.rewards + arm.waiting for arm in self._arms.values())
        return {name: _index(arm, made) for name, arm in self._arms.items()}

    def _ended(self, name: str) -> _Arm:
        arm = self._arms.get(name)
        if arm is None or not arm.waiting:
            raise StrategyError(f"no choice of {name!r} is waiting; waiting: {self._waiting()}")
        arm.waiting -= 1
        return arm

    def _waiting(self) -> str:
        found = [f"{n} {arm.waiting}" for n, arm in self._arms.items() if arm.waiting]
        return ", ".join(found) or "none"


def _index(arm: _Arm, choices: int) -> float:
    return arm.mean + math.sqrt(2 * math.log(choices) / arm.rewards) if arm.rewards else math.inf
