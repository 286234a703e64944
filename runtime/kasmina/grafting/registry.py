"""The strategies that move alpha, by name and by number.

    @GraftingStrategyRegistry.register("square")
    class Square:
        '''alpha = p^2.'''

        def alpha(self, ramp: Ramp) -> Tensor:
            return ramp.progress.square()

A strategy is pure: the same ramp gives the same alpha, nothing is remembered and nothing is
written. It must end at exactly 1. Its class may name in `reads` the measurements of `Ramp` that it
wants; else it gets all but `drift`, which costs a copy of the host's weights.
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

LEARNED = "learned"  # in the place of a name: the strategy is chosen at the graft
UNDECIDED = -1  # its number, until then
CHEAP = ("stability", "trend", "score")  # measurements of a ramp that cost nothing


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
            if name == LEARNED:
                raise StrategyError(f"{name!r} means that a strategy is chosen; take another name")
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
                f"unknown grafting strategy {name!r}; known: {', '.join(cls._strategies)}, or "
                f"{LEARNED!r}{hint}"
            )
        return cls._strategies[name]


def strategy(name: str) -> GraftingStrategy:
    """The strategy `name`; raises `StrategyError` listing the known ones."""
    return GraftingStrategyRegistry.get(name)


def strategy_number(name: str) -> int:
    """What the `grafting_strategy` column holds for `name`; raises `StrategyError`.

    For "learned" that is -1: a `StrategySelector` chooses when the seed begins to graft.
    """
    if name == LEARNED:
        return UNDECIDED
    GraftingStrategyRegistry.get(name)
    return GraftingStrategyRegistry.names().index(name)


def strategy_by_number(number: int) -> GraftingStrategy:
    """The strategy of a `grafting_strategy` column; raises `StrategyError` outside the table."""
    names = GraftingStrategyRegistry.names()
    if not 0 <= number < len(names):
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise StrategyError(f"no grafting strategy has number {number}; known: {listed}")
    return GraftingStrategyRegistry.get(names[number])


def move(numbers: Tensor, ramp: Ramp, start: Tensor, target: Tensor) -> Tensor:
    """The next alpha of each seed, on its way from `start` to `target` by its own strategy.

    A ramp downwards goes by no measurement, so that it surely ends.

    Args:
        numbers: the `grafting_strategy` column, any integer dtype, `[S]`.
        ramp: the ramps of the same seeds, `alpha` the blend factors as they are.
        start: float32 `[S]` in [0, 1], where the ramps began.
        target: float32 `[S]` in [0, 1], where they shall end; reached exactly.

    Returns:
        float32 `[S]` in [0, 1].
    """
    way = target - start
    behind = torch.where(way == 0, 1.0, (ramp.alpha - start) / way).clamp(0, 1)
    seen, falls = replace(ramp, alpha=behind), way < 0
    share = _shares(numbers, seen)
    if bool(falls.any()):
        share = torch.where(falls, _shares(numbers, seen.unmeasured()), share)
    return torch.lerp(start, target, share)


def _shares(numbers: Tensor, ramp: Ramp) -> Tensor:
    """How much of its way each seed shall have behind it."""
    used = set(numbers.tolist())
    found = torch.zeros_like(ramp.alpha)
    for number in used:
        alpha = strategy_by_number(number).alpha(ramp).to(found)
        found = alpha if len(used) == 1 else torch.where(numbers == number, alpha, found)
    return found.clamp(0, 1)


def reads(numbers: Tensor) -> set[str]:
    """The measurements of `Ramp` that the strategies `numbers` want."""
    found: set[str] = set()
    for number in set(numbers.tolist()):
        found.update(getattr(strategy_by_number(number), "reads", CHEAP))
    return found
