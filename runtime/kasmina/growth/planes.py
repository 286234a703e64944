"""Which seeds are where, asked by an attribute of their state."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from kasmina.blueprints import BlueprintPool
from kasmina.lifecycle import Lifecycle, StateTensor
from kasmina.sites import Garden, SiteLayer


def mask_in(state: StateTensor, attribute: str, *values: str) -> Tensor:
    """Bool `[N]`: the seeds whose state has one of `values` for `attribute`."""
    table = _states_with(state.lifecycle, attribute, values, state.codes.device)
    return table[state.codes.long()]


@cache
def _states_with(
    lifecycle: Lifecycle, attribute: str, values: tuple[str, ...], device: torch.device
) -> Tensor:
    """Bool by state code."""
    wanted = [lifecycle.attribute_code(attribute, value) for value in values]
    codes = torch.arange(lifecycle.tables.N_STATES, device=device)
    found = lifecycle.attribute_of(attribute, codes)
    return torch.isin(found, torch.tensor(wanted, dtype=found.dtype, device=device))


def rows_in(state: StateTensor, attribute: str, *values: str) -> Tensor:
    """int64 rows of the seeds whose state has one of `values` for `attribute`."""
    return rows_of(mask_in(state, attribute, *values))


def rows_of(mask: Tensor) -> Tensor:
    """int64 rows where a bool `[N]` holds; on the CPU, as all row numbers are.

    What is remembered of seeds lies there, and a GPU's tensors take them as indices, too.
    """
    return mask.nonzero().squeeze(1).cpu()


def planes_in_use(state: StateTensor) -> frozenset[str]:
    """The planes of all seeds that hold a blueprint."""
    held = state.codes.cpu().numpy()[state["blueprint_slot"].cpu().numpy() >= 0]
    plane = state.lifecycle.attribute("plane")
    codes = set(state.lifecycle.tables.STATE_PLANE[held].tolist())
    return frozenset(plane(code).name for code in codes)


class Bed(NamedTuple):
    """Seeds of one kind at one site."""

    site: SiteLayer
    pool: BlueprintPool
    rows: Tensor  # int64 [S], rows of the state tensor, on the CPU
    slots: Tensor  # int64 [S], rows of the pool, on its device

    @property
    def key(self) -> str:
        """Site and kind, as a dictionary key."""
        return bed_key(self.site, self.pool)

    @property
    def chunks(self) -> Tensor:
        """int64 [S], places of the seeds in their site, on the pool's device."""
        return (self.rows - self.site.first_row).to(self.slots.device)


def bed_key(site: SiteLayer, pool: BlueprintPool) -> str:
    """The key of a site's seeds of one kind."""
    return f"{site.path}:{pool.kind.name}"


def beds(garden: Garden, rows: Tensor) -> Iterator[Bed]:
    """`rows` that hold a blueprint, by site and kind."""
    state, rows = garden.state, rows.cpu()
    slots, numbers = (state[name].cpu() for name in ("blueprint_slot", "blueprint_id"))
    rows = rows[slots[rows] >= 0]
    for site in garden.sites.values():
        here = rows[(rows >= site.first_row) & (rows < site.first_row + site.n_seeds)]
        kinds = numbers[here]
        for number in sorted(set(kinds.tolist())):
            of_kind = here[kinds == number]
            yield Bed(
                site,
                site.pool(number),
                of_kind,
                slots[of_kind].long().to(state.device),
            )
