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

from kasmina.blueprints import SiteShape
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
    lazy = [name for name, p in model.named_parameters() if is_lazy(p)]
    if lazy:
        raise SiteError(
            f"{', '.join(lazy)} has no shape yet; run one batch through the model, then morph it"
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
        out = self._written()
        if self._spot.site.sequence and not out.channels_first:
            return self._sequences(out)
        if self._spot.site.placement == "inline":
            layout = self._positions(out, self._end.y if self._end else None)
            return SiteShape("inline", out.number, out.number, layout, out.channels_first, layout)
        return self._parallel(out)

    def _parallel(self, out: Features) -> SiteShape:
        into = self._read(out)
        site, x = self._spot.site, self._start.x if self._start else None
        if into.channels_first and out.channels_first:
            y = self._end.y if self._end else None
            layout, out_layout = self._positions(into, x), self._positions(out, y)
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
            return SiteShape("parallel", prod(layout), out.number, site.axes or layout)
        return SiteShape("parallel", into.number, out.number, site.axes)

    def _sequences(self, out: Features) -> SiteShape:
        """A site with a declared layout of tokens, whose rows are tokens or whole examples."""
        site = self._spot.site
        assert site.axes is not None
        tokens, features = site.axes
        inline = site.placement == "inline"
        into = out if inline else self._read(out)
        number = prod(site.axes) if self._is_flattened() and not inline else into.number
        shape = SiteShape(site.placement, number, out.number, site.axes, sequence=True)
        seen = self._end if inline else self._start
        axes = None if seen is None else seen.y if inline else seen.x
        told = axes is not None and shape.tokens and tuple(axes[1:]) != (tokens, features)
        if told or (inline and number != features):
            what = f"the example gives {tuple(axes[1:])}" if told and axes else f"it has {number}"
            raise SiteError(
                f"site {self._spot.path!r}: layout {site.layout} says {tokens} tokens of {features} "
                f"features, but {what}"
            )
        return shape

    def _is_flattened(self) -> bool:
        """Whether `[B, ...]` becomes `[B, features]` inside the site."""
        if self._start is None or self._end is None:
            return False
        x, y = self._start.x, self._end.y
        return x is not None and y is not None and len(x) > len(y) == 2 and x[0] == y[0]

    def _positions(
        self, features: Features, shape: tuple[int, ...] | None
    ) -> tuple[int, ...] | None:
        """One example of a channel-first tensor."""
        return tuple(shape[1:]) if features.channels_first and shape is not None else None

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
        if first == last or last.rpartition(".")[0] != parent:
            return None
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
