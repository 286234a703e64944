"""Whether a folded model computes what the grown one does, on one example."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from kasmina.sites.errors import SiteError
from kasmina.sites.example import Example, called, untouched

# Of the largest value; both do the same sums in another order.
APART = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def refuse_other_outputs(grown: nn.Module, folded: nn.Module, example: Example) -> None:
    """Compare both in evaluation mode, with the same random numbers; neither is changed.

    Raises:
        SiteError: their outputs differ by more than rounding explains, also by a NaN or a shape.
    """
    ours = _outputs(folded, example)
    theirs = _outputs(copy.deepcopy(grown), example)  # seeds count what passes them
    try:
        assert_close(len(ours), len(theirs))
        for one, other in zip(ours, theirs, strict=True):
            most = float(other.nan_to_num().abs().max()) if other.numel() else 0.0
            atol = APART.get(other.dtype, 0.5) * max(1.0, most)
            assert_close(one, other, rtol=0.0, atol=atol, equal_nan=True)
    except AssertionError as error:
        raise SiteError(
            "fold: on the example the folded model puts out something else than the grown one: "
            f"{' '.join(str(error).split())}. A module around which seeds act is of another type now, "
            "and lies one level deeper: look for code in the model that asks for a module's type "
            "(isinstance) or takes its parts by themselves, or place the site at a module that is "
            "only called"
        ) from None


def _outputs(model: nn.Module, example: Example) -> list[Tensor]:
    """The tensors of floating-point numbers that it puts out."""
    with untouched(model):
        leaves = tree_leaves(called(model, example))
    return [y for y in leaves if isinstance(y, Tensor) and y.is_floating_point()]
