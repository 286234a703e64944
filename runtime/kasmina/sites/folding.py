"""Taking Kasmina out of a grown model and leaving what has grown."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from kasmina.sites.chunked import InlineSite
from kasmina.sites.garden import RESERVED, Garden
from kasmina.sites.layer import SiteLayer
from kasmina.sites.plain import Chunk, GrownInline, GrownParallel, SpanEnd, SpanStart


def fold(model: nn.Module) -> nn.Module:
    """A plain copy of a grown model: torch's modules and a few small ones around the sites.

    The seeds that act stay (planes blend, full and withdraw, alpha above 0), with alpha folded
    into their last map; a module at which some act is wrapped, so its keys begin with `host.`.
    Everything else keeps its keys. Outputs are those of the model up to rounding.

    Args:
        model: a morphed model; it is not changed.

    Raises:
        SiteError: the model has not been morphed.
    """
    garden = Garden.of(model)
    rows = garden.acting().nonzero().flatten().tolist()
    grown = [
        (site, seeds)
        for site in garden.sites.values()
        if (seeds := [row - site.first_row for row in rows if garden.site_of(row) is site])
    ]
    folded = _without_kasmina(copy.deepcopy(model))
    blocks = [site for site, _ in grown if _is_block(folded, site, [s for s, _ in grown])]
    for site, seeds in sorted(grown, key=lambda pair: pair[0] in blocks):  # blocks swallow last
        folded = _Fold(folded, garden, site, seeds).folded(as_block=site in blocks)
    return folded


def _without_kasmina(model: nn.Module) -> nn.Module:
    """Take our hooks and our submodule out, and nobody else's."""
    for module in model.modules():
        for hooks, marked in (
            (module._forward_hooks, module._forward_hooks_with_kwargs),
            (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        ):
            for number, hook in list(hooks.items()):
                if isinstance(getattr(hook, "__self__", None), SiteLayer):
                    del hooks[number]
                    marked.pop(number, None)
    delattr(model, RESERVED)
    return model


def _is_block(model: nn.Module, site: SiteLayer, grown: Sequence[SiteLayer]) -> bool:
    """Whether a span is a run of one nn.Sequential that no other site begins or ends in."""
    first, last = site.span
    parent = first.rpartition(".")[0]
    if first == last or last.rpartition(".")[0] != parent:
        return False
    holder = model.get_submodule(parent)
    if not isinstance(holder, nn.Sequential):
        return False
    inside = {f"{parent}.{name}".lstrip(".") for name in _between(holder, first, last)}
    others = [other.span for other in grown if other is not site]
    spans = {name for span in others if span[0] != span[1] for name in span}
    return not inside & spans and (last, last) not in others and (first, first) not in others


def _between(holder: nn.Sequential, first: str, last: str) -> list[str]:
    names = [name for name, _ in holder.named_children()]
    begin, end = (names.index(name.rpartition(".")[2]) for name in (first, last))
    return names[begin : end + 1]


class _Fold:
    """Folds one site into a plain model."""

    def __init__(
        self, model: nn.Module, garden: Garden, site: SiteLayer, seeds: Sequence[int]
    ) -> None:
        self._model, self._garden, self._site, self._seeds = model, garden, site, seeds

    def folded(self, *, as_block: bool) -> nn.Module:
        """The model with the site's branches."""
        first, last = self._site.span
        if isinstance(self._site, InlineSite):
            return self._put(last, self._inline(self._site))
        branches, features = self._branches(), self._features()
        if first == last:
            return self._put(last, GrownParallel(self._at(last), branches, features))
        if as_block:
            return self._block(first, last, branches, features)
        start = SpanStart(self._at(first))
        self._model = self._put(first, start)
        return self._put(last, SpanEnd(self._at(last), branches, features, start))

    def _inline(self, site: InlineSite) -> GrownInline:
        columns = self._garden.state["alpha"]
        chunks = []
        for seed in self._seeds:
            alpha = float(columns[site.first_row + seed])
            keep = 1 - alpha if site.mode == "replace" else 1.0
            chunks.append(Chunk(site.chunks.start(seed), site.chunks.widths[seed], keep))
        axis = 1 if site.shape.channels_first else -1
        host = self._at(site.span[1])
        return GrownInline(host, self._branches(), chunks, site.chunks.width, axis)

    def _features(self) -> int | None:
        shape = self._site.shape
        return None if shape.channels_first else shape.d_in

    def _branches(self) -> list[nn.Module]:
        """A plain module for each seed, with alpha in its last map."""
        state, site = self._garden.state, self._site
        made = []
        for seed in self._seeds:
            row = site.first_row + seed
            pool = site.pool(int(state["blueprint_id"][row]))
            index = state["blueprint_slot"][row].long().view(1)
            params = {name: p.detach().clone() for name, p in pool.rows(index).items()}
            pool.kind.scale_output(params, state["alpha"][row].view(1))
            branch = pool.kind.export({name: p[0] for name, p in params.items()})
            made.append(branch.train(self._model.training))
        return made

    def _block(
        self, first: str, last: str, branches: list[nn.Module], features: int | None
    ) -> nn.Module:
        """Put a whole run of a Sequential in the first one's place; the others' stay empty."""
        parent = first.rpartition(".")[0]
        holder = self._model.get_submodule(parent)
        assert isinstance(holder, nn.Sequential)
        names = _between(holder, first, last)
        run = nn.Sequential(*(holder.get_submodule(name) for name in names))
        run.train(holder.training)
        for name in names[1:]:
            setattr(holder, name, nn.Identity())
        return self._put(first, GrownParallel(run, branches, features))

    def _at(self, name: str) -> nn.Module:
        return self._model.get_submodule(name)

    def _put(self, name: str, module: nn.Module) -> nn.Module:
        module.training = self._at(name).training
        if not name:
            return module
        parent, _, attribute = name.rpartition(".")
        setattr(self._model.get_submodule(parent), attribute, module)
        return self._model
