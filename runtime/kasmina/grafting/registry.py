"""The strategies that move alpha, by name and by number.

    @kasmina.strategy("square")
    class Square:
        '''alpha = p^2.'''

        def alpha(self, ramp: Ramp) -> Tensor:
            return ramp.progress.square()

A strategy is pure: the same ramp gives the same alpha, nothing is remembered and nothing is
written. It must end at exactly 1. Its class may name in `reads` the measurements of `Ramp` that it
wants; else it gets all but `drift`, which costs a copy of the host's weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

from kasmina.errors import KasminaError
from kasmina.grafting.ramp import Ramp
from kasmina.registry import Registry

LEARNED = "learned"  # in the place of a name: the strategy is chosen at the graft
UNDECIDED = -1  # its number, until then
CHEAP = ("stability", "trend", "score")  # measurements of a ramp that cost nothing
MEASURED = (*CHEAP, "drift")


class StrategyError(KasminaError, ValueError):
    """A grafting strategy that does not exist, cannot be registered, or gave no legal alpha."""


class GraftingStrategy(Protocol):
    """Moves the alpha of many seeds at once."""

    @abstractmethod
    def alpha(self, ramp: Ramp) -> Tensor:
        """The blend factors after this step, float32 `[S]` in [0, 1]; 1 at the ramp's end."""


Strategy = TypeVar("Strategy", bound=type[GraftingStrategy])
_STRATEGIES: Registry[GraftingStrategy] = Registry(
    "grafting strategy", "kasmina.strategy", "cosine", StrategyError
)


def strategy(name: str) -> Callable[[Strategy], Strategy]:
    """Register the decorated class, which is made without arguments, as `name`.

    Its number, which the `grafting_strategy` column holds, is its place in the order of
    registration.

    Raises:
        StrategyError: the name is taken or is no plain word, or the class is no strategy.
    """
    if name == LEARNED:
        raise StrategyError(f"{name!r} means that a strategy is chosen; choose another name")
    _STRATEGIES.refuse(name)

    def register(kind: Strategy) -> Strategy:
        _STRATEGIES.add(name, kind, _made(name, kind))
        return kind

    return register


def _made(name: str, kind: type[GraftingStrategy]) -> GraftingStrategy:
    where = f"grafting strategy {name!r}"
    if not (isinstance(kind, type) and callable(getattr(kind, "alpha", None))):
        raise StrategyError(f"{where}: {kind!r} is no class with alpha(self, ramp: Ramp) -> Tensor")
    wanted = getattr(kind, "reads", ())
    if isinstance(wanted, str) or not all(each in MEASURED for each in wanted):
        raise StrategyError(
            f"{where}: reads={wanted!r}; legal: a tuple of names among {', '.join(MEASURED)}"
        )
    try:
        return kind()
    except TypeError as error:
        raise StrategyError(f"{where} cannot be made without arguments: {error}") from error


class GraftingStrategyRegistry:
    """The earlier system's name for `strategy`."""

    register = staticmethod(strategy)


def known_strategies() -> tuple[str, ...]:
    """The registered names, in the order of registration: the index of a name is its number."""
    return _STRATEGIES.names()


def strategy_by_name(name: str) -> GraftingStrategy:
    """The strategy `name`.

    Raises:
        StrategyError: there is none; lists the known ones.
    """
    return _STRATEGIES.get(name, f", or {LEARNED!r}")


def strategy_number(name: str) -> int:
    """What the `grafting_strategy` column holds for `name`; raises `StrategyError`.

    For "learned" that is -1: a `StrategySelector` chooses when the seed begins to graft.
    """
    if name == LEARNED:
        return UNDECIDED
    strategy_by_name(name)
    return known_strategies().index(name)


def strategy_by_number(number: int) -> GraftingStrategy:
    """The strategy of a `grafting_strategy` column; raises `StrategyError` outside the table."""
    return strategy_by_name(strategy_name(number))


def strategy_name(number: int) -> str:
    """Its name; raises `StrategyError` outside the table."""
    names = known_strategies()
    if not isinstance(number, int) or not 0 <= number < len(names):
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise StrategyError(f"no grafting strategy has number {number!r}; known: {listed}")
    return names[number]
