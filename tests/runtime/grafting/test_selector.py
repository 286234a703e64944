"""The bandit that learns which strategy works."""

from __future__ import annotations

import random
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kasmina.grafting import StrategyError, StrategySelector, known_strategies

ARMS = ("linear", "cosine", "momentum", "adaptive")
MEANS = dict(zip(ARMS, (0.45, 0.5, 0.75, 0.3), strict=True))
GAPS = {name: max(MEANS.values()) - mean for name, mean in MEANS.items()}
CHOICES = 3000


def played(seed: int, delay: int) -> tuple[Counter[str], int]:
    """Choices by strategy with rewards that come `delay` choices late, and the most in waiting."""
    draw, selector = random.Random(seed), StrategySelector(ARMS)
    waiting: deque[str] = deque()
    chosen: Counter[str] = Counter()
    most = 1
    for _ in range(CHOICES):
        waiting.append(selector.choose().strategy)
        chosen[waiting[-1]] += 1
        most = max(most, *Counter(waiting).values())
        if len(waiting) > delay:
            name = waiting.popleft()
            selector.learn(name, float(draw.random() < MEANS[name]))
    return chosen, most


@pytest.mark.parametrize("delay", [0, 5, 40])
def test_the_regret_stays_below_the_bound(delay: int) -> None:
    """On average over 10 runs of Bernoulli rewards, also where they come late; far below chance."""
    regrets, bounds = [], []
    for seed in range(10):
        chosen, most = played(seed, delay)
        regrets.append(sum(GAPS[name] * times for name, times in chosen.items()))
        bounds.append(StrategySelector(ARMS).regret_bound(GAPS, CHOICES, most))
    mean = sum(regrets) / len(regrets)
    by_chance = CHOICES * sum(GAPS.values()) / len(ARMS)
    assert mean <= sum(bounds) / len(bounds)
    assert mean < 0.4 * by_chance


def test_the_bound_by_hand() -> None:
    """8 ln(n) / gap + (3.5 + waiting) gap for each worse arm."""
    bound = StrategySelector(ARMS[:2]).regret_bound({"linear": 0.5, "cosine": 0.0}, 100, 3)
    assert bound == pytest.approx(8 * 4.6051702 / 0.5 + 6.5 * 0.5)


def test_the_bound_of_what_was_chosen() -> None:
    """At the means so far; few choices cannot lose more than the largest gap each."""
    selector = StrategySelector(ARMS[:2])
    assert selector.regret() == 0.0
    for name, reward in (("linear", 0.25), ("cosine", 0.75)):
        assert selector.choose().strategy == name
        selector.learn(name, reward)
    assert selector.regret() == 2 * 0.5
    state = {
        name: {"rewards": 500, "total": 500 * mean, "waiting": 0, "most": 2}
        for name, mean in (("linear", 0.25), ("cosine", 0.75))
    }
    selector.load_state_dict(state)
    assert selector.state_dict() == state
    gaps = {"linear": 0.5, "cosine": 0.0}
    assert selector.regret() == selector.regret_bound(gaps, 1000, 2) < 1000 * 0.5


def test_a_wave_spreads_over_what_was_never_tried() -> None:
    """Before the first reward the strategies take turns, and the reasons say so."""
    selector = StrategySelector(ARMS)
    choices = [selector.choose() for _ in range(6)]
    assert [c.strategy for c in choices] == [*ARMS, *ARMS[:2]]
    assert set(choices[0].indices.values()) == {float("inf")}


def test_forgotten_choices_teach_nothing() -> None:
    """A seed that never came to be judged leaves the means as they were."""
    selector = StrategySelector(ARMS[:2])
    assert selector.choose().strategy == "linear"
    selector.forget("linear")
    forgotten = {"rewards": 0, "total": 0.0, "waiting": 0, "most": 1}
    assert selector.state_dict()["linear"] == forgotten


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), max_size=60))
def test_deterministic_and_resumable(steps: list[tuple[bool, float]]) -> None:
    """A selector that was saved and loaded at any point chooses on as the first one does."""
    first, second = StrategySelector(ARMS), StrategySelector(ARMS)
    for learns, reward in steps:
        choices = [selector.choose() for selector in (first, second)]
        assert choices[0] == choices[1]
        if learns:
            for selector in (first, second):
                selector.learn(choices[0].strategy, reward)
        fresh = StrategySelector(ARMS)
        fresh.load_state_dict(second.state_dict())
        second = fresh


def test_by_default_all_strategies_compete() -> None:
    """Those of one's own too."""
    assert StrategySelector().names == known_strategies()


def test_refusals() -> None:
    """Bad names, rewards and answers to nothing."""
    with pytest.raises(StrategyError, match=r"^unknown grafting strategy 'lin'"):
        StrategySelector(["lin"])
    with pytest.raises(StrategyError, match=r"each of its strategies once, and one at least; got "):
        StrategySelector(["linear", "linear"])
    with pytest.raises(StrategyError, match=r"one at least; got \[\]$"):
        StrategySelector([])
    selector = StrategySelector(ARMS)
    with pytest.raises(StrategyError, match=r"^no choice of 'cosine' is waiting; waiting: none$"):
        selector.learn("cosine", 1.0)
    selector.choose()
    with pytest.raises(
        StrategyError, match=r"^no choice of 'cosine' is waiting; waiting: linear 1$"
    ):
        selector.forget("cosine")
    with pytest.raises(
        StrategyError, match=r"^strategy 'linear': a reward is in \[0, 1\], got nan"
    ):
        selector.learn("linear", float("nan"))
