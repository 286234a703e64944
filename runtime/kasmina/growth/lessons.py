"""Beds that learn aside, prepared once between two steps of the lifecycle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from kasmina.growth.planes import Bed
from kasmina.growth.row_adam import FEW, RowAdam
from kasmina.sites.plan import Plan, neighbours


class Lesson:
    """One bed that learns, as it stands between two steps of the lifecycle.

    Attributes:
        bed: the seeds.
        rows: the pool's rows that they hold.
        fresh: of these, which have learned nothing yet.
    """

    def __init__(self, bed: Bed, adam: RowAdam) -> None:
        self.bed, self.adam = bed, adam
        self.rows: list[int] = bed.slots.tolist()
        self.fresh = [place for place, row in enumerate(self.rows) if not adam.age.get(row)]
        self._slice = neighbours(bed.slots)
        self._leaves: dict[str, Tensor] = {}
        self._views = adam.views(bed.pool, self.rows) if len(self.rows) <= FEW else None

    def leaves(self) -> dict[str, Tensor]:
        """The bed's parameters by name, `[S, ...]`, as leaves of a graph, until it has learned."""
        if not self._leaves:
            self._leaves = {
                name: value.detach()[self._slice].requires_grad_()
                for name, value in self.bed.pool.stacked().items()
            }
        return self._leaves

    def learn(self, gradients: Mapping[str, Tensor], finite: Tensor | None) -> None:
        """One step along `gradients`; of a mask `finite` `[S]` those rows only."""
        rows, views, pool = self.rows, self._views, self.bed.pool
        if finite is not None:
            places = finite.nonzero().squeeze(1)
            rows = [self.rows[place] for place in places.tolist()]
            views = None if views is None else self.adam.views(pool, rows)
            gradients = {name: gradient[places] for name, gradient in gradients.items()}
        if views is None:
            self.adam.step_many(rows, pool, gradients)
        else:
            self.adam.step(rows, views, gradients)
        if not isinstance(self._slice, slice):
            self._leaves = {}  # they are copies


class Lessons(NamedTuple):
    """All beds of a site that learn, by the plan that says so."""

    plan: Plan
    lessons: list[Lesson]
