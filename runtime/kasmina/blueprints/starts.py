"""Where hidden units start that have seen a batch: from the singular directions of its gradient.

Let x `[N, d_in]` be what a parallel seed reads and t `[N, d_out]` what it shall answer, the negative
gradient at the site's output. With the moments S = E[x x^T] and C = E[x t^T]:

- `tiny` (Verbockhaven et al. 2024, Growing Tiny Networks, section 3): with S^(-1/2) C = U L V^T the
  k-th unit reads sqrt(l_k) S^(-1/2) u_k and writes sqrt(l_k) v_k. A linear unit so gives the best
  prediction of rank k there is. The paper takes off what the host's next map could do by itself;
  a site may span anything, so that is left out.
- `gradmax` (Evci et al. 2022, GradMax, equation 8): units read with 0, so nothing changes at first,
  and write the first left singular vectors of E[t x^T], by which the gradient of what they read
  with is as large as it can be.

Units beyond the rank of C read as they were drawn and write nothing at first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

RIDGE = 1e-4  # of the mean variance of x: directions that the batch hardly holds are not blown up


class Units(NamedTuple):
    """Hidden units, those of several seeds one after the other."""

    read: Tensor  # [k, d_in]
    bias: Tensor  # [k]
    write: Tensor  # [k, d_out]


Start = Callable[[Tensor, Tensor, int], Units]


def tiny(x: Tensor, target: Tensor, most: int) -> Units:
    """The first units by TINY.

    Args:
        x: `[N, d_in]`, finite.
        target: `[N, d_out]`, finite.
        most: units that are wanted.

    Returns:
        At most `most` units, in order of what they explain; float32 or as x.
    """
    rows = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()  # the last entry is the bias
    moment = rows.T @ rows / len(rows)
    values, vectors = torch.linalg.eigh(moment)
    scale = (values.clamp_min(0) + RIDGE * values.mean()).rsqrt()
    root = vectors * scale @ vectors.T
    u, level, v = torch.linalg.svd(root @ (rows.T @ target.double() / len(rows)))
    k = min(most, _rank(level))
    read = (root @ u[:, :k] * level[:k].sqrt()).T.to(x)
    return Units(read[:, :-1], read[:, -1], (v[:k] * level[:k, None].sqrt()).to(x))


def gradmax(x: Tensor, target: Tensor, most: int) -> Units:
    """The first units by GradMax; arguments and result as of `tiny`.

    What they write has the norm of a map as nn.Linear draws it for `most` units.
    """
    u, level, _ = torch.linalg.svd(target.double().T @ x.double() / len(x))
    k = min(most, _rank(level))
    norm = (target.shape[1] / (3 * most)) ** 0.5
    zeros = x.new_zeros(k, x.shape[1])
    return Units(zeros, zeros[:, 0], (norm * u[:, :k].T).to(x))


def _rank(level: Tensor) -> int:
    """Singular values that are not rounding."""
    return int((level > 1e-6 * level.max()).sum()) if level.numel() and level.max() > 0 else 0


STARTS: dict[str, Start | None] = {"random": None, "tiny": tiny, "gradmax": gradmax}
