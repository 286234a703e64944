"""Places of every form, and what a seed reads there."""

from __future__ import annotations

import torch
from torch import Tensor

from kasmina.blueprints import Blueprint, SiteShape, blueprint_kind

PLACES = {
    "inline features": SiteShape("inline", 5, 5),
    "inline signal": SiteShape("inline", 2, 2, (4, 9), True, (4, 9)),
    "inline picture": SiteShape("inline", 3, 3, (6, 5, 4), True, (6, 5, 4)),
    "parallel features": SiteShape("parallel", 7, 7),
    "parallel flat signal": SiteShape("parallel", 40, 6, (1, 40)),
    "parallel flat picture": SiteShape("parallel", 64, 6, (1, 8, 8)),
    "parallel signal": SiteShape("parallel", 3, 5, (3, 9), True, (5, 9)),
    "parallel smaller picture": SiteShape("parallel", 3, 5, (3, 8, 8), True, (5, 4, 4)),
}
KINDS = ("mlp", "low_rank", "gated", "affine", "conv")
FITTING = [
    (place, kind)
    for place, shape in PLACES.items()
    for kind in KINDS
    if not (kind == "affine" and shape.d_in != shape.d_out)
    and not (kind == "conv" and shape.layout is None)
    and not (kind != "conv" and place == "parallel smaller picture")
]


def made(place: str, kind: str, hidden: int = 6) -> Blueprint:
    """A kind at a place."""
    return blueprint_kind(kind)(PLACES[place], hidden)


def what_it_reads(shape: SiteShape, seeds: int, examples: int) -> Tensor:
    """Random input of the form that the place gives."""
    rest = shape.layout[1:] if shape.channels_first and shape.layout else ()
    lead = (seeds, examples) if shape.placement == "inline" else (examples,)
    return torch.randn(*lead, shape.d_in, *rest, generator=torch.Generator().manual_seed(2))


def stacked(kind: Blueprint, seeds: int) -> dict[str, Tensor]:
    """Parameters of several seeds, none of them zero."""
    stream = torch.Generator().manual_seed(4)
    rows = [kind.init(stream) for _ in range(seeds)]
    return {
        name: torch.stack([row[name] for row in rows])
        + 0.1 * torch.randn(seeds, *rows[0][name].shape, generator=stream)
        for name in kind.shapes()
    }
