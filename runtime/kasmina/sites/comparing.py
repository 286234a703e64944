"""Whether a folded model computes what the grown one does, on one example."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kasmina.sites.errors import SiteError
from kasmina.sites.example import Example

# Of the largest value; both do the same sums in another order.
APART = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def refuse_other_outputs(grown: nn.Module, folded: nn.Module, example: Example) -> None:
    """Compare both in evaluation mode, with the same random numbers.

    Raises:
        SiteError: their outputs differ by more than rounding explains.
    """
    ours, theirs = (_outputs(model, example) for model in (folded, grown))
    for one, other in zip(ours, theirs, strict=True):
        most = APART.get(other.dtype, 0.5) * max(1.0, float(other.abs().max()))
        apart = float((one - other).abs().nan_to_num().max())
        if apart > most:
            raise SiteError(
                f"fold: on the example the folded model puts out what is {apart:.3g} apart from the "
                "grown one. A module around which seeds act is of another type now, and lies one "
                "level deeper: look for code in the model that asks for a module's type (isinstance) "
                "or takes its parts by themselves, or place the site at a module that is only called"
            )


@torch.no_grad()
def _outputs(model: nn.Module, example: Example) -> list[Tensor]:
    """The tensors of floating-point numbers that a copy of the model puts out."""
    run, found = copy.deepcopy(model).eval(), None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if isinstance(example, Mapping):
            found = run(**example)
        else:
            found = run(*example) if isinstance(example, tuple) else run(example)
    leaves: list[Any] = tree_leaves(found)
    return [y for y in leaves if isinstance(y, Tensor) and y.is_floating_point() and y.numel()]
