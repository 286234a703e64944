"""Alpha: moved up along its strategy while a seed blends, and down while it withdraws."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kasmina.grafting import Ramp, ramp_down, ramp_up
from kasmina.growth.ledger import Ledger
from kasmina.growth.planes import mask_in, rows_in
from kasmina.sites import Garden


class Ramps:
    """Moves alpha once an optimizer step, for all seeds at once.

    Args:
        garden: whose state tensor holds `alpha`, `ramp_steps` and `grafting_strategy`.
        ledger: gathers the path integral while alpha moves up.
        length: optimizer steps of a full ramp, 1 or more.
    """

    def __init__(self, garden: Garden, ledger: Ledger, length: int) -> None:
        self._garden, self._ledger, self._length = garden, ledger, length

    def start(self, rows: Tensor) -> None:
        """The rows begin to graft: alpha is 0 and nothing has been gained yet."""
        self._garden.state.update(rows, {"alpha": 0.0, "ramp_steps": 0})
        self._ledger.integral.start(rows)

    def turn(self, rows: Tensor) -> None:
        """The rows have just moved; those that withdraw begin their way down."""
        leaving = rows[mask_in(self._garden.state, "plane", "withdraw")[rows]]
        if len(leaving):
            self._garden.state.update(leaving, {"ramp_steps": 0})

    def move(self, gradient: Tensor | None) -> None:
        """One optimizer step was made.

        Args:
            gradient: dL/dalpha before it, float32 `[N]`; None where no seed blends.
        """
        state = self._garden.state
        blending, leaving = rows_in(state, "plane", "blend"), rows_in(state, "plane", "withdraw")
        leaving = leaving[state["alpha"][leaving] > 0]
        if gradient is not None and len(blending):
            before = state["alpha"][blending]
            after = self._write(blending, ramp_up)
            self._ledger.integral.add(blending, gradient[blending], after - before)
        if len(leaving):
            self._write(leaving, ramp_down)

    def _write(self, rows: Tensor, direction: Callable[[Tensor, Ramp], Tensor]) -> Tensor:
        """Move the rows one step in a direction; returns their new alpha."""
        state = self._garden.state
        steps = state["ramp_steps"][rows] + 1
        ramp = Ramp(steps, torch.full_like(steps, self._length), state["alpha"][rows])
        alpha = direction(state["grafting_strategy"][rows], ramp)
        state.update(rows, {"alpha": alpha, "ramp_steps": steps})
        return alpha
