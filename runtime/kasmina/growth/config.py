"""Settings of a run and of its Gardener."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral

from kasmina.errors import KasminaError
from kasmina.growth.divergence import Triggers
from kasmina.lifecycle import Lifecycle


@dataclass(frozen=True, slots=True)
class GrowConfig:
    """What one run is told; None takes the task's default.

    Attributes:
        width: width of the start network.
        budget: parameters that the network may have in the end.
        epochs: epochs to train, 1 or more.
        seed: of the start network, the batches and everything of Kasmina's own.
        compare: also train the static start network and a static one of the final size.
        lifecycle: another lifecycle than the built-in one.
        limits: overrides of its limits.
    """

    width: int | None = None
    budget: int | None = None
    epochs: int | None = None
    seed: int = 0
    compare: bool = False
    lifecycle: Lifecycle | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GardenerConfig:
    """Settings of the loop.

    Attributes:
        budget: parameters that the grown network may have in the end; None for no bound.
        epochs: planned epochs, after which no seed is under way: see `Gardener.conclude`; None if
            open.
        ramp_steps: optimizer steps of an alpha ramp; a ramp up has fewer where an epoch has so few
            that its state's time would be out before.
        aside_rate: learning rate of the isolated training.
        aside_most: positions (tokens, pixels) of a batch that the isolated training reads at most.
        max_rewinds: rewinds of one site after which nothing germinates there any more.
        strategy: grafting strategy of a command that names none; "learned" lets the run find out.
        contest: epochs that candidates of several kinds learn before one of them is chosen.
        held_out_every: optimizer steps between two measurements of a ramp on validation data.
        twin_sample: every so many cohorts one is held against its true control, whatever the
            integrals say; 0 for none.
        twin_parameters: the largest network of which a control is trained.
        rent: nats of validation loss that a seed with as many parameters as the host must surely save
            in order to stay, less for fewer: see `growth.rent`.
        triggers: when a cohort counts as diverged and is taken back.
    """

    budget: int | None = None
    epochs: int | None = None
    ramp_steps: int = 60
    aside_rate: float = 1e-2
    aside_most: int = 512
    max_rewinds: int = 3
    strategy: str = "linear"
    contest: int = 8
    held_out_every: int = 10
    twin_sample: int = 4
    twin_parameters: int = 1_000_000
    rent: float = 0.001
    triggers: Triggers = field(default_factory=Triggers)

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if value is not None and not (whole and value >= least):
                raise KasminaError(
                    f"GardenerConfig({name}={value!r}): it must be a whole number, {least} or more"
                )
        for name in ("aside_rate", "rent"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise KasminaError(f"GardenerConfig({name}={value!r}): it must be a number")
        if not (0 < self.aside_rate < math.inf):
            raise KasminaError(
                f"GardenerConfig(aside_rate={self.aside_rate}): a learning rate must be above 0"
            )
        if not (0 <= self.rent < math.inf):
            raise KasminaError(
                f"GardenerConfig(rent={self.rent}): it is a finite number of nats, 0 or more; 0 asks "
                "for no rent"
            )


_LEAST = {
    **dict.fromkeys(("epochs", "ramp_steps", "aside_most", "contest", "held_out_every"), 1),
    **dict.fromkeys(("budget", "max_rewinds", "twin_sample", "twin_parameters"), 0),
}
