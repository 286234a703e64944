"""How long a step to take along what a blueprint has learned: a line search on validation data.

The isolated training learns the direction of the negative gradient, normalised; how far to go is
found by trying. The factor is folded into the blueprint's last map, so that the ramp ends at it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kasmina.growth.planes import Bed, beds
from kasmina.sites import Garden

FACTORS = (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def line_search(
    garden: Garden, rows: Tensor, loss: Callable[[], float], factors: Sequence[float] = FACTORS
) -> dict[float, float]:
    """Scale what `rows` put out by the factor with the lowest loss at alpha 1.

    Args:
        garden: whose seeds `rows` (int64 `[S]`) are; alpha is 0 before and after.
        rows: seeds of one cohort; they are scaled together.
        loss: measures the validation loss of the model as it stands.
        factors: what to try.

    Returns:
        The losses by factor; empty where no row learned a gradient.
    """
    scaled = [bed for bed in beds(garden, rows) if bed.site.objective == "functional_gradient"]
    if not scaled:
        return {}
    learned = [{n: p[bed.slots].clone() for n, p in bed.pool.stacked().items()} for bed in scaled]
    losses = {}
    for factor in factors:
        _scale(scaled, learned, factor)
        with garden.trial(rows):
            losses[factor] = loss()
    best = min(losses, key=lambda factor: (not math.isfinite(losses[factor]), losses[factor]))
    _scale(scaled, learned, best)
    return losses


@torch.no_grad()
def _scale(scaled: list[Bed], learned: list[dict[str, Tensor]], factor: float) -> None:
    """Write `factor` times the learned blueprints into their rows."""
    for bed, values in zip(scaled, learned, strict=True):
        copy = {name: value.clone() for name, value in values.items()}
        bed.pool.kind.scale_output(copy, torch.full((len(bed.rows),), factor))
        for name, parameter in bed.pool.stacked().items():
            parameter[bed.slots] = copy[name]
