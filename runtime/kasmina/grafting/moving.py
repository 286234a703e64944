"""One step of many ramps, each by its own strategy; a strategy that gives no alpha is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from kasmina.grafting.ramp import Ramp
from kasmina.grafting.registry import CHEAP, StrategyError, strategy_by_number, strategy_name

Who = Callable[[int], str]  # names a seed by its place in the tensors
_SHOWN = 3  # seeds in a message


def move(
    numbers: Tensor, ramp: Ramp, start: Tensor, target: Tensor, who: Who = "seed {}".format
) -> Tensor:
    """The next alpha of each seed, on its way from `start` to `target` by its own strategy.

    A ramp downwards goes by no measurement, its strategy sees NaN, and it ends with its steps,
    whatever a strategy says: a seed that never leaves would keep its slot for good.

    Args:
        numbers: the `grafting_strategy` column, any integer dtype, `[S]`.
        ramp: the ramps of the same seeds, `alpha` the blend factors as they are.
        start: float32 `[S]` in [0, 1], where the ramps began.
        target: float32 `[S]` in [0, 1], where they shall end; reached exactly.
        who: names a seed in messages.

    Returns:
        float32 `[S]` in [0, 1].

    Raises:
        StrategyError: a strategy raised, gave something else, or wrote into what it was given.
    """
    way = target - start
    behind = torch.where(way == 0, 1.0, (ramp.alpha - start) / way).clamp(0, 1)
    falls = way < 0
    share = _shares(numbers, _seen(numbers, replace(ramp, alpha=behind), falls), who)
    share = torch.where(falls & (ramp.steps >= ramp.length), 1.0, share)
    return torch.lerp(start, target, share)


def reads(numbers: Tensor) -> set[str]:
    """The measurements of `Ramp` that the strategies `numbers` want."""
    found: set[str] = set()
    for number in set(numbers.tolist()):
        found.update(getattr(strategy_by_number(number), "reads", CHEAP))
    return found


def _seen(numbers: Tensor, ramp: Ramp, falls: Tensor) -> Ramp:
    """The ramp with every measurement that a strategy reads; NaN where there is none to go by."""
    unknown = torch.full_like(ramp.alpha, torch.nan)
    told = {name: getattr(ramp, name) for name in reads(numbers)}
    return replace(
        ramp,
        **{
            name: unknown if each is None else torch.where(falls, unknown, each)
            for name, each in told.items()
        },
    )


def _shares(numbers: Tensor, ramp: Ramp, who: Who) -> Tensor:
    """How much of its way each seed shall have behind it."""
    used = set(numbers.tolist())
    found = torch.zeros_like(ramp.alpha)
    for number in used:
        alpha = _given(number, numbers, ramp, who)
        found = alpha if len(used) == 1 else torch.where(numbers == number, alpha, found)
    if not torch.equal(found, found.clamp(0, 1)):  # also where there is a NaN
        at = int((~((found >= 0) & (found <= 1))).nonzero()[0])
        raise _refused(
            int(numbers[at]),
            f"{float(found[at])} at step {int(ramp.steps[at])} of {int(ramp.length[at])}, where "
            f"alpha was {float(ramp.alpha[at]):g}",
            who(at),
            ramp,
            "clamp(0, 1) what it returns, and look for a division by 0 or a reading that is NaN",
        )
    return found


def _given(number: int, numbers: Tensor, ramp: Ramp, who: Who) -> Tensor:
    """What one strategy says of all seeds, as it must be but for the range."""
    told = [getattr(ramp, field.name) for field in fields(ramp)]
    before = [None if each is None else each._version for each in told]
    try:
        alpha = strategy_by_number(number).alpha(ramp)
    except Exception as error:
        what, todo = f"nothing, it raised {type(error).__name__}: {error}", "mend the strategy"
        raise _refused(number, what, _named(number, numbers, who), ramp, todo) from error
    changed = [
        field.name
        for field, each, version in zip(fields(ramp), told, before, strict=True)
        if each is not None and each._version != version
    ]
    like = ramp.alpha
    fits = isinstance(alpha, Tensor) and (alpha.dtype, alpha.shape, alpha.device) == (
        like.dtype,
        like.shape,
        like.device,
    )
    if fits and not changed:
        return alpha.detach()
    if changed:
        what, todo = f"its values and wrote into ramp.{changed[0]}", "it must write nothing"
    else:
        what, todo = _form(alpha), "compute it from ramp.progress, element by element"
    raise _refused(number, what, _named(number, numbers, who), ramp, todo)


def _named(number: int, numbers: Tensor, who: Who) -> str:
    """The first few seeds that have this strategy."""
    rows = (numbers == number).nonzero().flatten().tolist()
    return ", ".join(map(who, rows[:_SHOWN])) + (", ..." if len(rows) > _SHOWN else "")


def _form(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"{type(value).__name__} {value!r:.60}"
    return f"{value.dtype} {list(value.shape)} on {value.device}"


def _refused(number: int, what: str, seeds: str, ramp: Ramp, todo: str) -> StrategyError:
    like = ramp.alpha
    return StrategyError(
        f"grafting strategy {strategy_name(number)!r}: alpha(ramp) gave {what}, for {seeds}; legal: "
        f"{like.dtype} {list(like.shape)} on {like.device}, each in [0, 1]. Nothing was moved; {todo}"
    )
