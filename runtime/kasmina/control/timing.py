"""When growth begins."""

from __future__ import annotations

from kasmina.growth.controller import Observation

FIRST, LAST = 0.35, 0.7  # shares of a run
STEPS_LEFT = 1650


def first_wave(seen: Observation, *, warm_up: int, first: float, steps_left: int) -> int:
    """The epoch at whose end the first seeds germinate, from the length of the epochs so far.

    Args:
        seen: at the end of an epoch.
        warm_up: the first epoch that may be.
        first: share of the planned epochs before it.
        steps_left: optimizer steps that should be left then; goes before `first`.
    """
    epochs, steps = seen.epochs or 0, seen.step / max(seen.epoch, 1)
    latest = epochs - steps_left / max(steps, 1)
    return max(warm_up, int(min(first * epochs, latest)))
