"""What decides: the protocol between the growing network and whoever steers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


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
class KindOffer:
    """A kind of blueprint that a site can grow, and what one seed of it would cost."""

    name: str
    parameters: int
    flops: int  # of one forward pass of one example


@dataclass(frozen=True, slots=True)
class SiteObservation:
    """One site; its seeds are the rows `[first_row, first_row + seeds)`."""

    path: str
    placement: str
    first_row: int
    seeds: int
    kinds: tuple[KindOffer, ...]
    rewinds: int
    embargoed: bool  # too many rewinds: nothing germinates here any more
    gradient_ratio: float  # RMS of the loss gradient at the site's output over the output's RMS


@dataclass(frozen=True, slots=True)
class SeedTable:
    """All seeds, one entry a row of the state tensor; arrays are `[N]` and not to be written."""

    state: NDArray[np.int8]
    epochs: NDArray[np.int16]
    generation: NDArray[np.int32]
    alpha: NDArray[np.float32]
    holds_blueprint: NDArray[np.bool_]
    mean: NDArray[np.float32]  # of what last passed the seed; NaN where nothing was sampled
    deviation: NDArray[np.float32]
    nonfinite: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Observation:
    """What a controller sees at an epoch's end; losses in nats, the metric as the task gives it."""

    epoch: int
    epochs: int | None  # planned, if known
    step: int
    train_loss: float
    validation_loss: float
    validation_metric: float
    parameters: int  # host and all seeds that hold or await a blueprint
    budget: int | None
    sites: tuple[SiteObservation, ...]
    seeds: SeedTable
    commands: tuple[str, ...]  # the events, in the order of the mask's columns
    busy: int  # seeds on their way: neither initial nor terminal


@dataclass(frozen=True, slots=True)
class Proposal:
    """The commands of one decision and why; no commands is a decision as well."""

    commands: tuple[Command, ...]
    reason: str


class Controller(Protocol):
    """Steers a garden. Must be deterministic in what it has observed."""

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
