"""The strategies that move alpha."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kasmina.grafting import (
    LEARNED,
    UNDECIDED,
    Adaptive,
    DriftControlled,
    GraftingStrategy,
    GraftingStrategyRegistry,
    Linear,
    Momentum,
    PerformanceLinked,
    Ramp,
    StrategyError,
    known_strategies,
    move,
    reads,
    strategy,
    strategy_by_name,
    strategy_by_number,
    strategy_number,
)
from kasmina.grafting.registry import CHEAP

CURVES = ("linear", "cosine")
PACED = {  # the measurement that each reads, with a value that slows it down and one that hastens it
    "drift_controlled": ("drift", 2 * DriftControlled.threshold, 0.0),
    "momentum": ("trend", Momentum.scale, -Momentum.scale),
    "adaptive": ("stability", 0.0, 1.0),
    "performance_linked": ("score", -PerformanceLinked.scale, PerformanceLinked.scale),
}
BUILT_IN = (*CURVES, *PACED)


def ramp(steps: list[int], length: int, alpha: float = 0.0, **measured: float) -> Ramp:
    """A ramp of several seeds."""
    at = torch.tensor(steps)
    seen = {name: torch.full((len(steps),), value) for name, value in measured.items()}
    return Ramp(at, torch.full_like(at, length), torch.full((len(steps),), alpha), **seen)


def walk(name: str, length: int, **measured: float) -> list[float]:
    """Alpha step by step, until it is 1 or twice the length is over."""
    path = [0.0]
    while path[-1] < 1 and len(path) <= 2 * length:
        path.append(
            float(strategy_by_name(name).alpha(ramp([len(path)], length, path[-1], **measured)))
        )
    return path


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("length", [1, 2, 7, 100, 333])
def test_monotone_from_0_to_exactly_1(name: str, length: int) -> None:
    """A strategy starts at 0, never falls, and without measurements ends after `length` steps."""
    alpha = strategy_by_name(name).alpha(ramp(list(range(length + 3)), length))
    assert alpha.dtype == torch.float32
    assert alpha[0] == 0
    assert (alpha.diff() >= 0).all()
    assert (alpha[length:] == 1).all()


def test_formulas() -> None:
    """Linear is p, cosine is (1 - cos(pi p)) / 2."""
    quarter = ramp([1, 2], 4)
    assert strategy_by_name("linear").alpha(quarter).tolist() == [0.25, 0.5]
    assert strategy_by_name("cosine").alpha(quarter).tolist() == pytest.approx([0.1464466, 0.5])


@pytest.mark.parametrize(
    ("name", "measured", "pace"),
    [
        ("drift_controlled", DriftControlled.threshold, 1.0),
        ("drift_controlled", 1.01 * DriftControlled.threshold, 0.0),
        ("momentum", 0.0, 1.0),
        ("momentum", -0.5 * Momentum.scale, 2**0.5),
        ("momentum", -100.0, 2.0),
        ("momentum", 100.0, 0.5),
        ("adaptive", 0.5, 1.0),
        ("adaptive", 0.75, 2**0.5),
        ("adaptive", 0.0, 0.5),
        ("performance_linked", 0.0, 1.0),
        ("performance_linked", 1.0, 2.0),
        ("performance_linked", -0.5 * PerformanceLinked.scale, 2**-0.5),
        *[(name, float("nan"), 1.0) for name in PACED],
    ],
)
def test_paces(name: str, measured: float, pace: float) -> None:
    """One step of 100 moves alpha by the pace over the length; what is unknown is pace 1."""
    seen = {PACED[name][0]: measured}
    alpha = strategy_by_name(name).alpha(ramp([30], 100, 0.3, **seen))
    assert alpha.item() == pytest.approx(0.3 + pace / 100, abs=1e-6)


@pytest.mark.parametrize("name", PACED)
@pytest.mark.parametrize("length", [1, 3, 50, 333])
def test_every_ramp_ends(name: str, length: int) -> None:
    """After half the length where all is well (drift: the length), after twice it where not."""
    field, slow, quick = PACED[name]
    hastened = walk(name, length, **{field: quick})
    best = length if name == "drift_controlled" else -(-length // 2)
    assert (len(hastened) - 1, hastened[-1]) == (best, 1.0)
    slowed = walk(name, length, **{field: slow})
    assert slowed[-1] == 1.0
    assert 2 * length - 1 <= len(slowed) - 1 <= 2 * length
    for path in (hastened, slowed):
        assert all(a <= b for a, b in pairwise(path))


@given(
    st.sampled_from(sorted(PACED)),
    st.integers(1, 40),
    st.lists(st.floats(width=32), min_size=80, max_size=80),
)
def test_whatever_is_measured_alpha_rises_to_1(
    name: str, length: int, measured: list[float]
) -> None:
    """NaN and infinities included; the end is exact."""
    alpha, path = 0.0, [0.0]
    for step in range(1, 2 * length + 1):
        seen = {PACED[name][0]: measured[step - 1]}
        alpha = float(strategy_by_name(name).alpha(ramp([step], length, alpha, **seen)))
        path.append(alpha)
    assert path[-1] == 1.0
    assert all(0 <= a <= b <= 1 for a, b in pairwise(path))


def test_seeds_of_one_ramp_go_at_their_own_pace() -> None:
    """Vectorised: each element of the measurement belongs to its seed."""
    scores = torch.tensor([-1.0, 0.0, 1.0])
    seen = replace(ramp([1, 1, 1], 10), score=scores)
    assert strategy_by_name("performance_linked").alpha(seen).tolist() == pytest.approx(
        [0.05, 0.1, 0.2]
    )


def test_a_length_below_1_ends_at_once() -> None:
    """A ramp without length is over after its first step."""
    for name in BUILT_IN:
        assert strategy_by_name(name).alpha(ramp([1], 0)).tolist() == [1.0]


def test_numbers_are_stable() -> None:
    """The built-in strategies have the first numbers, in the order of registration."""
    assert known_strategies()[:6] == BUILT_IN
    assert strategy_number("cosine") == 1
    assert strategy_by_number(1) is strategy_by_name("cosine")
    assert strategy_number(LEARNED) == UNDECIDED == -1


def test_each_seed_follows_its_own_strategy() -> None:
    """`move` takes a column of numbers."""
    ends = torch.zeros(3), torch.ones(3)
    alpha = move(torch.tensor([0, 1, 1], dtype=torch.int8), ramp([1, 1, 4], 4), *ends)
    assert alpha.tolist() == pytest.approx([0.25, 0.1464466, 1.0])


@given(
    st.sampled_from(range(len(BUILT_IN))),
    st.integers(1, 50),
    st.floats(0.0, 1.0, width=32),
    st.floats(0.0, 1.0, width=32),
)
def test_a_ramp_may_begin_and_end_anywhere(
    number: int, length: int, start: float, target: float
) -> None:
    """Along the same curve, without turning back, to exactly its target."""
    numbers, ends = torch.tensor([number]), (torch.tensor([start]), torch.tensor([target]))
    path = [ends[0]]
    for step in range(1, length + 1):
        path.append(move(numbers, replace(ramp([step], length), alpha=path[-1]), *ends))
        curve = strategy_by_number(number).alpha(ramp([step], length))
        assert torch.allclose(path[-1], start + (target - start) * curve, atol=1e-5)
    assert path[-1].item() == ends[1].item()
    assert (torch.cat(path).diff() * (1 if target >= start else -1) >= -1e-7).all()


@pytest.mark.parametrize("name", PACED)
def test_a_withdrawal_ends_whatever_is_measured(name: str) -> None:
    """Nothing holds up what is on its way out."""
    field, slow, _ = PACED[name]
    numbers, ends = torch.tensor([strategy_number(name)]), (torch.tensor([0.6]), torch.zeros(1))
    alpha, seen = ends[0], {field: slow}
    for step in range(1, 11):
        alpha = move(numbers, replace(ramp([step], 10, **seen), alpha=alpha), *ends)
        assert alpha.item() == pytest.approx(0.6 * (1 - step / 10), abs=1e-6)
    assert alpha.item() == 0.0


def test_what_a_strategy_reads_is_a_tensor_on_its_way_down_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NaN there, so comparing it decides nothing; who never arrives is gone when its steps are."""
    seen: list[list[float]] = []

    def halting(ramp: Ramp) -> Tensor:
        assert ramp.score is not None
        seen.append(ramp.score.tolist())
        return torch.where(ramp.score > 0, ramp.progress, 0.5 * ramp.progress)

    name = "performance_linked"
    monkeypatch.setattr(strategy_by_name(name), "alpha", halting, raising=False)
    numbers, start = torch.full((2,), strategy_number(name)), torch.tensor([0.0, 0.8])
    ends = start, torch.tensor([1.0, 0.0])
    halfway = move(numbers, replace(ramp([2, 2], 4, score=1.0), alpha=start), *ends)
    over = move(numbers, replace(ramp([4, 4], 4), alpha=halfway), *ends)
    assert halfway.tolist() == pytest.approx([0.5, 0.6])
    assert over.tolist() == pytest.approx([0.5, 0.0])
    assert str(seen) == str([[1.0, math.nan], [math.nan] * 2])


def test_a_strategy_is_told_what_it_reads() -> None:
    """Curves read nothing; who does not say gets all that costs nothing, and not the drift."""
    found = {name: reads(torch.tensor([strategy_number(name)])) for name in BUILT_IN}
    expected = {name: {PACED[name][0]} if name in PACED else set() for name in BUILT_IN}
    assert found == expected
    together = reads(torch.tensor([strategy_number("momentum"), strategy_number("adaptive")]))
    assert together == {"trend", "stability"}
    square_for_test()
    assert reads(torch.tensor([strategy_number("square_for_test")])) == set(CHEAP)


def test_a_restless_network_has_a_longer_ramp() -> None:
    """Adaptive: stability 0, 1/2 and 1 make 20, 10 and 5 steps of 10."""
    assert [len(walk("adaptive", 10, stability=s)) - 1 for s in (0.0, 0.5, 1.0)] == [20, 10, 5]
    assert isinstance(strategy_by_name("adaptive"), Adaptive)


def square_for_test() -> None:
    """Register a strategy, once in a process."""
    if "square_for_test" not in known_strategies():

        @strategy("square_for_test")
        class Square:
            def alpha(self, ramp: Ramp) -> Tensor:
                return ramp.progress.square()


def test_a_strategy_of_ones_own() -> None:
    """A decorated class gets the next number."""
    square_for_test()
    assert strategy_by_name("square_for_test").alpha(ramp([1], 2)).tolist() == [0.25]


class Eager(Linear):
    """Wants what nobody measures."""

    reads = ("loss",)


class Late(Linear):
    """Wants an argument."""

    def __init__(self, pace: float) -> None:
        self.pace = pace


def test_a_refused_strategy_is_not_registered() -> None:
    """Nothing is left of it; the earlier system's name registers as well."""
    before = known_strategies()
    with pytest.raises(StrategyError):
        strategy("late")(Late)
    assert known_strategies() == before
    assert GraftingStrategyRegistry.register is strategy


def test_what_a_refused_alpha_is_told_as() -> None:
    """Without a garden seeds are named by their place; the first few of many."""
    square_for_test()
    number = strategy_number("square_for_test")
    seen, ends = ramp([1] * 5, 4, drift=0.0), (torch.zeros(5), torch.ones(5))
    numbers = torch.tensor([number, 0, number, number, number])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategy_by_name("square_for_test"), "alpha", lambda ramp: [1.0])
        with pytest.raises(StrategyError) as error:
            move(numbers, seen, *ends)
    assert str(error.value) == (
        "grafting strategy 'square_for_test': alpha(ramp) gave list [1.0], for seed 0, seed 2, seed 3"
        ", ...; legal: torch.float32 [5] on cpu, each in [0, 1]. Nothing was moved; compute it from "
        "ramp.progress, element by element"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: strategy_by_name("cosin"),
            (
                r"^unknown grafting strategy 'cosin'; known: linear, cosine.*, or 'learned'; did you "
                r"mean 'cosine'\?$"
            ),
        ),
        (lambda: strategy_number("none"), r"^unknown grafting strategy 'none'; known: linear"),
        (
            lambda: strategy_by_number(-1),
            r"^no grafting strategy has number -1; known: 0 linear, 1 cosine",
        ),
        (
            lambda: strategy("linear")(object),  # type: ignore[type-var]
            r"^grafting strategy 'linear' is already registered by Linear; choose another name$",
        ),
        (
            lambda: strategy("learned")(object),  # type: ignore[type-var]
            r"^'learned' means that a strategy is chosen; choose another name$",
        ),
        (
            lambda: strategy("empty")(object),  # type: ignore[type-var]
            (
                r"^grafting strategy 'empty': <class 'object'> is no class with alpha\(self, ramp: "
                r"Ramp\) -> Tensor$"
            ),
        ),
        (
            lambda: strategy("my own")(Linear),
            r"^'my own' is no plain word; name the grafting strategy like 'cosine'$",
        ),
        (
            lambda: strategy(Linear),  # type: ignore[arg-type]
            (
                r"^kasmina\.strategy needs a name: write @kasmina\.strategy\('cosine'\); got <class "
                r"'kasmina\.grafting\.strategies\.Linear'>$"
            ),
        ),
        (
            lambda: strategy("late")(Eager),
            (
                r"^grafting strategy 'late': reads=\('loss',\); legal: a tuple of names among "
                r"stability, trend, score, drift$"
            ),
        ),
        (
            lambda: strategy("late")(Late),
            r"^grafting strategy 'late' cannot be made without arguments: .*'pace'$",
        ),
        (
            lambda: strategy("late")(GraftingStrategy),
            r"^grafting strategy 'late' cannot be made without arguments: .*",
        ),
    ],
)
def test_refusals(call: object, message: str) -> None:
    """Unknown names and numbers list the known ones."""
    with pytest.raises(StrategyError, match=message):
        call()  # type: ignore[operator]
