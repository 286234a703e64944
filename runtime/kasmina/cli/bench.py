"""`kasmina bench`: measure what the project claims."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from kasmina.bench import Row, known, load, report


def bench(
    name: str | None = None, /, *, json: Annotated[bool, Parameter(negative=())] = False
) -> int:
    """Measure one benchmark; without a name, list them.

    Args:
        name: the benchmark.
        json: print one JSON object instead of a table.

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
    rows = subject.run()
    if json:
        print(msgspec.json.encode(report(name, rows)).decode())  # noqa: T201  one line, not wrapped
    else:
        console.print(_table(name, rows))
    return int(any(row.met is False for row in rows))


def _table(name: str, rows: list[Row]) -> Table:
    table = Table("figure", "value", "target", "", "beside it", title=f"kasmina bench {name}")
    for row in rows:
        verdict = {None: "", True: "[green]met", False: "[red]missed"}[row.met]
        target = "" if row.target is None else f"{row.op} {row.target:g}"
        beside = "\n".join(f"{key}: {value:.4g}" for key, value in row.baselines.items())
        note = "  (quoted)" if row.quoted else ""
        table.add_row(row.name, f"{row.value:.4g} {row.unit}{note}", target, verdict, beside)
    return table
