"""The optimizer's step, through a gradient scaler where there is one.

A scaled loss gives a scaled dL/dalpha, which no optimizer holds and no `unscale_` reaches; and a
step that the scaler skips because of an infinity is none: nothing has moved, so no ramp may.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from kasmina.errors import KasminaError


def value_of(loss: Tensor) -> float:
    """A batch's loss as a number, from whatever device.

    Raises:
        KasminaError: it is no tensor of one real number that has a value.
    """
    if not isinstance(loss, Tensor):
        found = f"{loss!r} of type {type(loss).__name__}"
    elif loss.numel() != 1 or not loss.is_floating_point() or loss.is_meta:
        found = f"{tuple(loss.shape)} of {loss.dtype} on {loss.device}"
    else:
        return float(loss.detach())
    raise KasminaError(
        f"step(loss): the loss is {found}; it must be the batch's loss as a tensor of one real "
        "number: the one whose backward pass was made, with neither .item() nor reduction='none'"
    )


class Stepper:
    """Makes the steps of one optimizer.

    Args:
        optimizer: which.
        scaler: by which the loss was multiplied before its backward pass; None for a plain one.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: GradScaler | None) -> None:
        self._optimizer, self._scaler = optimizer, scaler
        self.may_overflow = scaler is not None and scaler.is_enabled()

    def prepare(self) -> float:
        """Unscale the optimizer's gradients, if that was not done; the scale of all the others."""
        if self._scaler is None:
            return 1.0
        try:
            self._scaler.unscale_(self._optimizer)
        except RuntimeError as error:
            if "has already been called" not in str(error):
                raise  # the user has done it, in order to clip
        return float(self._scaler.get_scale())

    def step(self) -> bool:
        """Step; whether the optimizer has moved, or the scaler has found an infinity."""
        if self._scaler is None:
            self._optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return bool(self._scaler.get_scale() >= before)

    def abandon(self) -> None:
        """There will be no step after this `prepare`: the run was taken back."""
        if self._scaler is not None and self._scaler.is_enabled():
            self._scaler.update(self._scaler.get_scale())  # forgets that it has unscaled
