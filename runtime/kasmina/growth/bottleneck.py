"""Where a network is short of capacity: what new units at a site could still save.

The existing weights have followed the gradient as far as their features allow. What more features of
the site's input could explain of the loss's gradient at its output is what the site lacks
(Verbockhaven et al. 2024, TINY, solve for the best new units of a layer in closed form; here units
are drawn and their fit is tested on data that it has not seen). The share is weighted by the squared
norms of an example's gradient and output, whose product does not change where a layer is scaled up
and the next one down, over the root of what a unit costs. `kasmina bench where` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kasmina.lifecycle import generator
from kasmina.sites import Passage, SiteLayer

UNITS, DRAWS = 64, 4
MOST = 8192  # examples that are looked at
RIDGE = 0.1  # over the mean square of the features, times the root of their number


def bottleneck(site: SiteLayer, passages: Sequence[Passage]) -> float:
    """The score of a site, 0 or more; NaN where nothing usable was recorded."""
    if not passages:
        return float("nan")
    x, gradient, output = (
        torch.cat(parts).flatten(0, -2)[:MOST].double()
        for parts in zip(*(_rows(site, each) for each in passages), strict=True)
    )
    if len(x) < 8 or len(x) != len(gradient) or not all(_finite(x, gradient, output)):
        return float("nan")
    size = float(gradient.square().sum(1).mean() * output.square().sum(1).mean())
    price = x.shape[1] + gradient.shape[1]  # parameters of a unit
    return float(explained(x, -gradient) * size / price**0.5)


def explained(x: Tensor, target: Tensor) -> float:
    """The share of `target` `[N, o]` that drawn units of `x` `[N, i]` explain, out of sample."""
    product = made = wanted = 0.0
    halves = (slice(0, None, 2), slice(1, None, 2))
    for draw in range(DRAWS):
        features = _features(x, draw)
        for fit, test in (halves, halves[::-1]):
            gram = features[fit].T @ features[fit]
            ridge = RIDGE * gram.diagonal().mean() * UNITS**0.5
            gram.diagonal().add_(ridge + torch.finfo(gram.dtype).tiny)
            weights = torch.linalg.solve(gram, features[fit].T @ target[fit])
            found = features[test] @ weights
            product += float((found * target[test]).sum())
            made += float(found.square().sum())
            wanted += float(target[test].square().sum())
    norm = (made * wanted) ** 0.5
    return max(product / norm, 0.0) ** 2 if norm > 0 else 0.0


def _features(x: Tensor, draw: int) -> Tensor:
    """Drawn ReLU units of the standardised input, `[N, UNITS]`; the same for each `draw`."""
    stream = generator(draw, "bottleneck", x.shape[1], 0, "units")
    weight = torch.randn(x.shape[1], UNITS, generator=stream).to(x)
    bias = torch.randn(UNITS, generator=stream).to(x)
    scaled = (x - x.mean(0)) / x.std(0).clamp_min(1e-6)
    return torch.relu(scaled @ weight / x.shape[1] ** 0.5 + bias)


def _rows(site: SiteLayer, passage: Passage) -> tuple[Tensor, Tensor, Tensor]:
    """Input, gradient and output of a pass, each with the features last."""
    whole = torch.arange(site.n_seeds, device=passage.input.device)
    read = site.blueprint_input(passage.input, whole)
    gradient, output = (
        site.blueprint_output(each, whole) for each in (passage.gradient, passage.output)
    )
    return _last(site, read), _last(site, gradient), _last(site, output)


def _last(site: SiteLayer, values: Tensor) -> Tensor:
    return values.movedim(1, -1) if site.shape.channels_first else values


def _finite(*values: Tensor) -> list[bool]:
    return [bool(each.isfinite().all()) for each in values]
