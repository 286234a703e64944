"""Layers with seeds that are used by hand, under the earlier system's names and arguments.

A wrapper morphs the layer that it is given. For a whole model `morph` is the shorter way, and it
keeps the model's keys; a wrapper's begin with `base_layer.`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from kasmina.grafting import strategy_by_number, strategy_number
from kasmina.lifecycle import ContextTable, Lifecycle, LimitTable, StateTensor, step
from kasmina.sites.errors import SiteError
from kasmina.sites.example import Example
from kasmina.sites.garden import Garden
from kasmina.sites.layer import SiteLayer
from kasmina.sites.morphing import morph
from kasmina.sites.site import Mode, Site


class _Layer(nn.Module):
    """A base layer that is one site."""

    def __init__(
        self,
        base_layer: nn.Module,
        site: Site,
        lifecycle: Lifecycle | None,
        example: Example | None,
    ) -> None:
        super().__init__()
        self.base_layer = morph(base_layer, [site], lifecycle=lifecycle, example=example)

    @property
    def garden(self) -> Garden:
        """The seeds; `garden.refresh()` after every change of the state."""
        return Garden.of(self.base_layer)

    @property
    def site(self) -> SiteLayer:
        """The one site."""
        (site,) = self.garden.sites.values()
        return site

    @property
    def state(self) -> StateTensor:
        """One row a seed."""
        return self.garden.state

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the base layer's; bit-equal to it while all seeds sleep."""
        return self.base_layer(*args, **kwargs)

    def request_germination(
        self, seed_id: int, blueprint_id: int | str = 0, grafting_strategy: int | str = "linear"
    ) -> bool:
        """Ask that a seed germinates.

        Args:
            seed_id: the seed, from 0.
            blueprint_id: name of a kind of the site, or its number there.
            grafting_strategy: name or number of a strategy.

        Returns:
            Whether the seed's state let it.

        Raises:
            SiteError: no such seed or kind.
            StrategyError: no such strategy.
        """
        kind = self._kind(blueprint_id)
        number = _strategy(grafting_strategy)
        if not isinstance(seed_id, int) or not 0 <= seed_id < self.site.n_seeds:
            raise SiteError(f"no seed {seed_id!r}; seeds go from 0 to {self.site.n_seeds - 1}")
        if not self._step(seed_id):
            return False
        self.state.update([seed_id], {"blueprint_id": kind, "grafting_strategy": number})
        self.garden.refresh()
        return True

    def _step(self, seed_id: int) -> bool:
        lifecycle = self.state.lifecycle
        events = torch.zeros(len(self.state), dtype=torch.int32, device=self.state.device)
        events[seed_id] = 1 << lifecycle.event("request_germination")
        context = ContextTable(len(self.state), lifecycle=lifecycle, device=self.state.device)
        result = step(self.state, events, context, LimitTable(lifecycle), tick=False)
        return seed_id in result.rows.tolist()

    def _kind(self, blueprint_id: int | str) -> int:
        kinds = self.site.kinds
        if isinstance(blueprint_id, str) and blueprint_id in kinds:
            return kinds.index(blueprint_id)
        if isinstance(blueprint_id, int) and 0 <= blueprint_id < len(kinds):
            return blueprint_id
        listed = ", ".join(f"{number} {kind}" for number, kind in enumerate(kinds))
        raise SiteError(f"no blueprint {blueprint_id!r} at this site; it grows: {listed}")


def _strategy(given: int | str) -> int:
    if isinstance(given, str):
        return strategy_number(given)
    strategy_by_number(given)
    return given


class ChunkedKasminaLayer(_Layer):
    """A layer whose output seeds transform, chunk by chunk.

    Args:
        base_layer: the layer; it is morphed in place.
        chunks_per_layer: seeds, at most as many as output features.
        blueprint: a kind, or several that compete.
        hidden: hidden units of one seed.
        mode: what a seed does at full alpha, add to its chunk or replace it.
        lifecycle: of the seeds; the built-in one by default.
        example: one batch, where the layer does not tell its features.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        chunks_per_layer: int = 1000,
        *,
        blueprint: str | tuple[str, ...] = "mlp",
        hidden: int = 8,
        mode: Mode = "residual",
        lifecycle: Lifecycle | None = None,
        example: Example | None = None,
    ) -> None:
        site = Site(
            "",
            placement="inline",
            seeds=chunks_per_layer,
            blueprint=blueprint,
            hidden=hidden,
            mode=mode,
        )
        super().__init__(base_layer, site, lifecycle, example)


class ParallelKasminaLayer(_Layer):
    """A layer or a block beside which seeds grow hidden units.

    Args:
        base_layer: the layer or block; it is morphed in place.
        seeds: how many.
        blueprint: a kind, or several that compete.
        hidden: hidden units of one seed.
        layout: of one example of the input, as in `Site`.
        lifecycle: of the seeds; the built-in one by default.
        example: one batch, where the layer does not tell its features.
    """

    def __init__(
        self,
        base_layer: nn.Module,
        seeds: int = 8,
        *,
        blueprint: str | tuple[str, ...] = "mlp",
        hidden: int = 8,
        layout: tuple[int | str, ...] | None = None,
        lifecycle: Lifecycle | None = None,
        example: Example | None = None,
    ) -> None:
        site = Site("", seeds=seeds, blueprint=blueprint, hidden=hidden, layout=layout)
        super().__init__(base_layer, site, lifecycle, example)


class ChunkFlags(Protocol):
    """What `HybridKasminaLayer` reads of a configuration; `enabled` may be missing."""

    enable_chunks: bool
    chunks_per_layer: int


@dataclass
class HybridConfig:
    """A configuration for `HybridKasminaLayer`.

    Attributes:
        enable_chunks: many seeds, one a chunk; else one seed for the whole layer.
        chunks_per_layer: seeds, where chunks are enabled.
        enabled: whether seeds take part at all; may be changed while running.
    """

    enable_chunks: bool = True
    chunks_per_layer: int = 1000
    enabled: bool = True


class HybridKasminaLayer(ChunkedKasminaLayer):
    """The plain layer, one seed or many, by plain flags of `config`.

    `enable_chunks` and `chunks_per_layer` count when the layer is made. `enabled` (True where
    the configuration has none) counts in each pass: False runs the plain layer, seeds and all
    their state stay as they are.

    Args:
        base_layer: the layer; it is morphed in place.
        config: any object with the flags.
        options: further arguments of `ChunkedKasminaLayer`.
    """

    def __init__(self, base_layer: nn.Module, config: ChunkFlags, **options: Any) -> None:
        seeds = config.chunks_per_layer if config.enable_chunks else 1
        super().__init__(base_layer, seeds, **options)
        self.config = config

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the base layer's, with or without its seeds."""
        if getattr(self.config, "enabled", True):
            return super().forward(*args, **kwargs)
        return self.site.inside(self.base_layer.forward)(*args, **kwargs)
