"""Training in isolation: blueprints learn beside the host from what passed it, and touch nothing.

The host's input and the gradient at the site's output are captured detached; the blueprint's rows
are trained on copies by an optimizer of their own, and no random number is drawn. Objectives:

- `functional_gradient` (parallel and residual seeds): regress the negative gradient of the loss at
  the site's output, so that adding the blueprint is a descent step in function space
  (Friedman 2001, gradient boosting; Evci et al. 2022, GradMax, for growing).
- `reconstruction` (inline seeds that replace): reproduce the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kasmina.blueprints import BlueprintPool
from kasmina.growth.flops import FlopMeter
from kasmina.growth.planes import Bed, beds, rows_in
from kasmina.growth.validation import Validation
from kasmina.sites import Garden, Passage

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Kingma & Ba 2015, as torch.optim.Adam


@dataclass(slots=True)
class RowAdam:
    """Adam over the rows of a pool, each row with its own age; moments are `[capacity, ...]`."""

    rate: float
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    age: dict[int, int] = field(default_factory=dict)

    def start(self, row: int) -> None:
        """The row was just allocated: forget what it had."""
        self.age[row] = 0
        for first, second in self.moments.values():
            first[row] = 0
            second[row] = 0

    @torch.no_grad()
    def update(self, pool: BlueprintPool, rows: Tensor, gradients: Mapping[str, Tensor]) -> None:
        """One step of the pool's `rows` `[S]` along `gradients` (name -> `[S, ...]`), in place."""
        ages = []
        for row in rows.tolist():
            self.age[row] = self.age.get(row, 0) + 1
            ages.append(self.age[row])
        for name, parameter in pool.stacked().items():
            first, second = self._moments(name, parameter)
            age = torch.tensor(ages, dtype=parameter.dtype, device=parameter.device)
            age = age.view(-1, *[1] * (parameter.dim() - 1))
            gradient = gradients[name]
            m = BETA1 * first[rows] + (1 - BETA1) * gradient
            v = BETA2 * second[rows] + (1 - BETA2) * gradient * gradient
            first[rows], second[rows] = m, v
            step = (m / (1 - BETA1**age)) / ((v / (1 - BETA2**age)).sqrt() + EPSILON)
            parameter[rows] -= self.rate * step

    def state_dict(self) -> dict[str, Any]:
        """Moments and ages, copied."""
        return {
            "moments": {k: (m.clone(), v.clone()) for k, (m, v) in self.moments.items()},
            "age": dict(self.age),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.moments = {k: (m.clone(), v.clone()) for k, (m, v) in state["moments"].items()}
        self.age = dict(state["age"])

    def _moments(self, name: str, parameter: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.moments.get(name, (None, None))
        if first is None or second is None:
            first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        elif len(first) < len(parameter):  # the pool has doubled
            more = parameter.new_zeros((len(parameter) - len(first), *parameter.shape[1:]))
            first, second = torch.cat([first, more]), torch.cat([second, more])
        self.moments[name] = (first, second)
        return first, second


def normalised(target: Tensor) -> Tensor:
    """`target` over its root mean square, so that one learning rate fits every site."""
    return target / target.square().mean().sqrt().clamp_min(torch.finfo(target.dtype).tiny)


def error_by_seed(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each seed, `[S]`.

    Args:
        prediction: `[S, B, d]`.
        target: `[S, B, d]`, or `[B, d]` where all seeds share it.
    """
    return (prediction - target).square().flatten(1).mean(1)


def example(bed: Bed, passage: Passage) -> tuple[Tensor, Tensor]:
    """What the bed's blueprints read, and what they should answer, by their objective."""
    x = bed.site.blueprint_input(passage.input, bed.chunks)
    if bed.site.objective == "reconstruction":
        return x, x
    gradient = bed.site.blueprint_output(passage.gradient, bed.chunks)
    return x, normalised(-gradient)


class AsideTrainer:
    """Trains all seeds of a garden that are in plane `shadow`, one batch a call.

    Args:
        garden: whose sites capture what passes while they have shadow seeds.
        rate: learning rate of the isolated Adam.
        meter: counts what it costs.
    """

    def __init__(self, garden: Garden, rate: float, meter: FlopMeter) -> None:
        self._garden, self._rate, self._meter = garden, rate, meter
        self._adams: dict[str, RowAdam] = {}

    def start(self, bed: Bed) -> None:
        """The bed's rows were just allocated."""
        for slot in bed.slots.tolist():
            self._adam(bed).start(slot)

    def step(self) -> None:
        """Learn from what the last training batch left at the sites."""
        for bed in beds(self._garden, rows_in(self._garden.state, "plane", "shadow")):
            passage = bed.site.captured
            if passage is not None:
                self._learn(bed, passage)

    def judge(self, validation: Validation) -> tuple[Tensor, Tensor]:
        """How well shadow seeds do on held-out data: (reconstruction loss, gain), each `[N]`.

        +inf and -inf where nothing was measured. The gain is `1 - MSE / mean square` of the
        target: 1 is perfect, 0 is no better than answering 0.
        """
        n = len(self._garden.state)
        loss, gain = torch.full((n,), torch.inf), torch.full((n,), -torch.inf)
        for bed in beds(self._garden, rows_in(self._garden.state, "plane", "shadow")):
            unexplained = self._unexplained(bed, validation.passages.get(bed.site.path, []))
            if bed.site.objective == "reconstruction":
                loss[bed.rows] = unexplained
            else:
                gain[bed.rows] = 1 - unexplained
        return loss, gain

    def state_dict(self) -> dict[str, Any]:
        """Moments and ages of every bed."""
        return {key: adam.state_dict() for key, adam in self._adams.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._adams = {key: RowAdam(self._rate) for key in state}
        for key, adam in self._adams.items():
            adam.load_state_dict(state[key])

    def _adam(self, bed: Bed) -> RowAdam:
        return self._adams.setdefault(bed.key, RowAdam(self._rate))

    def _learn(self, bed: Bed, passage: Passage) -> None:
        x, target = example(bed, passage)
        with torch.enable_grad():
            params = {
                name: value.detach()[bed.slots].requires_grad_()
                for name, value in bed.pool.stacked().items()
            }
            with self._meter.forward((bed.key, "aside", len(bed.rows), x.shape), FlopMeter.TRAIN):
                prediction = bed.pool.kind.forward(params, x)
            errors = error_by_seed(prediction, target)
            finite = errors.isfinite()
            gradients = torch.autograd.grad(errors[finite].sum(), list(params.values()))
        learned = finite.nonzero().squeeze(1)  # a seed that is not finite touches no other
        self._adam(bed).update(
            bed.pool,
            bed.slots[learned],
            {name: g[learned] for name, g in zip(params, gradients, strict=True)},
        )

    @torch.no_grad()
    def _unexplained(self, bed: Bed, passages: list[Passage]) -> Tensor:
        """Squared error over the target's mean square, `[S]`; NaN where nothing was recorded."""
        error = torch.zeros(len(bed.rows))
        power = torch.zeros(len(bed.rows))
        params = bed.pool.rows(bed.slots)
        for passage in passages:
            x, target = example(bed, passage)
            with self._meter.forward((bed.key, "judge", len(bed.rows), x.shape), 1):
                prediction = bed.pool.kind.forward(params, x)
            error += error_by_seed(prediction, target).cpu() * len(x)
            power += error_by_seed(torch.zeros_like(prediction), target).cpu() * len(x)
        return error / power
