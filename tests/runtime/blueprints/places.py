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
    "parallel flat sequence": SiteShape("parallel", 24, 6, (8, 3), sequence=True),
    "parallel equal signal": SiteShape("parallel", 12, 12, (3, 4)),
    "parallel tokens": SiteShape("parallel", 4, 6, (5, 4), sequence=True),
    "inline tokens": SiteShape("inline", 3, 3, (5, 6), sequence=True),
    "parallel signal": SiteShape("parallel", 3, 5, (3, 9), True, (5, 9)),
    "parallel smaller picture": SiteShape("parallel", 3, 5, (3, 8, 8), True, (5, 4, 4)),
}
KINDS = (
    *("mlp", "low_rank", "gated", "affine", "conv", "separable", "attention", "squeeze_excite"),
    "causal_conv",
)


def fits(place: str, kind: str) -> bool:
    """Whether a kind can be at a place; tests/.../test_kinds.py holds it against the kinds."""
    shape = PLACES[place]
    if kind in ("conv", "separable"):
        return shape.layout is not None and not shape.tokens
    if kind == "causal_conv":
        return bool(shape.tokens)
    if kind == "attention" and shape.layout is None:
        return False
    if kind in ("affine", "squeeze_excite") and shape.d_in != shape.d_out:
        return False
    return place != "parallel smaller picture"


FITTING = [(place, kind) for place in PLACES for kind in KINDS if fits(place, kind)]


def made(place: str, kind: str, hidden: int = 6) -> Blueprint:
    """A kind at a place."""
    return blueprint_kind(kind)(PLACES[place], hidden)


def what_it_reads(shape: SiteShape, seeds: int, examples: int) -> Tensor:
    """Random input of the form that the place gives; an example of tokens is several rows."""
    examples *= shape.tokens or 1
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
