"""What `kasmina grow` shall train and how, from its options."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kasmina.errors import UsageError

if TYPE_CHECKING:
    from kasmina.growth import GrowConfig
    from kasmina.growth.task import Task


def job(options: dict[str, Any]) -> tuple[Task, GrowConfig]:
    """What to train and how, from the options of a run."""
    task = _task(options["task"], options["width"])
    _check_strategy(options["strategy"])  # after the task, whose module may register some
    return task, _config(
        options["width"],
        options["budget"],
        options["epochs"],
        options["seed"],
        options["compare"],
        None if options["lifecycle"] is None else Path(options["lifecycle"]),
        options["limits"],
    )


def _check_strategy(name: str) -> None:
    from kasmina.grafting import StrategyError, strategy_number

    try:
        strategy_number(name)
    except StrategyError as error:
        raise UsageError(f"--strategy: {error}") from None


def check_numbers(
    *,
    width: int | None,
    budget: int | None,
    epochs: int | None,
    seed: int | None,
    every: int | None,
) -> None:
    """Raise `UsageError` for the first number that is too small; None is none."""
    least = {
        "--width": (width, 1),
        "--budget": (budget, 1),
        "--epochs": (epochs, 1),
        "--seed": (seed, 0),
        "--checkpoint-every": (every, 0),
    }
    for name, (value, lowest) in least.items():
        if value is not None and value < lowest:
            raise UsageError(f"{name} is {value}; it must be {lowest} or more")


def limits_of(given: Sequence[str]) -> dict[str, float]:
    """Read `limit=value` pairs; raises `UsageError` for what is none."""
    limits: dict[str, float] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        with suppress(ValueError):
            if equals and name and name not in limits:
                limits[name] = int(value) if value.lstrip("+-").isdigit() else float(value)
                continue
        twice = "is given twice" if name in limits else "is not of the form limit=number"
        raise UsageError(f"--set {pair} {twice}; write e.g. --set min_stability=0.8")
    return limits


def _task(name: str, width: int | None) -> Task:
    from kasmina.tasks import find

    task = find(name)
    if width is not None and not task.widths:
        raise UsageError(f"--width {width}: task {name!r} builds one width only; leave it out")
    return task


def _config(
    width: int | None,
    budget: int | None,
    epochs: int | None,
    seed: int,
    compare: bool,
    directory: Path | None,
    limits: dict[str, float],
) -> GrowConfig:
    from kasmina.growth import GrowConfig
    from kasmina.lifecycle import Lifecycle, LimitTable

    lifecycle = Lifecycle.default() if directory is None else Lifecycle.from_directory(directory)
    table = LimitTable(lifecycle)  # a limit that is not legal is told before the run
    for name, value in limits.items():
        table.override(name, value)
    return GrowConfig(
        width=width,
        budget=budget,
        epochs=epochs,
        seed=seed,
        compare=compare,
        lifecycle=lifecycle,
        limits=limits,
    )
