"""One object for each way in which a kernel can be compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from kasmina_generator.kernels.model import Direction, KernelSet, Placement, Variant
from kasmina_generator.kernels.variables import states_of, variables_of

_DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
FOLDER = "kernels"


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """A kernel: its text, which depends on the first five, and the constants that it is given.

    `mixing` and `joint` hold the states, as bits over their codes, in which a chunk takes part and
    in which its parameters get gradients.
    """

    placement: Placement
    variant: Variant
    direction: Direction
    mixing: int
    joint: int
    mode: str
    dtype: str
    telemetry: bool  # forward only

    @property
    def module(self) -> str:
        """Return the name of the module that holds it."""
        name = f"{self.placement.name}_{self.variant.name}"
        return name if self.placement.files == "together" else f"{name}_{self.direction}"

    @property
    def file(self) -> str:
        """Return the file's name inside the package; one file serves all constants."""
        return f"{FOLDER}/{self.module}.py"

    @property
    def template(self) -> str:
        """Return the template that gives the file."""
        together = self.placement.files == "together"
        name = self.placement.name if together else f"{self.placement.name}_{self.direction}"
        return f"{FOLDER}/{name}.py.jinja"

    @property
    def variables(self) -> dict[str, object]:
        """Return what the template reads: `k` for the text, `states`."""
        return {
            "k": variables_of(self.variant, self.placement),
            "states": states_of(self.mixing, self.joint),
        }

    @property
    def label(self) -> str:
        """Return what messages, benchmarks and tables of tiles call it."""
        told = (
            f"{self.placement.name} {self.variant.name} {self.direction} {self.mode} {self.dtype}"
        )
        return f"{told} telemetry" if self.telemetry else told

    @property
    def key(self) -> str:
        """Return what tells it from every other, also from one of the same label in other specs."""
        parts = (self.label, repr(self.variables))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def specialisations(kernels: KernelSet) -> Iterator[KernelSpec]:
    """Yield every kernel of a set, those of one file together."""
    masks = (kernels.mixing.mask, kernels.joint.mask)
    for placement in kernels.placements:
        for variant in kernels.variants():
            yield from of_variant(kernels.dtypes, placement, variant, masks)


def of_variant(
    dtypes: Sequence[str], placement: Placement, variant: Variant, masks: tuple[int, int]
) -> Iterator[KernelSpec]:
    """Yield the kernels of one text in one placement; `masks` are those of the states."""
    for direction, mode, dtype in product(_DIRECTIONS, placement.modes, dtypes):
        for telemetry in (False, True) if direction == "forward" else (False,):
            yield KernelSpec(placement, variant, direction, *masks, mode, dtype, telemetry)
