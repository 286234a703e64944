"""Taking Kasmina out of a grown model and leaving what has grown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from kasmina.sites.chunked import InlineSite
from kasmina.sites.comparing import refuse_other_outputs
from kasmina.sites.errors import SiteError
from kasmina.sites.example import Example
from kasmina.sites.garden import RESERVED, Garden
from kasmina.sites.layer import SiteLayer
from kasmina.sites.plain import PLAIN, Chunk, GrownInline, GrownParallel, SpanEnd, SpanStart
from kasmina.sites.writing import write


def fold(
    model: nn.Module, *, to: Path | str | None = None, example: Example | None = None
) -> nn.Module:
    """A plain copy of a grown model: torch's modules and a few small ones around the sites.

    The seeds that act stay (planes blend, full and withdraw, alpha above 0), with alpha folded
    into their last map; a module at which some act is wrapped, so its keys begin with `host.`, and
    a host that asks for its type (`isinstance`) finds another. Everything else keeps its keys.
    Outputs are those of the model up to rounding.

    Args:
        model: a morphed model; it is not changed.
        to: a directory; `model.py`, which imports torch only, and `model.safetensors` are written
            there as well.
        example: one batch, as `morph` takes it; needed with `to`. With it the outputs of both
            models are compared, in evaluation mode.

    Raises:
        SiteError: the model has not been morphed, or cannot be written as a file, or puts out
            something else on the example when it is folded.
    """
    if to is not None and example is None:
        raise SiteError("fold(to=...) traces the model; give it one batch as example=")
    garden = Garden.of(model)
    rows = garden.acting().nonzero().flatten().tolist()
    grown = [
        (site, seeds)
        for site in garden.sites.values()
        if (seeds := [row - site.first_row for row in rows if garden.site_of(row) is site])
    ]
    folded = _Folded(_without_kasmina(copy.deepcopy(model)))
    wraps = [wrap for site, seeds in grown for wrap in _Wraps(garden, site, seeds)]
    for wrap in sorted(wraps, key=_Wrap.depth, reverse=True):
        folded.wrap(wrap)
    _without_fast_path(folded.model)
    if example is not None:
        refuse_other_outputs(model, folded.model, example)
    if to is not None and example is not None:
        write(folded.model, to, example)
    return folded.model


def _without_kasmina(model: nn.Module) -> nn.Module:
    """Take our detours and our submodule out, and nobody else's."""
    for module in model.modules():
        for number, hook in list(module._forward_hooks.items()):
            if _is_ours(hook):
                del module._forward_hooks[number]
        forward = module.__dict__.get("forward")
        if _is_ours(forward):
            while forward is not None and _is_ours(forward):
                forward = forward.__self__.inside(forward)
            module.__dict__["forward"] = forward
            if isinstance(forward, partial):  # the class's own
                del module.__dict__["forward"]
    delattr(model, RESERVED)
    return model


def _is_ours(method: Any) -> bool:
    return isinstance(getattr(method, "__self__", None), SiteLayer)


def _without_fast_path(model: nn.Module) -> None:
    """Let no encoder layer go past what has grown inside it.

    In evaluation mode nn.TransformerEncoderLayer hands its parts' weights to one fused function,
    unless its activation is none that the function knows; that is what this says.
    """
    for module in model.modules():
        has_grown = any(isinstance(part, PLAIN) for part in module.modules())
        if isinstance(module, nn.TransformerEncoderLayer) and has_grown:
            module.activation_relu_or_gelu = 0


class _Wrap(NamedTuple):
    """Put `around(module)` in the place of the module `name`."""

    name: str
    around: Callable[[nn.Module], nn.Module]

    def depth(self) -> int:
        """Of the module; inner ones come before those that hold them.

        What stands at one module keeps its order, which is that of the sites' hooks.
        """
        return self.name.count(".") + 1 if self.name else 0


class _Folded:
    """A plain model whose modules are wrapped one by one."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def wrap(self, wrap: _Wrap) -> None:
        """Carry it out."""
        host = self.model.get_submodule(wrap.name)
        wrapped = wrap.around(host)
        wrapped.training = host.training
        for added in (child for child in wrapped.children() if child is not host):
            added.train(host.training)
        if not wrap.name:
            self.model = wrapped
        else:
            self._set(wrap.name, wrapped)

    def _set(self, name: str, module: nn.Module) -> None:
        parent, _, attribute = name.rpartition(".")
        setattr(self.model.get_submodule(parent), attribute, module)


class _Wraps:
    """How one site's acting seeds become branches of a plain module."""

    def __init__(self, garden: Garden, site: SiteLayer, seeds: Sequence[int]) -> None:
        self._state, self._site, self._seeds = garden.state, site, seeds

    def __iter__(self) -> Iterator[_Wrap]:
        """The wraps; a span keeps its modules where they are, since its host may look at each."""
        first, last = self._site.span
        branches, shape = self._branches(), self._site.shape
        features = None if shape.channels_first or shape.tokens else shape.d_in
        if isinstance(self._site, InlineSite):
            yield self._inline(self._site, branches)
        elif first == last:
            yield _Wrap(first, partial(GrownParallel, branches=branches, features=features))
        else:
            start = SpanStart()
            yield _Wrap(first, start.around)
            end = partial(SpanEnd, branches=branches, features=features, start=start)
            yield _Wrap(last, end)

    def _inline(self, site: InlineSite, branches: list[nn.Module]) -> _Wrap:
        chunks = [
            Chunk(site.chunks.start(seed), site.chunks.widths[seed], self._keep(seed))
            for seed in self._seeds
        ]
        around = partial(
            GrownInline,
            branches=branches,
            chunks=chunks,
            width=site.chunks.width,
            axis=1 if site.shape.channels_first else -1,
        )
        return _Wrap(site.span[1], around)

    def _keep(self, seed: int) -> float:
        """Share of the host's chunk that stays beside the seed's branch."""
        alpha = float(self._state["alpha"][self._site.first_row + seed])
        return 1 - alpha if self._site.mode == "replace" else 1.0

    def _branches(self) -> list[nn.Module]:
        """A plain module for each seed, with alpha in its last map."""
        made = []
        for seed in self._seeds:
            row = self._site.first_row + seed
            pool = self._site.pool(int(self._state["blueprint_id"][row]))
            index = self._state["blueprint_slot"][row].long().view(1)
            params = {name: p.detach().clone() for name, p in pool.rows(index).items()}
            pool.kind.scale_output(params, self._state["alpha"][row].view(1))
            made.append(pool.kind.export({name: p[0] for name, p in params.items()}))
        return made
