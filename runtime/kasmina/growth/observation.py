"""Builds what a controller sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from kasmina.blueprints.shape import Cost
from kasmina.growth.bottleneck import bottleneck
from kasmina.growth.controller import KindOffer, Observation, SeedTable, SiteObservation
from kasmina.growth.ledger import Clock, Ledger
from kasmina.growth.validation import Validation
from kasmina.sites import Garden, Passage, SiteLayer


def action_mask(garden: Garden, closed: Callable[[str], bool]) -> NDArray[np.bool_]:
    """Bool `[N, events]`: the generated table by row; rows of closed sites start nothing new."""
    lifecycle = garden.state.lifecycle
    codes = garden.state.codes.cpu().numpy()
    mask: NDArray[np.bool_] = lifecycle.tables.LEGAL_COMMANDS[codes].copy()
    for path, site in garden.sites.items():
        if closed(path):
            rows = slice(site.first_row, site.first_row + site.n_seeds)
            mask[rows] &= (codes[rows] != lifecycle.initial)[:, None]
    return mask


def busy(garden: Garden) -> int:
    """How many seeds are on their way: neither in the initial state nor in a terminal one."""
    codes = garden.state.codes.cpu().numpy()
    lifecycle = garden.state.lifecycle
    return int(((codes != lifecycle.initial) & ~lifecycle.tables.IS_TERMINAL[codes]).sum())


def observe(
    garden: Garden,
    clock: Clock,
    ledger: Ledger,
    validation: Validation,
    *,
    budget: int | None,
    epochs: int | None,
    parameters: int,
    rewinds: dict[str, int],
    embargoed: Callable[[str], bool],
) -> Observation:
    """The observation at an epoch's end."""
    under_way = busy(garden)
    return Observation(
        epoch=clock.epoch,
        epochs=epochs,
        step=clock.step,
        train_loss=ledger.train_loss,
        validation_loss=validation.loss,
        validation_metric=validation.metric,
        parameters=parameters,
        budget=budget,
        sites=tuple(
            _site(
                site,
                validation.passages.get(path, []),
                rewinds[path],
                embargoed(path),
                scored=len(garden.sites) > 1 and not under_way,
            )
            for path, site in garden.sites.items()
        ),
        seeds=_seeds(garden),
        commands=tuple(event.name for event in garden.state.lifecycle.Event),
        busy=under_way,
    )


def _site(
    site: SiteLayer, passages: list[Passage], rewinds: int, embargoed: bool, *, scored: bool
) -> SiteObservation:
    return SiteObservation(
        path=site.path,
        placement=site.placement,
        first_row=site.first_row,
        seeds=site.n_seeds,
        kinds=tuple(_offer(name, site.pool(name).kind.cost()) for name in site.kinds),
        rewinds=rewinds,
        embargoed=embargoed,
        gradient_ratio=gradient_ratio(passages),
        bottleneck=bottleneck(site, passages) if scored else math.nan,
    )


@cache
def _offer(name: str, cost: Cost) -> KindOffer:
    return KindOffer(name, cost.parameters, cost.flops_per_example)


def _seeds(garden: Garden) -> SeedTable:
    state = garden.state
    telemetry = garden.telemetry()
    return SeedTable(
        state=state.codes.cpu().numpy().copy(),
        epochs=state.epochs.cpu().numpy().copy(),
        generation=state["generation"].cpu().numpy().copy(),
        alpha=state["alpha"].cpu().numpy().copy(),
        holds_blueprint=(state["blueprint_slot"] >= 0).cpu().numpy(),
        mean=telemetry.mean.cpu().numpy(),
        deviation=telemetry.deviation.cpu().numpy(),
        nonfinite=telemetry.nonfinite.cpu().numpy(),
    )


def gradient_ratio(passages: list[Passage]) -> float:
    """RMS of the loss gradient over the RMS of what the site put out; NaN if nothing was recorded.

    How hard the loss pulls on its output; see `bottleneck` for what new units could do about it.
    """
    if not passages:
        return float("nan")
    pull = sum(float(p.gradient.square().sum()) for p in passages)
    size = sum(float(p.output.square().sum()) for p in passages)
    return (pull / size) ** 0.5 if size else float("nan")
