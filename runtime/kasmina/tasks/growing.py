"""What may grow at a site of a built-in task: every kind that fits there, in one size for all tasks.

Nobody tells a run which kind is right: the candidates compete (see `kasmina.growth.contest`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kasmina.sites import Site

# One configuration for all tasks, fixed by runs on seeds that are not reported.
DENSE = ("low_rank", "mlp", "gated")
SPATIAL = ("conv", "separable", "attention")  # these need a layout
SEQUENTIAL = ("causal_conv", "attention")  # of tokens, none of which sees those after it
SIZES: dict[str, dict[str, Any]] = {
    "low_rank": {"hidden": 16},
    "mlp": {"hidden": 36},
    "gated": {"hidden": 20},
    "conv": {"hidden": 12},
    "separable": {"hidden": 16},
    "causal_conv": {"hidden": 64},
    "attention": {"hidden": 8},
}
SEEDS = 24


def any_kind(pattern: str, layout: tuple[int | str, ...] | None = None) -> Site:
    """A parallel site at `pattern` that may grow every kind; `layout` as in `Site`."""
    from kasmina.sites import Site

    kinds: tuple[str, ...] = DENSE
    if layout is not None:
        kinds += SEQUENTIAL if layout[0] == "sequence" else SPATIAL
    options = {kind: SIZES[kind] for kind in kinds}
    return Site(pattern, seeds=SEEDS, blueprint=kinds, layout=layout, options=options)
