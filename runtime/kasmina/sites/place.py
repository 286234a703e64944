"""Where a site is, and what may grow there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kasmina.blueprints import SiteShape
from kasmina.sites.site import Mode

Objective = Literal["reconstruction", "functional_gradient"]


@dataclass(frozen=True)
class Place:
    """Where a site is and what may grow there.

    Attributes:
        path: the module's name, `first..last` for a span, "." for the whole model.
        first, last: names of the modules between whose input and output it is.
        first_row: the site's first row in the state tensor; it owns `seeds` rows from there.
        seeds: how many.
        shape: the tensors of the whole site; of an inline one `d_out` is the output's features.
        kinds: what may grow; `blueprint_id` is an index into it.
        hidden: hidden units of one seed.
        mode: of inline seeds.
        options: more arguments of the kinds, by kind.
        fixed: whether no other positions (length, height, width, tokens) are legal than those of
            `shape`.
    """

    path: str
    first: str
    last: str
    first_row: int
    seeds: int
    shape: SiteShape
    kinds: tuple[str, ...]
    hidden: int = 8
    mode: Mode = "residual"
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fixed: bool = False
