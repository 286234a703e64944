"""When two models count as the same on an example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kasmina.sites import SiteError
from kasmina.sites.comparing import refuse_other_outputs


class Puts(nn.Module):
    """Puts out what it was given when it was made."""

    def __init__(self, *values: Tensor) -> None:
        super().__init__()
        self.values = values

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """`[B, 2]` to anything."""
        return self.values


@pytest.mark.parametrize(
    "other",
    [
        (torch.tensor([1.0, torch.nan]),),
        (torch.tensor([1.0, 2.1]),),
        (torch.tensor([1.0, 2.0, 3.0]),),
        (torch.tensor([1.0, 2.0]), torch.tensor(0.0)),
    ],
    ids=["a NaN", "a number", "a shape", "one more"],
)
def test_what_differs_is_refused(other: tuple[Tensor, ...]) -> None:
    """Whichever of them it is that has it."""
    x, one = torch.zeros(1, 2), (torch.tensor([1.0, 2.0]),)
    for grown, folded in ((one, other), (other, one)):
        with pytest.raises(SiteError, match="puts out something else than the grown one"):
            refuse_other_outputs(Puts(*grown), Puts(*folded), x)


def test_rounding_random_numbers_and_equal_nans_are_none() -> None:
    """Dropout is off, and what is drawn all the same is drawn alike."""
    x, first = torch.zeros(1, 2), torch.tensor([torch.nan, 2.0])
    refuse_other_outputs(Puts(first), Puts(first + 1e-6), x)
    before = torch.get_rng_state()
    refuse_other_outputs(nn.RReLU().train(), nn.RReLU(), -torch.ones(3))
    assert torch.equal(torch.get_rng_state(), before)
