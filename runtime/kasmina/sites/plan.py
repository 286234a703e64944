"""What a site has to do, worked out once after a step so that a forward pass need not ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kasmina.lifecycle import StateTensor

# Planes in which what the blueprint puts out is mixed into the host.
MIXED = ("blend", "full", "withdraw")
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Seeds of one kind that are treated alike; A of them."""

    kind: str
    slots: Tensor  # int64 [A], ascending; places in the site
    rows: Tensor  # int64 [A], rows of the kind's pool
    trains: Tensor | None  # bool [A], whose blueprints the task's loss trains; None for all


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The parts that are mixed in, and those that learn aside; a dormant site has neither."""

    active: tuple[Part, ...] = ()
    shadow: tuple[Part, ...] = ()

    @property
    def is_dormant(self) -> bool:
        """Whether the host's output leaves the site as it came."""
        return not self.active and not self.shadow


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """The columns that plans depend on, read from the device at once; each `[N]`."""

    mixed: NDArray[np.bool_]
    shadow: NDArray[np.bool_]
    joint: NDArray[np.bool_]
    kind: IntArray
    row: IntArray

    @classmethod
    def of(cls, state: StateTensor) -> Reading:
        """Read all seeds; the only place where the data path waits for the device."""
        lifecycle = state.lifecycle
        columns = torch.stack(
            [
                lifecycle.plane_of(state.codes).long(),
                lifecycle.attribute_of("trains", state.codes).long(),
                state["blueprint_id"].long(),
                state["blueprint_slot"].long(),
            ]
        )
        plane, trains, kind, row = columns.cpu().numpy()
        mixed = [lifecycle.attribute_code("plane", name) for name in MIXED]
        held = row >= 0
        return cls(
            mixed=np.isin(plane, mixed) & held,
            shadow=(plane == lifecycle.attribute_code("plane", "shadow")) & held,
            joint=trains == lifecycle.attribute_code("trains", "joint"),
            kind=kind,
            row=row,
        )

    def of_site(self, first: int, seeds: int) -> Reading:
        """The rows of one site."""
        part = slice(first, first + seeds)
        return Reading(
            self.mixed[part], self.shadow[part], self.joint[part], self.kind[part], self.row[part]
        )

    def fingerprint(self) -> bytes:
        """Equal for readings that give equal plans."""
        columns = (self.mixed, self.shadow, self.joint, self.kind, self.row)
        return b"".join(column.tobytes() for column in columns)

    def plan(self, kinds: Sequence[str], device: torch.device) -> Plan:
        """The plan of a site that grows `kinds`."""
        return Plan(self._parts(self.mixed, kinds, device), self._parts(self.shadow, kinds, device))

    def _parts(
        self, chosen: NDArray[np.bool_], kinds: Sequence[str], device: torch.device
    ) -> tuple[Part, ...]:
        parts = []
        for number, kind in enumerate(kinds):
            slots = np.flatnonzero(chosen & (self.kind == number))
            if len(slots):
                joint = self.joint[slots]
                parts.append(
                    Part(
                        kind,
                        torch.as_tensor(slots, device=device),
                        torch.as_tensor(self.row[slots], device=device),
                        None if joint.all() else torch.as_tensor(joint, device=device),
                    )
                )
        return tuple(parts)
