"""The strategies that move alpha."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kasmina.grafting import (
    GraftingStrategyRegistry,
    Ramp,
    StrategyError,
    ramp_down,
    ramp_up,
    strategy,
    strategy_by_number,
    strategy_number,
)


def ramp(steps: list[int], length: int, alpha: float = 0.0) -> Ramp:
    """A ramp of several seeds."""
    at = torch.tensor(steps)
    return Ramp(at, torch.full_like(at, length), torch.full((len(steps),), alpha))


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("length", [1, 2, 7, 100, 333])
def test_monotone_from_0_to_exactly_1(name: str, length: int) -> None:
    """A strategy starts at 0, never falls, and ends at exactly 1 and stays there."""
    alpha = strategy(name).alpha(ramp(list(range(length + 3)), length))
    assert alpha.dtype == torch.float32
    assert alpha[0] == 0
    assert (alpha.diff() >= 0).all()
    assert (alpha[length:] == 1).all()


def test_formulas() -> None:
    """Linear is p, cosine is (1 - cos(pi p)) / 2."""
    quarter = ramp([1, 2], 4)
    assert strategy("linear").alpha(quarter).tolist() == [0.25, 0.5]
    assert strategy("cosine").alpha(quarter).tolist() == pytest.approx([0.1464466, 0.5])


def test_a_length_below_1_ends_at_once() -> None:
    """A ramp without length is over after its first step."""
    assert strategy("linear").alpha(ramp([1], 0)).tolist() == [1.0]


def test_numbers_are_stable() -> None:
    """The built-in strategies have the first numbers, in the order of registration."""
    assert GraftingStrategyRegistry.names()[:2] == ("linear", "cosine")
    assert strategy_number("cosine") == 1
    assert strategy_by_number(1) is strategy("cosine")


def test_each_seed_follows_its_own_strategy() -> None:
    """`ramp_up` takes a column of numbers."""
    ramps = ramp([1, 1, 4], 4)
    alpha = ramp_up(torch.tensor([0, 1, 1], dtype=torch.int8), ramps)
    assert alpha.tolist() == pytest.approx([0.25, 0.1464466, 1.0])


@given(
    number=st.sampled_from([0, 1]),
    length=st.integers(1, 50),
    start=st.floats(0.0, 1.0, width=32),
)
def test_withdrawal_mirrors_the_ramp(number: int, length: int, start: float) -> None:
    """From any alpha the withdrawal falls along the same curve, to exactly 0."""
    numbers = torch.tensor([number])
    alpha, path = torch.tensor([start]), []
    for step in range(1, length + 1):
        alpha = ramp_down(numbers, Ramp(torch.tensor([step]), torch.tensor([length]), alpha))
        path.append(alpha)
        up = strategy_by_number(number).alpha(ramp([step], length))
        assert torch.allclose(alpha, start * (1 - up), atol=1e-5)
    assert (torch.cat([torch.tensor([start]), *path]).diff() <= 0).all()
    assert path[-1].item() == 0


def test_a_strategy_of_ones_own() -> None:
    """A decorated class gets the next number."""
    if "square_for_test" not in GraftingStrategyRegistry.names():

        @GraftingStrategyRegistry.register("square_for_test")
        class Square:
            def alpha(self, ramp: Ramp) -> Tensor:
                return ramp.progress.square()

    assert strategy("square_for_test").alpha(ramp([1], 2)).tolist() == [0.25]
    assert strategy_number("square_for_test") >= 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: strategy("cosin"),
            r"^unknown grafting strategy 'cosin'; known: linear, cosine.*; did you mean 'cosine'\?$",
        ),
        (lambda: strategy_number("none"), r"^unknown grafting strategy 'none'; known: linear"),
        (
            lambda: strategy_by_number(-1),
            r"^no grafting strategy has number -1; known: 0 linear, 1 cosine",
        ),
        (
            lambda: GraftingStrategyRegistry.register("linear")(object),  # type: ignore[type-var]
            r"^grafting strategy 'linear' is already registered by Linear; choose another name$",
        ),
        (
            lambda: GraftingStrategyRegistry.register("empty")(object),  # type: ignore[type-var]
            r"^grafting strategy 'empty': object has no method alpha\(self, ramp: Ramp\) -> Tensor$",
        ),
    ],
)
def test_refusals(call: object, message: str) -> None:
    """Unknown names and numbers list the known ones."""
    with pytest.raises(StrategyError, match=message):
        call()  # type: ignore[operator]
