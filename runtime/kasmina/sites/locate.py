"""From what the user wrote to places in a model: which modules, which tensors, and why not.

Every refusal says what stands in the way and what to do instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from math import prod

from torch import nn
from torch.nn.parameter import is_lazy

from kasmina.blueprints import BlueprintError, SiteShape
from kasmina.sites.errors import SiteError
from kasmina.sites.example import Example, Seen, run
from kasmina.sites.shapes import Features, reads, writes
from kasmina.sites.site import Site

WHOLE = "."  # the path of the whole model, whose name is empty


@dataclass(frozen=True, slots=True)
class Spot:
    """One place that a `Site` matched."""

    site: Site
    path: str
    first: str  # names of the modules that it begins and ends with
    last: str
    start: nn.Module
    end: nn.Module


def locate(model: nn.Module, sites: Sequence[Site]) -> list[Spot]:
    """All places of `sites`, in the order of sites and modules; raises `SiteError`."""
    modules = dict(model.named_modules())
    spots = [spot for site in sites for spot in _matches(site, modules)]
    taken: dict[str, Site] = {}
    for spot in spots:
        if spot.path in taken:
            raise SiteError(
                f"two sites at {spot.path!r}: {taken[spot.path]} and {spot.site}. Put all kinds "
                "into one site (blueprint=(...)), or place the second one at a module inside"
            )
        taken[spot.path] = spot.site
    _refuse_shared(model, spots)
    return spots


def _matches(site: Site, modules: Mapping[str, nn.Module]) -> list[Spot]:
    pattern = "" if site.pattern == WHOLE else site.pattern
    names = [name for name in modules if fnmatchcase(name, pattern)] if pattern else [""]
    if not names:
        raise SiteError(f"Site({site.pattern!r}) matches no module; {_near(pattern, modules)}")
    return [_spot(site, name, modules) for name in names]


def _spot(site: Site, name: str, modules: Mapping[str, nn.Module]) -> Spot:
    last = name if site.until is None else _until(site.until, name, modules)
    path = (name or WHOLE) if last == name else f"{name or WHOLE}..{last}"
    return Spot(site, path, name, last, modules[name], modules[last])


def _until(until: str, name: str, modules: Mapping[str, nn.Module]) -> str:
    """The name of a span's last module: a sibling of the first one, or from the root."""
    if until in ("", WHOLE):
        return ""
    parent, _, _ = name.rpartition(".")
    sibling = f"{parent}.{until}" if parent else until
    for candidate in (sibling, until):
        if candidate in modules:
            return candidate
    raise SiteError(f"until={until!r}: no such module beside {name!r}; {_near(until, modules)}")


def _near(pattern: str, modules: Mapping[str, nn.Module]) -> str:
    names = [name for name in modules if name]
    near = get_close_matches(pattern, names, n=5, cutoff=0.4)
    if near:
        return f"near ones: {', '.join(near)}"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"the model has: {shown}" if names else "the model has no modules inside"


def _refuse_shared(model: nn.Module, spots: Sequence[Spot]) -> None:
    names: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for spot in spots:
        for module in (spot.start, spot.end):
            if len(names[id(module)]) > 1:
                raise SiteError(
                    f"site {spot.path!r}: one module stands at {' and '.join(names[id(module)])}, "
                    "so it runs more than once in a pass and a seed there would not know which "
                    "one it serves. Place the site around both, or give each its own module"
                )


def refuse_unfit(model: nn.Module) -> None:
    """Raise `SiteError` where a model cannot be morphed at all."""
    if hasattr(model, "kasmina"):
        raise SiteError(
            "the model has been morphed already, or has an attribute 'kasmina' of its own; name "
            "all sites in one call of morph(), on a fresh model"
        )
    if hasattr(model, "_orig_mod"):
        raise SiteError("the model is compiled; morph it first, then torch.compile it")
    held = (*model.named_parameters(), *model.named_buffers())
    lazy = [name for name, value in held if is_lazy(value)]
    if lazy:
        raise SiteError(
            f"{', '.join(lazy)} has no shape yet; run one batch through the model, then morph it"
        )
    meta = [name for name, value in held if value.is_meta]
    if meta:
        raise SiteError(
            f"{', '.join(meta[:3])}{', ...' if len(meta) > 3 else ''}: on the meta device, without "
            "values; give them a device by model.to_empty(device=...) and values, then morph it"
        )


def shapes(model: nn.Module, spots: Sequence[Spot], example: Example | None) -> list[SiteShape]:
    """The tensors of each spot, from an example where there is one; raises `SiteError`."""
    seen: dict[int, Seen] = {}
    if example is not None:
        seen = run(model, example, {m for spot in spots for m in (spot.start, spot.end)})
    for spot in spots:
        if seen:
            _refuse_seen(spot, seen[id(spot.start)], seen[id(spot.end)])
    return [_Shaping(spot, model, seen).shape() for spot in spots]


def _refuse_seen(spot: Spot, start: Seen, end: Seen) -> None:
    where = f"site {spot.path!r}"
    for name, seen in ((spot.first, start), (spot.last, end)):
        if seen.calls != 1:
            raise SiteError(
                f"{where}: module {name or WHOLE!r} ran {seen.calls} times in one pass of the "
                "example; a site needs exactly one. "
                + (
                    "Place it at a module around the repetition"
                    if seen.calls
                    else "It may be bypassed; place the site at the module that holds it"
                )
            )
    if end.y is None:
        raise SiteError(
            f"{where}: module {spot.last or WHOLE!r} returned {end.returned}; seeds act on a "
            "tensor, or on a tuple that begins with one. Place the site at a module inside that "
            "returns a tensor"
        )
    if len(end.y) < 2 or not end.y_floats:
        what = f"{tuple(end.y)}" if end.y_floats else "of whole numbers or complex ones"
        raise SiteError(
            f"{where}: module {spot.last or WHOLE!r} returned a tensor {what}; seeds act on "
            "floating-point numbers [B, features] or [B, C, ...]. Place the site where these pass"
        )
    if spot.first != spot.last and start.order > end.order and not _holds(spot.first, spot.last):
        raise SiteError(f"{where}: {spot.last!r} ran before {spot.first!r}; name them in order")
    if spot.site.placement == "parallel" and not (start.x is not None and start.x_floats):
        raise SiteError(
            f"{where}: parallel seeds read the input of {spot.first or WHOLE!r}, which is no "
            "tensor of floating-point numbers; use placement='inline' here"
        )


def _holds(outer: str, inner: str) -> bool:
    return not outer or inner.startswith(f"{outer}.")


class _Shaping:
    """Works out the tensors of one spot."""

    def __init__(self, spot: Spot, model: nn.Module, seen: Mapping[int, Seen]) -> None:
        self._spot, self._model = spot, model
        self._start, self._end = seen.get(id(spot.start)), seen.get(id(spot.end))

    def shape(self) -> SiteShape:
        try:
            return self._shape()
        except BlueprintError as error:
            raise SiteError(f"site {self._spot.path!r}: {error}") from error

    def _shape(self) -> SiteShape:
        out, site = self._written(), self._spot.site
        if site.sequence and not out.channels_first:
            return self._sequences(out)
        if site.placement == "parallel":
            return self._parallel(out)
        if site.layout is not None and not out.channels_first:
            raise SiteError(
                f"site {self._spot.path!r}: layout {site.layout} is of a signal or picture, but "
                "inline seeds transform chunks of plain features here, which have no neighbours; "
                "drop the layout, or use placement='parallel'"
            )
        layout = self._channels(out, self._end.y if self._end else None)
        return SiteShape("inline", out.number, out.number, layout, out.channels_first, layout)

    def _parallel(self, out: Features) -> SiteShape:
        into = self._read(out)
        site, x = self._spot.site, self._start.x if self._start else None
        if into.channels_first and out.channels_first:
            y = self._end.y if self._end else None
            layout, out_layout = self._channels(into, x), self._positions(y)
            return SiteShape("parallel", into.number, out.number, layout, True, out_layout)
        if out.channels_first:
            raise SiteError(
                f"site {self._spot.path!r}: its input has features last and its output channels "
                "first; no seed maps between the two. Place the site where both are alike"
            )
        if into.channels_first or self._is_flattened():
            if x is None:
                raise self._unknown("input")
            layout = tuple(x[1:])
            if site.axes is not None and len(site.axes) == len(layout):
                self._refuse_other(layout, site.axes)
            return SiteShape("parallel", prod(layout), out.number, site.axes or layout)
        return SiteShape("parallel", into.number, out.number, site.axes)

    def _sequences(self, out: Features) -> SiteShape:
        """A site with a declared layout of tokens, whose rows are tokens or whole examples."""
        site = self._spot.site
        assert site.axes is not None
        inline = site.placement == "inline"
        into = out if inline else self._read(out)
        seen = self._end if inline else self._start
        axes = None if seen is None else seen.y if inline else seen.x
        flattened = self._is_flattened() and not inline
        number = prod(axes[1:]) if flattened and axes is not None else into.number
        tokens, features = site.axes if len(site.axes) == 2 else (*site.axes, into.number)
        if inline and number != features:
            raise SiteError(
                f"site {self._spot.path!r}: layout {site.layout} says {tokens} tokens of {features} "
                f"features, but it has {number}"
            )
        apart = len(axes) == 3 if flattened and axes is not None else number == features
        if axes is not None and apart:
            self._refuse_other(tuple(axes[1:]), (tokens, features))
        return SiteShape(site.placement, number, out.number, (tokens, features), sequence=True)

    def _refuse_other(self, seen: tuple[int, ...], declared: tuple[int, ...] | None) -> None:
        """Refuse a declared layout that the example contradicts."""
        site = self._spot.site
        if declared != seen:
            raise SiteError(
                f"site {self._spot.path!r}: layout {site.layout} is declared, but one example of "
                f"what its seeds read has the shape {seen}; declare that, or no layout"
                + (" (axis 0 is the batch, axis 1 the tokens)" if site.sequence else "")
            )

    def _is_flattened(self) -> bool:
        """Whether `[B, ...]` becomes `[B, features]` inside the site."""
        if self._start is None or self._end is None:
            return False
        x, y = self._start.x, self._end.y
        return x is not None and y is not None and len(x) > len(y) == 2 and x[0] == y[0]

    def _positions(self, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        """One example of a channel-first tensor."""
        return None if shape is None else tuple(shape[1:])

    def _channels(
        self, features: Features, shape: tuple[int, ...] | None
    ) -> tuple[int, ...] | None:
        """The layout of what seeds read where its channels are on axis 1; the declared one counts."""
        site, seen = self._spot.site, self._positions(shape)
        if not features.channels_first or site.layout is None:
            return seen if features.channels_first else None
        if site.sequence:
            raise SiteError(
                f"site {self._spot.path!r}: layout {site.layout} is of tokens with their features "
                "last, but the site's tensors have channels on axis 1; declare (channels, length) "
                "or (channels, height, width), or channels_first=False"
            )
        if seen is not None:
            self._refuse_other(seen, site.axes)
        elif site.axes is not None and site.axes[0] != features.number:
            raise SiteError(
                f"site {self._spot.path!r}: layout {site.layout} says {site.axes[0]} channels, but "
                f"what its seeds read has {features.number}"
            )
        return site.axes

    def _written(self) -> Features:
        site = self._spot.site
        found = self._end.writes(self._spot.end) if self._end else self._told_written()
        if site.features is not None:
            found = Features(site.features, found.channels_first if found else False)
        if found is None:
            raise self._unknown("output")
        if site.channels_first is not None and found.channels_first != site.channels_first:
            return self._turned(found, site.channels_first)
        return found

    def _turned(self, found: Features, channels_first: bool) -> Features:
        """The user knows better where the features are."""
        shape = self._end.y if self._end else None
        number = found.number if shape is None else shape[1 if channels_first else -1]
        return Features(self._spot.site.features or number, channels_first)

    def _told_written(self) -> Features | None:
        span = self._sequence()
        return writes(span if span is not None else self._spot.end)

    def _read(self, out: Features) -> Features:
        if self._start is not None:
            found = self._start.reads(self._spot.start)
        else:
            span = self._sequence()
            found = reads(span if span is not None else self._spot.start)
        if found is None:
            raise self._unknown("input")
        return found

    def _sequence(self) -> nn.Sequential | None:
        """The span as a module of its own, where its ends stand in one nn.Sequential."""
        first, last = self._spot.first, self._spot.last
        parent, _, begin = first.rpartition(".")
        holder = self._model.get_submodule(parent)
        if "" in (first, last) or first == last or last.rpartition(".")[0] != parent:
            return None  # the whole model, whose name is empty, is no sibling
        if not isinstance(holder, nn.Sequential):
            return None
        names = [name for name, _ in holder.named_children()]
        between = names[names.index(begin) : names.index(last.rpartition(".")[2]) + 1]
        return nn.Sequential(*(holder.get_submodule(name) for name in between))

    def _unknown(self, what: str) -> SiteError:
        kind = type(self._spot.end if what == "output" else self._spot.start).__name__
        also = ", or the site features=" if what == "output" else ""
        return SiteError(
            f"site {self._spot.path!r}: {kind} does not tell the features of its {what}; give "
            f"morph() one batch as example={also}"
        )
