"""Benchmarks: each measures its targets, beside honest baselines, in one run.

A benchmark `name` is a module `kasmina/bench/name.py` with one decorated function:

    @benchmark("name")
    def run() -> list[Row]:
        '''One line of what is measured.'''

It checks that what it times is correct (`require`) before it times anything, and times with
`interleave`, so that a busy machine slows the subject and its baselines alike. `kasmina bench name`
imports the module and prints its rows; nothing has to be listed anywhere else.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kasmina.bench._machine import device_name, versions
from kasmina.bench._timing import Timings, interleave, single_thread
from kasmina.errors import KasminaError, UsageError

__all__ = [
    "Benchmark",
    "IncorrectResult",
    "Row",
    "Timings",
    "benchmark",
    "interleave",
    "known",
    "load",
    "report",
    "require",
    "single_thread",
]

Run = Callable[..., "list[Row]"]  # with options by name, if any: quick, jobs, out


class IncorrectResult(KasminaError):
    """What was to be timed gives a wrong answer, so its speed means nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, and the target that it is held against.

    `target` None means that the figure is for information. `baselines` are measured in the same
    run; a baseline that is not has `quoted` in its name. A `quoted` row repeats a figure from
    elsewhere and never meets a target.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    op: Literal["<=", ">="] = "<="
    baselines: Mapping[str, float] = field(default_factory=dict)
    quoted: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without a target. NaN reaches none."""
        if self.target is None:
            return None
        reached = self.value <= self.target if self.op == "<=" else self.value >= self.target
        return reached and not self.quoted

    def as_dict(self) -> dict[str, Any]:
        """The row as `--json` prints it."""
        row: dict[str, Any] = {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "target": self.target,
            "op": None if self.target is None else self.op,
            "met": self.met,
            "baselines": dict(self.baselines),
        }
        return row | ({"quoted": True} if self.quoted else {})


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A registered benchmark."""

    name: str
    run: Run
    meaning: str


_registered: dict[str, Benchmark] = {}


def benchmark(name: str) -> Callable[[Run], Run]:
    """Register the decorated function as benchmark `name`; its docstring says what it measures."""

    def register(run: Run) -> Run:
        meaning = (run.__doc__ or "").strip().partition("\n")[0]
        if not meaning:
            raise ValueError(f"benchmark {name!r}: {run.__qualname__} needs a docstring that says")
        _registered[name] = Benchmark(name, run, meaning)
        return run

    return register


def known() -> list[str]:
    """The names of all benchmarks, in alphabetical order, without importing them."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def load(name: str) -> Benchmark:
    """Import benchmark `name`.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in known():
        raise UsageError(f"no benchmark {name!r}; known: {', '.join(known())}")
    importlib.import_module(f"{__name__}.{name}")
    return _registered[name]


def require(condition: bool, what: str) -> None:
    """Check, before anything is timed, that a result is right.

    Raises:
        IncorrectResult: `condition` is false; `what` says what should have held.
    """
    if not condition:
        raise IncorrectResult(f"not timed, because this does not hold: {what}")


def report(name: str, rows: list[Row]) -> dict[str, Any]:
    """The one object that `kasmina bench NAME --json` prints."""
    return {
        "bench": name,
        "device": device_name(),
        "versions": versions(),
        "command": f"kasmina bench {name} --json",
        "rows": [row.as_dict() for row in rows],
    }
