"""The strategies that move alpha, by name and by number.

    @GraftingStrategyRegistry.register("square")
    class Square:
        '''alpha = p^2.'''

        def alpha(self, ramp: Ramp) -> Tensor:
            return ramp.progress.square()

A strategy is pure: the same ramp gives the same alpha, nothing is remembered and nothing is
written. It must be monotone in `steps` and end at exactly 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.grafting.ramp import Ramp


class StrategyError(KasminaError, ValueError):
    """A grafting strategy that does not exist or cannot be registered."""


class GraftingStrategy(Protocol):
    """Moves the alpha of many seeds at once."""

    def alpha(self, ramp: Ramp) -> Tensor:
        """The blend factors after this step, float32 `[S]` in [0, 1]; 1 at the ramp's end."""
        ...


Strategy = TypeVar("Strategy", bound=type[GraftingStrategy])


class GraftingStrategyRegistry:
    """Every strategy; a strategy's number is its place in the order of registration.

    Numbers are what the `grafting_strategy` column holds, so a strategy is never taken out again.
    """

    _strategies: ClassVar[dict[str, GraftingStrategy]] = {}

    @classmethod
    def register(cls, name: str) -> Callable[[Strategy], Strategy]:
        """Register the decorated class, which is made without arguments, as `name`.

        Raises:
            StrategyError: the name is taken, or the class has no method `alpha`.
        """

        def add(strategy: Strategy) -> Strategy:
            if name in cls._strategies:
                taken = type(cls._strategies[name]).__qualname__
                raise StrategyError(
                    f"grafting strategy {name!r} is already registered by {taken}; choose another "
                    "name"
                )
            if not callable(getattr(strategy, "alpha", None)):
                raise StrategyError(
                    f"grafting strategy {name!r}: {strategy.__qualname__} has no method "
                    "alpha(self, ramp: Ramp) -> Tensor"
                )
            cls._strategies[name] = strategy()
            return strategy

        return add

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The registered names; the index of a name is its number."""
        return tuple(cls._strategies)

    @classmethod
    def get(cls, name: str) -> GraftingStrategy:
        """The strategy `name`; raises `StrategyError` listing the known ones."""
        if name not in cls._strategies:
            near = get_close_matches(name, cls._strategies, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise StrategyError(
                f"unknown grafting strategy {name!r}; known: {', '.join(cls._strategies)}{hint}"
            )
        return cls._strategies[name]


def strategy(name: str) -> GraftingStrategy:
    """The strategy `name`; raises `StrategyError` listing the known ones."""
    return GraftingStrategyRegistry.get(name)


def strategy_number(name: str) -> int:
    """What the `grafting_strategy` column holds for `name`; raises `StrategyError`."""
    GraftingStrategyRegistry.get(name)
    return GraftingStrategyRegistry.names().index(name)


def strategy_by_number(number: int) -> GraftingStrategy:
    """The strategy of a `grafting_strategy` column; raises `StrategyError` outside the table."""
    names = GraftingStrategyRegistry.names()
    if not 0 <= number < len(names):
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise StrategyError(f"no grafting strategy has number {number}; known: {listed}")
    return GraftingStrategyRegistry.get(names[number])


def ramp_up(numbers: Tensor, ramp: Ramp) -> Tensor:
    """Alpha of each seed by its own strategy.

    Args:
        numbers: the `grafting_strategy` column, any integer dtype, `[S]`.
        ramp: the ramps of the same seeds.

    Returns:
        float32 `[S]` in [0, 1].
    """
    found = torch.zeros_like(ramp.alpha)
    for number in set(numbers.tolist()):
        alpha = strategy_by_number(number).alpha(ramp)
        found = torch.where(numbers == number, alpha.to(found), found)
    return found.clamp(0, 1)


def ramp_down(numbers: Tensor, ramp: Ramp) -> Tensor:
    """Alpha of seeds that are withdrawn: the same ramps downwards, to exactly 0 at their end.

    What is left of alpha shrinks by `(1 - f(t)) / (1 - f(t - 1))`, where f is the seed's ramp; so
    it falls along `alpha_0 * (1 - f(t))` from whatever alpha the withdrawal began with.

    Args:
        numbers: the `grafting_strategy` column, `[S]`.
        ramp: `steps` since the withdrawal began, 1 at its first step; `alpha` as it is now.

    Returns:
        float32 `[S]` in [0, 1].
    """
    rising = replace(ramp, alpha=1 - ramp.alpha)
    before = ramp_up(numbers, replace(rising, steps=(ramp.steps - 1).clamp_min(0)))
    now = ramp_up(numbers, rising)
    left = (1 - now) / (1 - before).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(now >= 1, torch.zeros_like(left), ramp.alpha * left.clamp(0, 1))
