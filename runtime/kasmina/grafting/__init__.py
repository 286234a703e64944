"""Grafting: the strategies that move a seed's alpha, and what learns which of them works."""

from kasmina.grafting.moving import move, reads
from kasmina.grafting.ramp import Ramp
from kasmina.grafting.registry import (
    LEARNED,
    UNDECIDED,
    GraftingStrategy,
    GraftingStrategyRegistry,
    StrategyError,
    known_strategies,
    strategy,
    strategy_by_name,
    strategy_by_number,
    strategy_number,
)
from kasmina.grafting.selector import Choice, StrategySelector
from kasmina.grafting.strategies import (
    Adaptive,
    Cosine,
    DriftControlled,
    Linear,
    Momentum,
    PerformanceLinked,
)

__all__ = [
    "LEARNED",
    "UNDECIDED",
    "Adaptive",
    "Choice",
    "Cosine",
    "DriftControlled",
    "GraftingStrategy",
    "GraftingStrategyRegistry",
    "Linear",
    "Momentum",
    "PerformanceLinked",
    "Ramp",
    "StrategyError",
    "StrategySelector",
    "known_strategies",
    "move",
    "reads",
    "strategy",
    "strategy_by_name",
    "strategy_by_number",
    "strategy_number",
]
