"""`kasmina replay`: live a logged run again and compare."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from kasmina.errors import UsageError
from kasmina.observe.folder import LOG
from kasmina.observe.log import SeedKey

if TYPE_CHECKING:
    from kasmina.growth import ReplayReport


def replay(
    run: Path,
    /,
    *,
    lifecycle: Path | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Live a logged run again and compare.

    The inputs of every step go through the lifecycle once more; the same transitions and the same
    architecture must come out.

    Args:
        run: run directory, or its events.jsonl.
        lifecycle: directory of the run's lifecycle, where it is not a built-in one.
        json: print one JSON object instead of tables.

    Returns:
        0, or 1 where the replay differs from the log.
    """
    _check(run)
    from kasmina.growth import replay
    from kasmina.lifecycle import Lifecycle

    made = None if lifecycle is None else Lifecycle.from_directory(lifecycle)
    report = replay(run, lifecycle=made)
    if json:
        print(json_module.dumps(asdict(report)))  # noqa: T201  one line, not wrapped
    else:
        _tell(Console(highlight=False), report)
    return int(bool(report.mismatches))


def _check(run: Path) -> None:
    if not run.exists():
        raise UsageError(f"{run}: there is no such run directory or log")
    if run.is_dir() and not (run / LOG).exists():
        raise UsageError(f"{run}: this directory is not a run: it has no {LOG}")


def _tell(console: Console, report: ReplayReport) -> None:
    states = Table("state", "seeds", box=None, header_style="dim", pad_edge=False)
    for name, count in report.states.items():
        states.add_row(name, str(count))
    grown = Table("seed", "blueprint", "parameters", "state", box=None, header_style="dim")
    for part in report.architecture:
        seed = str(SeedKey(part["site"], part["slot"], part["generation"]))
        grown.add_row(seed, part["blueprint"], f"{part['parameters']:,}", part["state"])
    console.print(
        f"{report.run} ({report.status}): {report.steps} steps, {report.transitions} transitions\n"
    )
    console.print(states)
    if report.architecture:
        console.print(grown)
    for mismatch in report.mismatches:
        console.print(f"differs: {mismatch}", markup=False, soft_wrap=True)
    if report.torn:
        console.print(f"note: {report.torn}", markup=False, soft_wrap=True)
    same = "the log differs from its replay" if report.mismatches else "the replay equals the log"
    console.print(f"\n{same}")
