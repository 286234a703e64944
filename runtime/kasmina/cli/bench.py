"""`kasmina bench`: measure what the project claims."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from kasmina.bench import Benchmark, Row, known, load, report
from kasmina.errors import UsageError
from kasmina.observe.folder import write_atomically

Flag = Annotated[bool, Parameter(negative=())]


def bench(
    name: str | None = None,
    /,
    *,
    json: Flag = False,
    quick: Flag = False,
    jobs: int | None = None,
    out: Path | None = None,
) -> int:
    """Measure one benchmark; without a name, list them.

    Args:
        name: the benchmark.
        json: print one JSON object instead of a table.
        quick: a small part of it, in seconds, where the benchmark has one.
        jobs: processes to spread the work over, where the benchmark can.
        out: folder for what --json prints, as NAME-figures.json, and for tables and pictures, where
            the benchmark has some; what it holds already of a run that was ended is not measured
            again, where the benchmark can.

    Returns:
        0, or 1 where a target was missed.
    """
    console = Console()
    if name is None:
        for each in known():
            console.print(each)
        return 0
    subject = load(name)
    Console(stderr=True).print(f"{subject.name}: {subject.meaning}", style="dim")
    options = _options(subject, {"quick": quick or None, "jobs": jobs})
    if out is not None:
        _make(out)
        options |= {"out": out} if "out" in inspect.signature(subject.run).parameters else {}
    rows = subject.run(**options)
    told = msgspec.json.encode(report(name, rows))
    if out is not None:
        write_atomically(out / f"{name}-figures.json", told)
    if json:
        print(told.decode())  # noqa: T201  one line, not wrapped
    else:
        console.print(_table(name, rows))
    return int(any(row.met is False for row in rows))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: no folder can be there: {error.strerror}") from error


def _options(subject: Benchmark, given: Mapping[str, object]) -> dict[str, object]:
    """The options that were given; raises `UsageError` for one that the benchmark has not."""
    options = {name: value for name, value in given.items() if value is not None}
    known = inspect.signature(subject.run).parameters
    for name in options:
        if name not in known:
            has = ", ".join(f"--{each}" for each in dict.fromkeys([*known, "out"]))
            raise UsageError(f"benchmark {subject.name!r} has no --{name}; its options: {has}")
    if int(options.get("jobs", 1)) < 1:  # type: ignore[call-overload]  # a number, from the command line
        raise UsageError(f"--jobs is {options['jobs']}; give 1 or more")
    return options


def _table(name: str, rows: list[Row]) -> Table:
    table = Table("figure", "value", "target", "", "beside it", title=f"kasmina bench {name}")
    for row in rows:
        verdict = {None: "", True: "[green]met", False: "[red]missed"}[row.met]
        target = "" if row.target is None else f"{row.op} {row.target:g}"
        beside = "\n".join(f"{key}: {value:.4g}" for key, value in row.baselines.items())
        note = "  (quoted)" if row.quoted else ""
        table.add_row(row.name, f"{row.value:.4g} {row.unit}{note}", target, verdict, beside)
    return table
