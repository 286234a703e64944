"""Rows of a pool that live and die under one running optimizer.

A pool's parameters are stacked, `[capacity, ...]`, and the optimizer knows the stack only. Rows
of seeds that may not train now must not move, nor may their moments (weight decay and momentum
would move both although their gradient is zero), a row that is allocated or freed must forget its
moments, and a row that joins late must be treated by its own age, not by the stack's: with the
stack's the first update of Adam is 1/(1 - beta1) / sqrt(1/(1 - beta2)) = 3.2 times too long.

Which rows stay is worked out when a step of the lifecycle has changed it. Where no row trains, the
optimizer does not see the pool at all. Free rows are 0, with gradient and moments, and 0 is where
torch's own optimizers leave them, so those need no holding.

This works for every optimizer whose state holds, for each parameter, tensors of its shape and
numbers. Adam and AdamW have a closed form; optimizers whose step depends on its number and that
have none (NAdam, RAdam, Adamax, Adagrad, ...) step rows of other ages once more, by themselves.

Sources: Kingma & Ba 2015, algorithm 1 (bias correction); Loshchilov & Hutter 2019 (decoupled decay).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from kasmina.growth.optimizer import is_moment
from kasmina.growth.row_state import RowState, Values, copied

Rows = Callable[[], Tensor]  # bool [capacity]; the same tensor while nothing has changed


class Apart(NamedTuple):
    """Rows of a pool at one step."""

    training: NDArray[np.bool_]  # [capacity]
    held: Tensor | slice  # rows that stay as they are; a slice is twice as quick as indices
    late: Tensor  # int64, rows that train and are younger than the stack
    late_at: Tensor | slice  # the same


class Split(NamedTuple):
    """Rows of a pool between two steps of the lifecycle, and the masks that they come from."""

    masks: tuple[tuple[Tensor, int], ...]  # with their versions then
    training: NDArray[np.bool_]  # [capacity]
    held: NDArray[np.int64]  # rows that stay as they are
    whole: Apart  # where none is late and none is held


class Before(NamedTuple):
    """What one parameter had before a step."""

    parameter: nn.Parameter
    rows: Apart
    held: Values | None  # None for no such row
    late: Values | None


class RowGuard:
    """Keeps the rows of one pool apart under `optimizer`.

    Args:
        optimizer: any optimizer whose per-parameter state is numbers and tensors of its shape.
        parameters: the pool's stacked parameters, each `[capacity, ...]`.
        training: returns bool `[capacity]`, the rows that the task's loss trains now.
        used: returns bool `[capacity]`, the rows that seeds hold; without it all may be held.
        plan: returns another object whenever the rows above may be others, unless `forget` or
            `grow` were called as well; without it they are looked at before each step.

    The guard works through the optimizer's own step hooks, so schedulers, gradient scalers and
    clipping go on as they are. While no row is held it has none.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        parameters: list[nn.Parameter],
        training: Rows,
        used: Rows | None = None,
        plan: Callable[[], object] | None = None,
    ) -> None:
        self._optimizer, self._state = optimizer, RowState(optimizer)
        self._parameters = parameters
        zero_stays = type(optimizer).__module__.startswith("torch.optim.")
        self._used = used if zero_stays else None
        self._masks = (training,) if self._used is None else (training, self._used)
        self._split: Split | None = None
        self._plan = plan
        self._even: object = None  # the plan under which all that train are as old as the stack
        self._ahead = 0  # steps under it that are not counted yet
        self._unseen: list[tuple[nn.Parameter, Tensor]] = []  # with what the step may not see
        self._age = np.zeros(parameters[0].shape[0], dtype=np.int64)  # numpy: 1 us where torch is 4
        self._steps = 0  # of the stack
        self._numbers: dict[int, dict[str, Any]] = {}  # by row: its state besides moments
        self._apart: Apart | None = None
        self._before: list[Before] = []
        self._handles: list[RemovableHandle] = []
        self._attend()

    def _attend(self) -> None:
        """Look at each step while a row is held; else all rows are 0 and stay so."""
        if self._used is not None and not self._used().any():
            self.close()
        elif not self._handles:
            self._handles += (
                self._optimizer.register_step_pre_hook(lambda *_: self._remember()),
                self._optimizer.register_step_post_hook(lambda *_: self._finish()),
            )

    def close(self) -> None:
        """Take the hooks off the optimizer."""
        while self._handles:
            self._handles.pop().remove()

    def state_dict(self) -> dict[str, Any]:
        """Ages in optimizer steps, int64 `[capacity]`, and what rows of their own age need."""
        self._settle()
        return {
            "age": torch.tensor(self._age),
            "steps": self._steps,
            "numbers": {row: copied(numbers) for row, numbers in self._numbers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave, after the optimizer's own; pads to the capacity now."""
        self._settle()
        self._age, self._steps = state["age"].numpy().copy(), state["steps"]
        self._numbers = {row: copied(numbers) for row, numbers in state["numbers"].items()}
        for parameter in self._parameters:
            self.grow(parameter, len(state["age"]), len(parameter))()
        self._attend()

    def forget(self, row: int) -> None:
        """Zero the row's moments in place: it was just allocated or freed."""
        self._settle()
        self._age[row] = 0
        self._numbers.pop(row, None)
        for parameter in self._parameters:
            for name, moment in self._state.moments(parameter).items():
                moment[row] = self._state.start(parameter, name)
        self._attend()

    def grow(self, parameter: nn.Parameter, old_capacity: int, capacity: int) -> Callable[[], None]:
        """Pad the moments of a parameter that gets more rows; in their place once that is called."""
        state = self._state.of(parameter)
        padded = {}
        if capacity != old_capacity:
            for name, value in state.items():
                if is_moment(value, parameter, old_capacity):
                    start = self._state.start(parameter, name)
                    padded[name] = value.new_full((capacity, *value.shape[1:]), start)
                    padded[name][:old_capacity] = value

        def take_over() -> None:
            self._settle()
            state.update(padded)
            missing = capacity - len(self._age)
            if missing > 0:
                self._age = np.concatenate([self._age, np.zeros_like(self._age, shape=missing)])

        return take_over

    def _remember(self) -> None:
        """Keep of each parameter the rows for which the step to come is not the right one."""
        if self._even is not None:
            if self._even is self._plan_now() and self._parameters[0].grad is not None:
                self._ahead += 1  # one step more for all alike
                return
            self._settle()
        self._before, self._apart = [], None
        stepped = [p for p in self._parameters if p.grad is not None]
        if not stepped:
            return
        split = self._split_now()
        if not split.training.any():
            self._hide(stepped)
            return
        late = split.training & (self._age < self._stack_steps(stepped[0]))
        if not len(split.held) and not late.any():
            self._apart = split.whole
            self._even = self._plan_now()
            return
        if self._state.is_ageless(stepped[0]):
            late = np.zeros_like(late)
        held, late_rows = split.held, np.flatnonzero(late)
        device = stepped[0].device
        self._apart = rows = Apart(
            split.training,
            _place(held, device),
            torch.from_numpy(late_rows).to(device),
            _place(late_rows, device),
        )
        if not len(held) and not len(late_rows):
            return
        own = not self._state.is_adam  # whose late rows keep the stack's moments
        for parameter in stepped:
            self._keep_numbers(parameter, held)
            stay = self._kept(parameter, rows.held) if len(held) else None
            alone = self._kept(parameter, rows.late_at, own) if len(late_rows) else None
            self._before.append(Before(parameter, rows, stay, alone))

    def _plan_now(self) -> object:
        return None if self._plan is None else self._plan()

    def _settle(self) -> None:
        """Count the steps that were the same for all, and look again before the next one."""
        if self._split is not None and self._ahead:
            self._age[self._split.training] += self._ahead
            self._steps += self._ahead
        self._even, self._ahead = None, 0

    def _split_now(self) -> Split:
        """Which rows train and which are held; as before, while no mask was written to."""
        masks = [mask() for mask in self._masks]
        seen, found = self._split, [(mask, mask._version) for mask in masks]
        if seen is None or not _same(found, seen.masks):
            training, *used = (mask.cpu().numpy().copy() for mask in masks)
            stays = ~training & used[0] if used else ~training
            nobody = torch.zeros(0, dtype=torch.int64)
            whole = Apart(training, slice(0), nobody, slice(0))
            self._split = seen = Split(tuple(found), training, np.flatnonzero(stays), whole)
        return seen

    def _hide(self, stepped: list[nn.Parameter]) -> None:
        """Let the step pass by these parameters."""
        for parameter in stepped:
            assert parameter.grad is not None
            self._unseen.append((parameter, parameter.grad))
            parameter.grad = None

    def _kept(self, parameter: nn.Parameter, rows: Tensor | slice, moments: bool = True) -> Values:
        """Copies of some rows and of their moments."""
        found = self._state.moments(parameter) if moments else {}
        values = (parameter.detach(), *found.values())
        first, *rest = (v[rows].clone() if isinstance(rows, slice) else v[rows] for v in values)
        return Values(first, dict(zip(found, rest, strict=True)))

    def _finish(self) -> None:
        """Count the step, and mend it where it was not the right one."""
        if self._unseen:
            for parameter, gradient in self._unseen:
                parameter.grad = gradient
            self._unseen = []
        if self._apart is not None:
            self._age[self._apart.training] += 1
            self._steps += 1
            if self._before:
                self._restore()
            self._before, self._apart = [], None

    @torch.no_grad()
    def _restore(self) -> None:
        """Put back the rows that stay, and give those of their own age their own step."""
        if self._state.is_adam:
            share = self._own_share(self._before[0])
        for before in self._before:
            if before.held is not None:
                self._put_back(before, before.held)
            if before.late is not None and self._state.is_adam:
                self._correct(before, before.late, share)
            elif before.late is not None:
                self._step_again(before, before.late)

    def _put_back(self, before: Before, kept: Values) -> None:
        parameter, held = before.parameter, before.rows.held
        parameter[held] = kept.values
        for name, moment in self._state.moments(parameter).items():
            start = self._state.start(parameter, name)
            moment[held] = kept.moments.get(name, torch.tensor(start).to(moment))

    def _own_share(self, before: Before) -> Tensor:
        """What each late row takes of the stack's step, `[late]`."""
        betas = self._state.group(before.parameter)["betas"]
        steps = self._stack_steps(before.parameter)
        share = _own_bias(self._age[before.rows.late.cpu().numpy()], steps, *betas)
        return torch.from_numpy(share).to(before.parameter)

    def _correct(self, before: Before, kept: Values, share: Tensor) -> None:
        """Adam's step of the late rows by their own bias correction; the moments are right."""
        parameter, late = before.parameter, before.rows.late_at
        decayed = kept.values * self._state.decay(parameter)  # in the step too, and no update
        column = share.view(-1, *[1] * (parameter.dim() - 1))
        parameter[late] = torch.lerp(decayed, parameter[late], column)

    def _step_again(self, before: Before, kept: Values) -> None:
        """Step late rows by an optimizer of their own, all of an age together."""
        for rows in self._of_one_age(before.rows.late):
            late = before.rows.late[rows]
            assert before.parameter.grad is not None  # else there was no step
            gradient = before.parameter.grad[late].clone()
            own = Values(kept.values[rows], {n: v[rows] for n, v in kept.moments.items()})
            numbers = self._numbers.get(int(late[0]))
            again = self._state.stepped(before.parameter, gradient, own, numbers)
            before.parameter[late] = again.values
            moments = self._state.moments(before.parameter)
            for name, moment in again.moments.items():
                moments[name][late] = moment
            if before is self._before[-1]:
                for row in late.tolist():
                    self._numbers[row] = copied(again.numbers)

    def _of_one_age(self, late: Tensor) -> Iterator[Tensor]:
        """Places in `late` of rows that have been stepped alike."""
        alike: dict[object, list[int]] = defaultdict(list)
        for place, row in enumerate(late.tolist()):
            numbers = self._numbers.get(row)
            fresh = numbers is None
            told = tuple((name, float(value)) for name, value in (numbers or {}).items())
            alike[fresh, told].append(place)
        yield from (torch.tensor(places) for places in alike.values())

    def _keep_numbers(self, parameter: nn.Parameter, held: NDArray[np.int64]) -> None:
        """A row that is held up leaves the stack with the numbers that the stack has now."""
        if self._state.is_adam or self._state.is_ageless(parameter):
            return  # they need none
        for row in held.tolist():
            age = int(self._age[row])
            if 0 < age == self._steps and row not in self._numbers:
                self._numbers[row] = self._state.numbers(parameter)

    def _stack_steps(self, parameter: nn.Parameter) -> int:
        """The stack's age; an optimizer that counts knows it best."""
        return int(self._state.of(parameter).get("step", self._steps))


def _same(found: Sequence[tuple[Tensor, int]], seen: Sequence[tuple[Tensor, int]]) -> bool:
    """Whether these are the same masks, not written to since."""
    return all(
        one is other and version == then
        for (one, version), (other, then) in zip(found, seen, strict=True)
    )


def _place(rows: NDArray[np.int64], device: torch.device) -> Tensor | slice:
    """Rows as a slice, where they follow each other."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return torch.from_numpy(rows).to(device)


def _own_bias(
    age: NDArray[np.int64], steps: int, beta1: float, beta2: float
) -> NDArray[np.float64]:
    """What turns Adam's update by the stack's age `steps` into the one by each row's own, `[rows]`.

    Kingma & Ba 2015, algorithm 1, where epsilon is small beside the root of the second moment.
    """
    age = age.clip(1, steps)
    first = (1 - beta1**steps) / (1 - beta1**age)
    second = (1 - beta2**age) / (1 - beta2**steps)
    factor: NDArray[np.float64] = first * np.sqrt(second)
    return factor
