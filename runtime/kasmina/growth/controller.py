"""What decides: the protocol between the growing network and whoever steers it.

What a controller sees is declared in `observation.yaml` and generated from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kasmina_generated.observation import KindOffer, Observation, SeedTable, SiteObservation

__all__ = [
    "Command",
    "Controller",
    "Idle",
    "KindOffer",
    "Observation",
    "Proposal",
    "Scripted",
    "SeedTable",
    "SiteObservation",
]


@dataclass(frozen=True, slots=True)
class Command:
    """One event for one seed, by its row in the state tensor; never executed if it is illegal.

    `blueprint` (a kind of the seed's site) and `strategy` are for commands that germinate; None
    takes the site's first kind and the default strategy.
    """

    event: str
    row: int
    reason: str
    source: str = "user"
    blueprint: str | None = None
    strategy: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """The commands of one decision and why; no commands is a decision as well."""

    commands: tuple[Command, ...]
    reason: str


class Controller(Protocol):
    """Steers a garden. Must be deterministic in what it has observed.

    One that also has `wants_scores(epoch, epochs) -> bool` is asked before each validation whether
    sites shall be scored (`gradient_ratio`, `bottleneck`), which costs a backward pass; the scores
    of one site alone, and while seeds are under way, are not needed. Without it they are taken.
    """

    name: str

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Decide at an epoch's end.

        Args:
            observation: the model, its sites and all seeds.
            mask: `[N, events]`, True where the generated table lets the command pass; proposing
                anything else is an error.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a rewind or a resume must bring back."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...


class Idle:
    """A controller that never does anything."""

    name = "idle"

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Propose nothing."""
        return Proposal((), "idle")

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""


class Scripted:
    """A controller that replays commands by epoch: for tests, and to repeat a run by hand."""

    name = "scripted"

    def __init__(self, script: dict[int, Sequence[Command]]) -> None:
        self._script = {epoch: tuple(commands) for epoch, commands in script.items()}

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """Propose what the script holds for this epoch."""
        return Proposal(self._script.get(observation.epoch, ()), "script")

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep: the script is indexed by the epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to take back."""
