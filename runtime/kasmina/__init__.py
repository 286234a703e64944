"""Grow a PyTorch network while it trains, under a lifecycle that is proved before it runs.

`import kasmina` costs nothing: a name is imported from its room when it is first used, and torch
with it. What is listed here is the public API; a room's own names are public too, under the room.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kasmina.blueprints import Blueprint, blueprint
    from kasmina.checkpoint import CheckpointManager
    from kasmina.control import TamiyoController
    from kasmina.errors import KasminaError
    from kasmina.grafting import GraftingStrategy, strategy
    from kasmina.growth import Controller, Gardener, GardenerConfig, Task
    from kasmina.growth.outside import Outside, OutsideConfig
    from kasmina.lifecycle import (
        GuardRefused,
        IllegalTransition,
        Lifecycle,
        LifecycleManager,
        LogicalSeed,
        StateTensor,
        step,
    )
    from kasmina.observe.log import EventLog
    from kasmina.sites import (
        ChunkedKasminaLayer,
        ChunkManager,
        HybridKasminaLayer,
        ParallelKasminaLayer,
        Site,
        fold,
        morph,
    )

_ROOM_OF = {
    "Blueprint": "blueprints",
    "CheckpointManager": "checkpoint",
    "ChunkManager": "sites",
    "ChunkedKasminaLayer": "sites",
    "Controller": "growth",
    "EventLog": "observe.log",
    "Gardener": "growth",
    "GardenerConfig": "growth",
    "GraftingStrategy": "grafting",
    "GuardRefused": "lifecycle",
    "HybridKasminaLayer": "sites",
    "IllegalTransition": "lifecycle",
    "KasminaError": "errors",
    "Lifecycle": "lifecycle",
    "LifecycleManager": "lifecycle",
    "LogicalSeed": "lifecycle",
    "Outside": "growth.outside",
    "OutsideConfig": "growth.outside",
    "ParallelKasminaLayer": "sites",
    "Site": "sites",
    "StateTensor": "lifecycle",
    "TamiyoController": "control",
    "Task": "growth",
    "blueprint": "blueprints",
    "fold": "sites",
    "morph": "sites",
    "step": "lifecycle",
    "strategy": "grafting",
}
_ROOMS = {room.partition(".")[0] for room in _ROOM_OF.values()} | {
    *("bench", "bus", "checkpoint", "cli", "kernels", "rollout", "tasks")
}

__all__ = [
    "Blueprint",
    "CheckpointManager",
    "ChunkManager",
    "ChunkedKasminaLayer",
    "Controller",
    "EventLog",
    "Gardener",
    "GardenerConfig",
    "GraftingStrategy",
    "GuardRefused",
    "HybridKasminaLayer",
    "IllegalTransition",
    "KasminaError",
    "Lifecycle",
    "LifecycleManager",
    "LogicalSeed",
    "Outside",
    "OutsideConfig",
    "ParallelKasminaLayer",
    "Site",
    "StateTensor",
    "TamiyoController",
    "Task",
    "blueprint",
    "fold",
    "morph",
    "step",
    "strategy",
]


def __getattr__(name: str) -> Any:
    """Import the name's room, or the room itself: `kasmina.growth.gate` works as it stands."""
    if name in _ROOM_OF:
        return getattr(importlib.import_module(f"kasmina.{_ROOM_OF[name]}"), name)
    if name in _ROOMS:
        return importlib.import_module(f"kasmina.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("kasmina")
    raise AttributeError(f"module 'kasmina' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Everything that `__getattr__` answers."""
    return sorted({*globals(), *__all__, *_ROOMS, "__version__"})
