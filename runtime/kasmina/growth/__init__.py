"""Growth: the loop that lets seeds live while their host trains."""

from kasmina.growth.config import GardenerConfig, GrowConfig
from kasmina.growth.controller import (
    Command,
    Controller,
    Idle,
    KindOffer,
    Observation,
    Proposal,
    Scripted,
    SeedTable,
    SiteObservation,
)
from kasmina.growth.divergence import NonFiniteLoss, Triggers
from kasmina.growth.flops import FlopMeter
from kasmina.growth.gardener import Gardener
from kasmina.growth.gates import Readings, gate
from kasmina.growth.migration import migrate
from kasmina.growth.optimizer import StaleOptimizer
from kasmina.growth.replay import ReplayReport, replay
from kasmina.growth.run import RunResult, grow
from kasmina.growth.static import Comparison
from kasmina.growth.task import Task

__all__ = [
    "Command",
    "Comparison",
    "Controller",
    "FlopMeter",
    "Gardener",
    "GardenerConfig",
    "GrowConfig",
    "Idle",
    "KindOffer",
    "NonFiniteLoss",
    "Observation",
    "Proposal",
    "Readings",
    "ReplayReport",
    "RunResult",
    "Scripted",
    "SeedTable",
    "SiteObservation",
    "StaleOptimizer",
    "Task",
    "Triggers",
    "gate",
    "grow",
    "migrate",
    "replay",
]
