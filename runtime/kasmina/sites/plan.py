"""What a site has to do, worked out once after a step so that a forward pass need not ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kasmina.kernels.inline import Columns
from kasmina.lifecycle import Lifecycle, StateTensor
from kasmina.sites.errors import SiteError

# Planes in which what the blueprint puts out is mixed in, in packages without kernels that say so.
MIXED = ("blend", "full", "withdraw")
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Planes(NamedTuple):
    """What the data path does in each state, by its code; bool each."""

    mixed: BoolArray
    shadow: BoolArray
    joint: BoolArray  # the task's loss trains the blueprint
    needs: BoolArray  # a seed without a row of a pool cannot be in it

    @classmethod
    def of(cls, lifecycle: Lifecycle) -> Planes:
        """The planes of a lifecycle."""
        return _planes(lifecycle)

    def shown(self, lifecycle: Lifecycle) -> int:
        """A state that mixes a blueprint in, if possible without training it."""
        found = np.flatnonzero(self.mixed & ~self.joint)
        return int(found[0] if len(found) else np.flatnonzero(self.mixed)[0])

    def learning(self) -> int:
        """A state that mixes a blueprint in, if possible one that trains it."""
        found = np.flatnonzero(self.mixed & self.joint)
        return int(found[0] if len(found) else np.flatnonzero(self.mixed)[0])


@cache
def _planes(lifecycle: Lifecycle) -> Planes:
    codes = torch.arange(lifecycle.tables.N_STATES)
    plane = lifecycle.plane_of(codes).numpy()
    shadow = plane == lifecycle.attribute_code("plane", "shadow")
    required = np.zeros_like(shadow)
    if hasattr(lifecycle.tables, "STATE_BLUEPRINT"):  # a garden without a Gardener needs none
        holds = lifecycle.attribute_of("blueprint", codes).numpy()
        required = holds == lifecycle.attribute_values("blueprint").get("required", -1)
    try:
        kernels = import_module(f"{lifecycle.package.__name__}.kernels.catalogue")
    except ModuleNotFoundError:  # built by an earlier version, or without kernels.yaml
        trains = lifecycle.attribute_of("trains", codes).numpy()
        mixed = np.isin(plane, [lifecycle.attribute_code("plane", name) for name in MIXED])
        joint = trains == lifecycle.attribute_code("trains", "joint")
        return Planes(mixed, shadow, joint, mixed & required)
    mixed, joint = (
        np.array([mask >> code & 1 for code in codes.tolist()], dtype=bool)
        for mask in (kernels.MIXING, kernels.JOINT)
    )
    return Planes(mixed, shadow, joint, mixed & required)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Seeds of one kind that are treated alike; A of them."""

    kind: str
    number: int  # of the kind at the site
    slots: Tensor  # int64 [A], ascending; places in the site
    rows: Tensor  # int64 [A], rows of the kind's pool
    trains: Tensor | None = None  # bool [A], whose blueprints the task's loss trains; None for all
    mixed: Tensor | None = None  # bool [A], whose count at all; None for all
    training: int = 0  # how many of them the task's loss trains, where `mixed` is None


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

    lifecycle: Lifecycle
    code: IntArray
    kind: IntArray
    row: IntArray

    @classmethod
    def of(cls, state: StateTensor) -> Reading:
        """Read all seeds; the only place where the data path waits for the device.

        Raises:
            SiteError: a seed has the code of no state.
        """
        names = ("blueprint_id", "blueprint_slot")
        columns = torch.stack([state.codes.long(), *(state[name].long() for name in names)])
        code, kind, row = columns.cpu().numpy()
        states = state.lifecycle.tables.N_STATES
        wrong = np.flatnonzero((code < 0) | (code >= states))
        if len(wrong):
            raise SiteError(
                f"row {wrong[0]} of the state tensor has the code {code[wrong[0]]}, which is no "
                f"state of {state.lifecycle.name!r}; codes go from 0 to {states - 1}. Write codes "
                "through StateTensor.update, which checks them"
            )
        return cls(state.lifecycle, code, kind, row)

    @property
    def mixed(self) -> BoolArray:
        """The seeds whose blueprints are mixed in."""
        return self._in(Planes.of(self.lifecycle).mixed)

    @property
    def shadow(self) -> BoolArray:
        """The seeds whose blueprints learn aside."""
        return self._in(Planes.of(self.lifecycle).shadow)

    def _in(self, states: BoolArray) -> BoolArray:
        found: BoolArray = states[self.code] & (self.row >= 0)
        return found

    def showing(self, rows: IntArray) -> Reading:
        """The same, but with seeds `rows` in a state that mixes their blueprints in."""
        code = self.code.copy()
        code[rows] = Planes.of(self.lifecycle).shown(self.lifecycle)
        return replace(self, code=code)

    def of_site(self, first: int, seeds: int) -> Reading:
        """The rows of one site."""
        part = slice(first, first + seeds)
        return replace(self, code=self.code[part], kind=self.kind[part], row=self.row[part])

    def fingerprint(self) -> bytes:
        """Equal for readings that give equal plans."""
        return b"".join(column.tobytes() for column in (self.code, self.kind, self.row))

    def plan(self, kinds: Sequence[str], device: torch.device) -> Plan:
        """The plan of a site that grows `kinds`."""
        return Plan(self._parts(self.mixed, kinds, device), self._parts(self.shadow, kinds, device))

    def _parts(
        self, chosen: BoolArray, kinds: Sequence[str], device: torch.device
    ) -> tuple[Part, ...]:
        joint = Planes.of(self.lifecycle).joint[self.code]
        parts = []
        for number, kind in enumerate(kinds):
            slots = np.flatnonzero(chosen & (self.kind == number))
            if len(slots):
                trains = joint[slots]
                parts.append(
                    Part(
                        kind,
                        number,
                        torch.as_tensor(slots, device=device),
                        torch.as_tensor(self.row[slots], device=device),
                        None if trains.all() else torch.as_tensor(trains, device=device),
                        training=int(trains.sum()),
                    )
                )
        return tuple(parts)

    def refuse_misplaced(self, path: str, capacities: Sequence[int]) -> None:
        """Refuse seeds that hold what is not there, or what they must not share.

        Args:
            path: of the site whose rows these are.
            capacities: of its pools, by number of the kind.

        Raises:
            SiteError: a seed holds a row of no kind, one that its pool has not, or one that another
                seed holds too; or it is in a state that mixes a blueprint in and holds none.
        """
        for slot in self._first(self.row < -1):
            raise SiteError(
                f"site {path!r}, slot {slot}: blueprint_slot is {self.row[slot]}; legal: -1 for none, "
                "or a row that Garden.allocate has given out"
            )
        held, kinds = self.row >= 0, np.array(capacities)
        for slot in self._first(held & ((self.kind < 0) | (self.kind >= len(kinds)))):
            raise SiteError(
                f"site {path!r}, slot {slot}: blueprint_id is {self.kind[slot]}, but the site grows "
                f"{len(kinds)} kinds, numbered from 0"
            )
        for slot in self._first(held & (self.row >= kinds[np.where(held, self.kind, 0)])):
            kind = self.kind[slot]
            raise SiteError(
                f"site {path!r}, slot {slot}: blueprint_slot is {self.row[slot]}, but the pool of kind "
                f"{kind} has {kinds[kind]} rows; let Garden.allocate give out rows"
            )
        for slot in self._first(~held & Planes.of(self.lifecycle).needs[self.code]):
            state = self.lifecycle.State(int(self.code[slot])).name
            raise SiteError(
                f"site {path!r}, slot {slot}: blueprint_slot is -1, but in {state} a seed holds a row "
                "of a pool; let Garden.allocate give it one, or write a state that needs none"
            )
        self._refuse_shared(path, np.flatnonzero(held), int(kinds.max()))

    def _refuse_shared(self, path: str, slots: IntArray, most: int) -> None:
        """Raise where two of the seeds at `slots` hold one row; `most` is above every row."""
        place = self.kind[slots] * most + self.row[slots]
        if len(place) < 2 or len(np.unique(place)) == len(place):
            return
        order = np.argsort(place, kind="stable")
        twice = int(np.flatnonzero(np.diff(place[order]) == 0)[0])
        one, other = slots[order[twice : twice + 2]].tolist()
        raise SiteError(
            f"site {path!r}, slots {one} and {other}: blueprint_slot is {self.row[one]} of kind "
            f"{self.kind[one]} at both, so they would be one seed; let Garden.allocate give out rows"
        )

    @staticmethod
    def _first(wrong: BoolArray) -> list[int]:
        """The first place that is wrong, if any."""
        return [int(wrong.argmax())] if wrong.any() else []


def neighbours(rows: Tensor) -> Tensor | slice:
    """`rows` as a slice where they follow each other, on a CPU, where it costs nothing to look."""
    if rows.device.type != "cpu":
        return rows
    first, last = int(rows[0]), int(rows[-1]) + 1
    same = len(rows) == last - first and bool((rows == torch.arange(first, last)).all())
    return slice(first, last) if same else rows


@cache
def planes_on(lifecycle: Lifecycle, device: torch.device) -> tuple[Tensor, Tensor]:
    """`mixed` and `joint` on a device; to be asked for before a graph is captured."""
    planes = Planes.of(lifecycle)
    return (
        torch.as_tensor(planes.mixed, device=device),
        torch.as_tensor(planes.joint, device=device),
    )


def everyone(live: Columns, kinds: Sequence[str], lifecycle: Lifecycle) -> tuple[Part, ...]:
    """All seeds of a site as parts, one a kind, that leave to the device which of them count.

    For a graph that is captured once and follows the lifecycle; it costs what it would cost if
    all seeds were mixed in.
    """
    mixed_in, joint = (
        states[live.codes.long()] for states in planes_on(lifecycle, live.codes.device)
    )
    slots = torch.arange(len(live.codes), device=live.codes.device)
    parts = []
    for number, kind in enumerate(kinds):
        mixed = mixed_in & (live.kinds == number) & (live.rows >= 0)
        rows = torch.where(mixed, live.rows.long(), 0)
        parts.append(Part(kind, number, slots, rows, mixed & joint, mixed))
    return tuple(parts)
