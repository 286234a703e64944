"""Grafting: the strategies that move a seed's alpha."""

from kasmina.grafting.ramp import Ramp
from kasmina.grafting.registry import (
    GraftingStrategy,
    GraftingStrategyRegistry,
    StrategyError,
    ramp_down,
    ramp_up,
    strategy,
    strategy_by_number,
    strategy_number,
)
from kasmina.grafting.schedules import Cosine, Linear

__all__ = [
    "Cosine",
    "GraftingStrategy",
    "GraftingStrategyRegistry",
    "Linear",
    "Ramp",
    "StrategyError",
    "ramp_down",
    "ramp_up",
    "strategy",
    "strategy_by_number",
    "strategy_number",
]
