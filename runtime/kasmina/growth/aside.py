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
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kasmina.growth.flops import FlopMeter
from kasmina.growth.lessons import Lesson, Lessons
from kasmina.growth.planes import Bed, beds, rows_in
from kasmina.growth.row_adam import RowAdam
from kasmina.growth.validation import Validation
from kasmina.sites import Garden, Passage, SiteLayer


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
        self._lessons: dict[str, Lessons] = {}  # by site

    def start(self, bed: Bed) -> None:
        """The bed's rows were just allocated."""
        for slot in bed.slots.tolist():
            self._adam(bed).start(slot)
        self._lessons.clear()

    def step(self) -> None:
        """Learn from what the last training batch left at the sites."""
        for path, site in self._garden.sites.items():
            passage = site.captured if site.plan.shadow else None
            if passage is not None:
                lessons = self._lessons_at(path, site)
                part = part_of(passage, self._most, site.shape.channels_first)
                whole = self._learn(lessons, part)
                if not whole or any(lesson.fresh for lesson in lessons):
                    del self._lessons[path]  # the rows are not of the ages that they were

    def judge(self, validation: Validation) -> Learned:
        """How well shadow seeds do on held-out data, and how long they have not got better."""
        n = len(self._garden.state)
        learned = Learned(
            torch.full((n,), torch.inf),
            torch.full((n,), -torch.inf),
            torch.zeros(n, dtype=torch.int32),
            torch.full((n,), -torch.inf),
        )
        seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for bed in beds(self._garden, rows_in(self._garden.state, "plane", "shadow")):
            passages = validation.passages.get(bed.site.path, [])
            if not passages:
                continue
            if _shared(bed) not in seen:
                seen[_shared(bed)] = [example(bed, passage) for passage in passages]
            moments = self._moments(bed, seen[_shared(bed)])
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
        self._lessons.clear()

    def _adam(self, bed: Bed) -> RowAdam:
        return self._adams.setdefault(bed.key, RowAdam(self._rate))

    def _lessons_at(self, path: str, site: SiteLayer) -> list[Lesson]:
        """The site's beds that learn; the same ones until a step of the lifecycle changes them."""
        known = self._lessons.get(path)
        if known is None or known.plan is not site.plan:
            shadow = rows_in(self._garden.state, "plane", "shadow")
            mine = (bed for bed in beds(self._garden, shadow) if bed.site is site)
            known = Lessons(site.plan, [Lesson(bed, self._adam(bed)) for bed in mine])
            self._lessons[path] = known
        return known.lessons

    def _learn(self, lessons: list[Lesson], passage: Passage) -> bool:
        """One step of all beds of a site, by one backward pass; whether every seed has learned.

        A seed that is not finite touches no other.
        """
        errors, seen = [], dict[str, tuple[Tensor, Tensor]]()
        with torch.enable_grad():
            for lesson in lessons:
                bed = lesson.bed
                if _shared(bed) not in seen:
                    seen[_shared(bed)] = example(bed, passage)
                x, target = seen[_shared(bed)]
                if lesson.fresh:
                    self._begin(lesson, x, target)
                key = (bed.key, "aside", len(bed.rows), x.shape)
                with self._meter.forward(key, FlopMeter.TRAIN):
                    prediction = bed.pool.kind.forward(lesson.leaves(), x)
                errors.append(error_by_seed(prediction, target))
            every = torch.cat(errors)
            finite = every.isfinite()
            whole = bool(finite.all())
            leaves = [leaf for lesson in lessons for leaf in lesson.leaves().values()]
            total = every.sum() if whole else every[finite].sum()
            gradients = iter(torch.autograd.grad(total, leaves))
        masks = torch.split(finite, [len(lesson.rows) for lesson in lessons])
        for lesson, mask in zip(lessons, masks, strict=True):
            own = {name: next(gradients) for name in lesson.leaves()}
            lesson.learn(own, None if whole else mask)
        return whole

    @torch.no_grad()
    def _begin(self, lesson: Lesson, x: Tensor, target: Tensor) -> None:
        """Let kinds that want to see a batch before their first step have it."""
        if not bool(x.isfinite().all() and target.isfinite().all()):
            return
        bed, fresh = lesson.bed, lesson.fresh
        slots = bed.slots[fresh]
        with self._meter.forward((bed.key, "begin", len(fresh), x.shape), 1):
            begun = bed.pool.kind.begin(bed.pool.rows(slots), x, target)
        for name, values in (begun or {}).items():
            bed.pool.get_parameter(name)[slots] = values

    @torch.no_grad()
    def _moments(self, bed: Bed, examples: list[tuple[Tensor, Tensor]]) -> Moments:
        """Sums over all recorded passes that both measures of the objective come from."""
        moments = Moments(*torch.zeros(4, len(bed.rows), dtype=torch.float64))
        params = bed.pool.rows(bed.slots)
        for x, target in examples:
            with self._meter.forward((bed.key, "judge", len(bed.rows), x.shape), 1):
                prediction = bed.pool.kind.forward(params, x)
            moments.add(prediction, target.expand_as(prediction))
        return moments


def _shared(bed: Bed) -> str:
    """Equal for beds that read and answer the same: all of a site's, where seeds are parallel."""
    return bed.site.path if bed.site.placement == "parallel" else bed.key


def _reconstructs(bed: Bed) -> bool:
    return bed.site.objective == "reconstruction"
