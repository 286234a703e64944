"""Training in isolation: blueprints learn beside the host from what passed it, and touch nothing.

The host's input and the gradient at the site's output are captured detached; the blueprint's rows
are trained on copies by an optimizer of their own, and no random number is drawn. Objectives:

- `functional_gradient` (parallel and residual seeds): regress the negative gradient of the loss at
  the site's output, so that adding the blueprint is a descent step in function space
  (Friedman 2001, gradient boosting; Evci et al. 2022, GradMax, for growing).
- `reconstruction` (inline seeds that replace): reproduce the input.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kasmina.blueprints import BlueprintPool
from kasmina.growth.flops import FlopMeter
from kasmina.growth.planes import Bed, beds, rows_in
from kasmina.growth.validation import Validation
from kasmina.sites import Garden, Passage

CLEARLY = 0.05  # a relative gain below this is taken for noise
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # Kingma & Ba 2015, as torch.optim.Adam


@dataclass(slots=True)
class RowAdam:
    """Adam over the rows of a pool, each row with its own age; moments are `[capacity, ...]`."""

    rate: float
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    age: dict[int, int] = field(default_factory=dict)
    progress: dict[int, Progress] = field(default_factory=lambda: defaultdict(Progress))

    def start(self, row: int) -> None:
        """The row was just allocated: forget what it had."""
        self.age[row] = 0
        self.progress[row] = Progress()
        for first, second in self.moments.values():
            first[row : row + 1] = 0  # a slice: the pool may have doubled since the last update
            second[row : row + 1] = 0

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
            "progress": {row: (p.best, p.stale) for row, p in self.progress.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.moments = {k: (m.clone(), v.clone()) for k, (m, v) in state["moments"].items()}
        self.age = dict(state["age"])
        for row, (best, stale) in state["progress"].items():
            self.progress[row] = Progress(best, stale)

    def _moments(self, name: str, parameter: Tensor) -> tuple[Tensor, Tensor]:
        first, second = self.moments.get(name, (None, None))
        if first is None or second is None:
            first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        elif len(first) < len(parameter):  # the pool has doubled
            more = parameter.new_zeros((len(parameter) - len(first), *parameter.shape[1:]))
            first, second = torch.cat([first, more]), torch.cat([second, more])
        first, second = (
            m.to(parameter.device) for m in (first, second)
        )  # a resume's are on the CPU
        self.moments[name] = (first, second)
        return first, second


def normalised(target: Tensor) -> Tensor:
    """`target` over its root mean square, so that one learning rate fits every site."""
    return target / target.square().mean().sqrt().clamp_min(torch.finfo(target.dtype).tiny)


def part_of(passage: Passage, most: int, channels_first: bool) -> Passage:
    """The first examples of a pass, as many as hold at most `most` positions; one or more."""
    features = passage.output.shape[1 if channels_first else -1]
    positions = passage.output[0].numel() // features
    return Passage(*(each[: max(1, most // positions)] for each in passage))


def error_by_seed(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each seed, `[S]`.

    Args:
        prediction: `[S, B, d]`.
        target: `[S, B, d]`, or `[B, d]` where all seeds share it.
    """
    return (prediction - target).square().flatten(1).mean(1)


def example(bed: Bed, passage: Passage) -> tuple[Tensor, Tensor]:
    """What the bed's blueprints read, and what they should answer, by their objective.

    In the blueprints' dtype, whatever the host computes in under autocast.
    """
    dtype = bed.pool.stack()[0].dtype
    x = bed.site.blueprint_input(passage.input, bed.chunks).to(dtype)
    if _reconstructs(bed):
        return x, x
    gradient = bed.site.blueprint_output(passage.gradient, bed.chunks).to(dtype)
    return x, normalised(-gradient)


class Learned(NamedTuple):
    """What shadow seeds have learned by their site's objective; by row of the state tensor, `[N]`.

    `reconstruction_loss` is the squared error over the target's mean square, +inf where nothing
    was measured. `validation_gain` is the share of the target's mean square that the blueprint
    explains when it is scaled by the best factor, as the line search before its graft will do, a
    lower bound of it: 0 where they point apart, -inf where nothing was measured.
    """

    reconstruction_loss: Tensor  # float32
    validation_gain: Tensor  # float32
    stale_epochs: Tensor  # int32, since it last did clearly better
    peak: Tensor  # float32, best share explained so far, of either objective; -inf before


@dataclass(slots=True)
class Moments:
    """Sums over held-out values by seed, float64 `[S]`, of prediction p and target t.

    `squares` sums the squares of what each example adds to `pt`.
    """

    pp: Tensor
    pt: Tensor
    tt: Tensor
    squares: Tensor
    examples: int = 0

    def add(self, p: Tensor, t: Tensor) -> None:
        """Add one pass; both `[S, N, ...]` with N examples."""
        self.examples += p.shape[1]
        p, t = p.double().flatten(2).cpu(), t.double().flatten(2).cpu()
        each = (p * t).sum(2)
        self.pp += (p * p).sum((1, 2))
        self.pt += each.sum(1)
        self.tt += (t * t).sum((1, 2))
        self.squares += each.square().sum(1)

    def unexplained(self) -> Tensor:
        """Squared error of p over the mean square of t."""
        return ((self.pp - 2 * self.pt + self.tt) / self.tt).float()

    def explainable(self) -> Tensor:
        """Share of t's mean square that the best positive multiple of p explains, lower bound.

        The share is the squared cosine of p and t. Two standard errors of their product are taken
        off, from what the examples differ by: noise gains nothing, and a task whose gradients are
        mostly noise, as a language model's are, may still gain a little.
        """
        n = max(self.examples, 2)
        error = ((self.squares - self.pt.square() / n) * (n / (n - 1))).clamp_min(0).sqrt()
        sure = ((self.pt - 2 * error) / (self.pp * self.tt).sqrt()).clamp_min(0)
        return torch.where(self.pp * self.tt == 0, 0, sure.square()).float()


@dataclass(slots=True)
class Progress:
    """Best value of a seed's objective so far, and the epochs since it was clearly bettered."""

    best: float = -math.inf
    stale: int = 0

    def watch(self, value: float) -> int:
        """Take in an epoch's value, higher is better; returns the epochs since the best."""
        if value > self.best + CLEARLY * abs(self.best) or self.best == -math.inf:
            self.best, self.stale = value, 0
        else:
            self.stale += 1
        return self.stale


class AsideTrainer:
    """Trains all seeds of a garden that are in plane `shadow`, one batch a call.

    Args:
        garden: whose sites capture what passes while they have shadow seeds.
        rate: learning rate of the isolated Adam.
        meter: counts what it costs.
        most: positions of a batch that are learned from at most; tokens and pixels count each.
    """

    def __init__(self, garden: Garden, rate: float, meter: FlopMeter, most: int) -> None:
        self._garden, self._rate, self._meter, self._most = garden, rate, meter, most
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
                self._learn(bed, part_of(passage, self._most, bed.site.shape.channels_first))

    def judge(self, validation: Validation) -> Learned:
        """How well shadow seeds do on held-out data, and how long they have not got better."""
        n = len(self._garden.state)
        learned = Learned(
            torch.full((n,), torch.inf),
            torch.full((n,), -torch.inf),
            torch.zeros(n, dtype=torch.int32),
            torch.full((n,), -torch.inf),
        )
        for bed in beds(self._garden, rows_in(self._garden.state, "plane", "shadow")):
            passages = validation.passages.get(bed.site.path, [])
            if not passages:
                continue
            moments = self._moments(bed, passages)
            if _reconstructs(bed):
                reached = -moments.unexplained()
                learned.reconstruction_loss[bed.rows] = -reached
            else:
                reached = moments.explainable()
                learned.validation_gain[bed.rows] = reached
            for row, slot, value in zip(
                bed.rows.tolist(), bed.slots.tolist(), reached.tolist(), strict=True
            ):
                progress = self._adam(bed).progress[slot]
                learned.stale_epochs[row] = progress.watch(value)
                learned.peak[row] = progress.best + 1 if _reconstructs(bed) else progress.best
        return learned

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
        self._begin(bed, x, target)
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
    def _begin(self, bed: Bed, x: Tensor, target: Tensor) -> None:
        """Let kinds that want to see a batch before their first step have it."""
        age = self._adam(bed).age
        fresh = [n for n, slot in enumerate(bed.slots.tolist()) if not age.get(slot)]
        if not fresh or not bool(x.isfinite().all() and target.isfinite().all()):
            return
        slots = bed.slots[fresh]
        with self._meter.forward((bed.key, "begin", len(fresh), x.shape), 1):
            begun = bed.pool.kind.begin(bed.pool.rows(slots), x, target)
        for name, values in (begun or {}).items():
            bed.pool.get_parameter(name)[slots] = values

    @torch.no_grad()
    def _moments(self, bed: Bed, passages: list[Passage]) -> Moments:
        """Sums over all recorded passes that both measures of the objective come from."""
        moments = Moments(*torch.zeros(4, len(bed.rows), dtype=torch.float64))
        params = bed.pool.rows(bed.slots)
        for passage in passages:
            x, target = example(bed, passage)
            with self._meter.forward((bed.key, "judge", len(bed.rows), x.shape), 1):
                prediction = bed.pool.kind.forward(params, x)
            moments.add(prediction, target.expand_as(prediction))
        return moments


def _reconstructs(bed: Bed) -> bool:
    return bed.site.objective == "reconstruction"
