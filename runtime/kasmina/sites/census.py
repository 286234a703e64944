"""What is in a garden: where each seed is, what has grown, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kasmina.lifecycle import Address, StateTensor
from kasmina.sites.layer import SiteLayer
from kasmina.sites.plan import Planes, Reading


class Census(nn.Module):
    """The part of a garden that only looks."""

    state: StateTensor
    run: str
    layers: nn.ModuleDict
    sites: dict[str, SiteLayer]  # by path, in the order of their rows
    _host_parameters: int

    def site_of(self, row: int) -> SiteLayer:
        """The site that owns a row of the state tensor."""
        for site in self.sites.values():
            if site.first_row <= row < site.first_row + site.n_seeds:
                return site
        raise IndexError(f"no site owns row {row}; rows go from 0 to {len(self.state) - 1}")

    def address(self, row: int) -> Address:
        """The address of the life that the row's slot is in now."""
        site = self.site_of(row)
        generation = int(self.state["generation"][row])
        return Address(self.run, site.path, row - site.first_row, generation)

    def host_parameters(self) -> int:
        """Parameters of the model without any seed."""
        return self._host_parameters

    def parameters_kept(self, *, promised: bool = False) -> int:
        """Parameters of the network that `fold` would give now.

        Args:
            promised: also count the seeds that are on their way (neither in the initial nor in a
                terminal state), as if all of them were kept.
        """
        kept = self._acting()
        if promised:
            lifecycle, codes = self.state.lifecycle, self.state.codes.cpu().numpy()
            kept |= ~lifecycle.tables.IS_TERMINAL[codes] & (codes != lifecycle.initial)
        rows = np.flatnonzero(kept).tolist()
        return self._host_parameters + sum(self._cost(row) for row in rows)

    def acting(self) -> Tensor:
        """The seeds that change what the model computes, and that `fold` keeps; bool, on the CPU."""
        return torch.from_numpy(self._acting())

    def _acting(self) -> NDArray[np.bool_]:
        state = self.state
        columns = (state.codes, state["blueprint_slot"], state["alpha"])
        codes, slots, alpha = (column.cpu().numpy() for column in columns)
        acting: NDArray[np.bool_] = Planes.of(state.lifecycle).mixed[codes]
        return acting & (slots >= 0) & (alpha > 0)

    def architecture(self) -> list[dict[str, Any]]:
        """What has grown, one entry a seed that is mixed in, as the event log holds it."""
        mixed = torch.as_tensor(Reading.of(self.state).mixed)
        return [self._entry(row) for row in mixed.nonzero().flatten().tolist()]

    def describe(self) -> list[dict[str, Any]]:
        """The sites, as the event log holds them."""
        return [
            {
                "path": site.path,
                "placement": site.placement,
                "first_row": site.first_row,
                "seeds": site.n_seeds,
                "kinds": list(site.kinds),
            }
            for site in self.sites.values()
        ]

    def _entry(self, row: int) -> dict[str, Any]:
        address = self.address(row)
        kinds = self.site_of(row).kinds
        return {
            "site": address.site,
            "slot": address.slot,
            "generation": address.generation,
            "blueprint": kinds[int(self.state["blueprint_id"][row])],
            "parameters": self._cost(row),
            "state": self.state.state(row).name,
        }

    def _cost(self, row: int) -> int:
        """Parameters of the seed's kind; of the site's first one where it is not known yet."""
        kind = max(int(self.state["blueprint_id"][row]), 0)
        return self.site_of(row).pool(kind).kind.cost().parameters
