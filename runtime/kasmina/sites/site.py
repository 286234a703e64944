"""Where seeds shall live, as the user says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kasmina.blueprints import (
    BlueprintError,
    Legal,
    OneOf,
    Placement,
    Whole,
    blueprint_kind,
    check_options,
)
from kasmina.sites.errors import SiteError

Mode = Literal["residual", "replace"]
_PLACEMENTS = ("inline", "parallel")
_MODES = ("residual", "replace")
_LEGAL: Mapping[str, Legal] = {
    "seeds": Whole(most=2**20),
    "hidden": Whole(),
    "features": Whole(most=2**31, or_none=True),
    "channels_first": OneOf(None, True, False),
}
SEQUENCE = "sequence"  # the first word of a layout of tokens


@dataclass(frozen=True)
class Site:
    """Every module of the model whose name matches `pattern` becomes a site.

    Attributes:
        pattern: as in `fnmatch`, over the names of `model.named_modules()`; `*` matches dots too.
            "" or "." is the whole model.
        until: name of a later module, beside the matched one or from the root, or "." for the
            whole model: the site spans from the matched module's input to the output of `until`.
        placement: `parallel` seeds read the site's input and add to its output, `inline` seeds
            transform its output chunk by chunk.
        seeds: seeds in each matched place, 1 to 1,048,576; inline at most as many as features.
        blueprint: a kind, or several that compete.
        hidden: hidden units (channels, rank) of one seed, 1 to 65,536.
        mode: what an inline seed does at full alpha: add to its chunk or replace it.
        layout: shape of one example of what the seeds read: a signal `(channels, length)`, picture
            `(channels, height, width)` or sequence `("sequence", tokens, features)`, flattened or
            not; `("sequence", tokens)` where each token is a row of as many features as the module
            has. Axis 0 of a tensor is always the batch: a host that wants time there
            (`batch_first=False`) has no sequences for a site. Kinds that look at several positions or tokens need it where the features come
            last. Other shapes are then refused, by `morph` and in each pass; without it lengths
            and sizes may vary as far as the host lets them, unless it moves positions (a stride).
        features: features of the site's output, where neither the module nor an example tells.
        channels_first: whether the site's tensors are `[B, C, ...]`; None finds out.
        options: more arguments of the kinds, by kind, e.g. `{"conv": {"layers": 2}}`; their `hidden` goes
            before the site's.

    Raises:
        SiteError: a value is none of these, or not one that its kind takes.
        BlueprintError: there is no such kind.
    """

    pattern: str
    until: str | None = field(default=None, kw_only=True)
    placement: Placement = field(default="parallel", kw_only=True)
    seeds: int = field(default=8, kw_only=True)
    blueprint: str | tuple[str, ...] = field(default="mlp", kw_only=True)
    hidden: int = field(default=8, kw_only=True)
    mode: Mode = field(default="residual", kw_only=True)
    layout: tuple[int | str, ...] | None = field(default=None, kw_only=True)
    features: int | None = field(default=None, kw_only=True)
    channels_first: bool | None = field(default=None, kw_only=True)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        where = f"Site({self.pattern!r})"
        if not isinstance(self.pattern, str):
            raise SiteError(f"{where}: the pattern must be a name like 'blocks.*.mlp'")
        if not isinstance(self.until, str | None):
            raise SiteError(f"{where}: until={self.until!r}; legal: a module's name, or None")
        for name, legal in _LEGAL.items():
            value = getattr(self, name)
            if not legal.takes(value):
                raise SiteError(f"{where}: {name}={value!r}; legal: {legal}")
        if self.placement not in _PLACEMENTS:
            raise SiteError(
                f"{where}: placement {self.placement!r}; legal: {', '.join(_PLACEMENTS)}"
            )
        if self.mode not in _MODES:
            raise SiteError(f"{where}: mode {self.mode!r}; legal: {', '.join(_MODES)}")
        if self.placement == "parallel" and self.mode == "replace":
            raise SiteError(f"{where}: a parallel seed adds; mode='replace' is for inline seeds")
        if self.layout is not None and not is_layout(self.layout):
            raise SiteError(
                f"{where}: layout {self.layout!r}; legal: (channels, length), (channels, height, "
                "width) or ('sequence', tokens, features), whole numbers from 1 on"
            )
        self._check_kinds(where)
        self._check_options(where)

    def _check_kinds(self, where: str) -> None:
        given = self.blueprint
        if not isinstance(given, str) and not (
            isinstance(given, list | tuple) and all(isinstance(kind, str) for kind in given)
        ):
            raise SiteError(
                f"{where}: blueprint={given!r}; legal: a kind's name like 'mlp', or a tuple of names"
            )
        if not self.kinds:
            raise SiteError(f"{where}: blueprint is empty; name at least one kind")
        if len(set(self.kinds)) < len(self.kinds):
            raise SiteError(f"{where}: blueprint={given!r}; name each kind once")
        for kind in self.kinds:
            blueprint_kind(kind)

    def _check_options(self, where: str) -> None:
        given = self.options
        if not isinstance(given, Mapping) or not all(
            isinstance(own, Mapping) and all(isinstance(name, str) for name in own)
            for own in given.values()
        ):
            raise SiteError(
                f"{where}: options={given!r}; legal: options by kind, like "
                "{'conv': {'layers': 2}}"
            )
        unused = [str(kind) for kind in given if kind not in self.kinds]
        if unused:
            raise SiteError(
                f"{where}: options for {', '.join(sorted(unused))}, which the site does not grow; "
                f"it grows {', '.join(self.kinds)}"
            )
        for kind, own in given.items():
            try:
                check_options(kind, own)
            except BlueprintError as error:
                raise SiteError(f"{where}: {error}") from error

    @property
    def sequence(self) -> bool:
        """Whether the declared layout is one of tokens."""
        return self.layout is not None and self.layout[0] == SEQUENCE

    @property
    def axes(self) -> tuple[int, ...] | None:
        """The declared layout in numbers."""
        if self.layout is None:
            return None
        return tuple(axis for axis in self.layout if isinstance(axis, int))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds; a seed's `blueprint_id` is an index into them."""
        return (self.blueprint,) if isinstance(self.blueprint, str) else tuple(self.blueprint)


def is_layout(layout: object) -> bool:
    """Whether it is one of the forms that `Site.layout` may have."""
    if not isinstance(layout, tuple):
        return False
    tokens = layout[:1] == (SEQUENCE,)
    axes = [n for n in layout[tokens:] if isinstance(n, int) and not isinstance(n, bool) and n > 0]
    return len(axes) == len(layout) - tokens and len(axes) in ((1, 2) if tokens else (2, 3))
