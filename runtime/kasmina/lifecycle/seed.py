"""One seed as a user sees it: a row of the state tensor with an address."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from kasmina.lifecycle.address import Address
from kasmina.lifecycle.commands import Command, CommandQueue
from kasmina.lifecycle.tensor import StateTensor


@dataclass(frozen=True)
class LogicalSeed:
    """A view on one row; it holds no state of its own and follows every step.

    Reads see the live row, so in another thread than the writer's read a snapshot's seed.
    """

    tensor: StateTensor
    row: int
    run: str
    site: str
    slot: int
    queue: CommandQueue

    @property
    def address(self) -> Address:
        """The address of the life that the slot is in now."""
        return Address(self.run, self.site, self.slot, self.generation)

    @property
    def state(self) -> IntEnum:
        """Where the seed stands."""
        return self.tensor.state(self.row)

    @property
    def plane(self) -> IntEnum:
        """What the data path does with it."""
        lifecycle = self.tensor.lifecycle
        code = lifecycle.plane_of(self.tensor.codes[self.row])
        return lifecycle.attribute("plane")(int(code))

    @property
    def alpha(self) -> float:
        """The blend factor, in [0, 1]."""
        return float(self.tensor["alpha"][self.row])

    @property
    def epochs(self) -> int:
        """Ticks since the state was entered."""
        return int(self.tensor.epochs[self.row])

    @property
    def generation(self) -> int:
        """How often the slot was re-armed; 0 where the spec stores no generation."""
        generations = self.tensor.role("generation")
        return 0 if generations is None else int(generations[self.row])

    @property
    def history(self) -> tuple[IntEnum, ...]:
        """The last states that the slot has left, oldest first."""
        return self.tensor.history(self.row)

    def request(self, event: IntEnum | str) -> Command:
        """Ask for an event, from any thread; it reaches this life of the slot or none."""
        return self.queue.put(self.row, event, self.generation)

    def __repr__(self) -> str:
        return f"LogicalSeed({self.address}: {self.state.name}, {self.epochs} epochs)"
