"""What the paired control would say of a graft, estimated along its ramp for every seed at once.

The control is the same network on the same batches without the seed since its graft. Two integrals
estimate the loss that the seed saves against it:

- on training batches, from a derivative that the backward pass has anyway,

      sum over the ramp's steps of  -dL/dalpha * delta alpha                            [nats]

- on validation data, measured every so many steps; here the seed's own parameters count as well,
  since they learn while the ramp goes on, by the trapezoid rule between two measurements:

      sum over the measurements of  -(g + g')/2 . (p' - p),   p = (alpha, parameters)   [nats]

Seeds that ramp together share a loss; each integrates its own part of the gradient, and were the
host to stand still the parts would add up to the joint gain. (The parameters' share is left out on
training batches: a batch's own gradient made them, so there it flatters every seed.) Compare Lan et
al. 2019, Loss Change Allocation.

The interval on training batches is the normal one over the terms, whose variance is taken from the
differences of successive terms (von Neumann 1941): along a ramp they have a trend, which is no
noise. On validation data a term is off by at most half the change of its integrand, and the data
are a sample: how much its parts differ in what they have gained since the graft tells how much.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kasmina.growth.planes import Bed, beds
from kasmina.sites import Garden

Z95 = 1.959964  # two-sided 95% of a normal distribution


@dataclass(frozen=True, slots=True)
class Judgement:
    """A gain in nats with its 95% interval, what measured it, and from how many terms."""

    value: float
    low: float
    high: float
    terms: int
    measure: str = "path_integral"

    @property
    def error(self) -> float:
        """The standard error of the value."""
        return (self.high - self.low) / (2 * Z95)

    def straddles(self, rent: float = 0.0) -> bool:
        """Whether the interval does not tell a gain that pays the rent, in nats, from a loss."""
        return not (self.low > rent or self.high < 0)


def paired(without: Tensor, with_: Tensor, measure: str) -> Judgement:
    """The mean of what is saved, with its interval, from losses `[C]` of the same data each."""
    saved = (without - with_).double()
    half = Z95 * float(saved.std()) / len(saved) ** 0.5 if len(saved) > 1 else float("inf")
    mean = float(saved.mean())
    return Judgement(mean, mean - half, mean + half, len(saved), measure)


class PathIntegral:
    """Running path integrals of `n` seeds; all tensors are float64 `[n]` on the CPU."""

    def __init__(self, n: int) -> None:
        # Terms, their sum, sum of the squared differences of successive ones, the last one.
        self._sums = torch.zeros(4, n, dtype=torch.float64)

    def start(self, rows: Tensor) -> None:
        """Forget what the rows have gathered: they begin a new ramp."""
        self._sums[:, rows] = 0

    def add(self, rows: Tensor, gradient: Tensor, step: Tensor) -> None:
        """Add one batch: dL/dalpha before the step of alpha, and that step, both `[len(rows)]`."""
        term, rows = -(gradient.double() * step.double()).cpu(), rows.cpu()
        count, total, squares, last = self._sums[:, rows]
        squares += torch.where(count > 0, (term - last).square(), 0)
        self._sums[:, rows] = torch.stack([count + 1, total + term, squares, term])

    def gain(self) -> Tensor:
        """Gain so far, float32 `[n]`; -inf where nothing was measured."""
        count, total, *_ = self._sums
        return torch.where(count > 0, total, -torch.inf).float()

    def judgement(self, row: int) -> Judgement:
        """The row's gain with its interval."""
        count, total, squares, _ = (float(x) for x in self._sums[:, row])
        if not count:
            return Judgement(float("-inf"), float("-inf"), float("inf"), 0)
        half = Z95 * (count * squares / (2 * (count - 1))) ** 0.5 if count > 1 else float("inf")
        return Judgement(total, total - half, total + half, int(count))

    def state_dict(self) -> dict[str, Tensor]:
        """The sums behind the integrals."""
        return {"sums": self._sums.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self._sums = state["sums"].clone()


class HeldOut:
    """The integrals on validation data; fed with the validation loss at declared steps.

    Args:
        garden: whose seeds blend.
    """

    def __init__(self, garden: Garden) -> None:
        self._garden = garden
        n = len(garden.state)
        # Terms; of alpha and of the parameters, their sum and the squares of their errors.
        self._sums = torch.zeros(5, n, dtype=torch.float64)
        # By bed: rows, their positions and gradients `[S, 1 + parameters of a seed]`.
        self._last: dict[str, tuple[Tensor, Tensor, Tensor]] = {}

    def start(self, rows: Tensor) -> None:
        """The rows begin a new ramp."""
        self._sums[:, rows] = 0
        for key, (held, position, gradient) in self._last.items():
            stay = ~torch.isin(held, rows)
            self._last[key] = (held[stay], position[stay], gradient[stay])

    def leaves(self, rows: Tensor) -> list[Tensor]:
        """What the validation loss must be differentiated by, for `add`."""
        return [leaf for bed in beds(self._garden, rows) for leaf in _leaves(bed)]

    def add(self, rows: Tensor, gradients: list[Tensor | None]) -> None:
        """Take in a measurement: the gradients by `leaves(rows)` with the network as it is now."""
        found = iter(gradients)
        for bed in beds(self._garden, rows):
            leaves = _leaves(bed)
            given = [next(found) for _ in leaves]
            whole = [
                torch.zeros_like(leaf) if gradient is None else gradient
                for leaf, gradient in zip(leaves, given, strict=True)
            ]
            self._measured(bed, _flat(bed, leaves), _flat(bed, whole))

    def _measured(self, bed: Bed, position: Tensor, gradient: Tensor) -> None:
        if bed.key in self._last:
            held, before, slope = self._last[bed.key]
            same = (bed.rows.unsqueeze(1) == held).nonzero()  # pairs (place now, place then)
            now, then = same.unbind(1)
            way = position[now] - before[then]
            terms = -0.5 * (gradient[now] + slope[then]) * way
            errors = 0.5 * (gradient[now] - slope[then]) * way
            found = [torch.ones(len(now), dtype=torch.float64)]
            for part in (slice(0, 1), slice(1, None)):
                found += [terms[:, part].sum(1).cpu(), errors[:, part].sum(1).square().cpu()]
            self._sums[:, bed.rows[now].cpu()] += torch.stack(found)
        self._last[bed.key] = (bed.rows.clone(), position, gradient)

    def judgement(self, row: int, sampling: float, loss: float) -> Judgement:
        """The row's gain with its interval.

        What the parameters have learned counts only where it can be true: no more than the loss
        that there was, and known to a quarter of it. Else the output is not smooth in them.

        Args:
            row: of the state tensor.
            sampling: standard error of a difference of losses, since the data are a sample; nats.
            loss: validation loss before the graft, nats.
        """
        count, total, errors, learned, unsure = (float(x) for x in self._sums[:, row])
        if not count:
            return Judgement(float("-inf"), float("-inf"), float("inf"), 0, "held_out_integral")
        if abs(learned) <= loss and (unsure / 3) ** 0.5 <= loss / 4:
            total, errors = total + learned, errors + unsure
        half = Z95 * (errors / 3 + sampling**2) ** 0.5  # an error of at most e, evenly spread
        return Judgement(total, total - half, total + half, int(count), "held_out_integral")

    def state_dict(self) -> dict[str, Any]:
        """The sums, and the last measurement."""
        last = {key: tuple(each.clone() for each in held) for key, held in self._last.items()}
        return {"sums": self._sums.clone(), "last": last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._sums = state["sums"].clone()
        device = self._garden.state.device
        self._last = {
            key: (held.cpu().clone(), *(each.to(device, copy=True) for each in measured))
            for key, (held, *measured) in state["last"].items()
        }


def _leaves(bed: Bed) -> list[Tensor]:
    return [bed.site.alpha, *bed.pool.stack()]


def _flat(bed: Bed, values: list[Tensor]) -> Tensor:
    """Values of the leaves as `[S, 1 + parameters of a seed]`, float64, without a graph."""
    alpha, *stacked = (value.detach() for value in values)
    rows = [alpha[bed.chunks].unsqueeze(1), *(each[bed.slots].flatten(1) for each in stacked)]
    return torch.cat([each.double() for each in rows], 1)
