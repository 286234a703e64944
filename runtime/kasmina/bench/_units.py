"""Work that is done piece by piece, on many processes, and goes on where it was ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import msgspec

U = TypeVar("U", bound=tuple[object, ...])
R = TypeVar("R")


def measured(
    units: Sequence[U],
    work: Callable[[U], R],
    made: type[R] | Any,
    *,
    jobs: int,
    file: Path | None,
) -> dict[U, R]:
    """What `work` gives for each of `units`: what `file` holds already is not done again.

    Args:
        units: what there is to do, the longest first; each a tuple of plain values.
        work: a function of a module, so that another process can call it.
        made: the type of what it gives, of which msgspec makes JSON and back.
        jobs: processes; 1 works in this one.
        file: a line is added for each unit that is done; None keeps nothing.
    """
    names = {str(list(unit)): unit for unit in units}
    kept: dict[str, R] = {}
    if file is not None and file.exists():
        for line in file.read_bytes().splitlines():
            entry = msgspec.json.decode(line)
            kept[str(entry["unit"])] = msgspec.convert(entry["outcomes"], made)
    left = [name for name in names if name not in kept]
    for name, result in _spread({name: names[name] for name in left}, work, jobs):
        kept[name] = result
        print(f"{name}: done, {len(kept)} of {len(names)}", file=sys.stderr)  # noqa: T201
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as lines:
                entry = {"unit": name, "outcomes": result}
                lines.write(msgspec.json.encode(entry) + b"\n")
    return {unit: kept[name] for name, unit in names.items()}


def _spread(units: dict[str, U], work: Callable[[U], R], jobs: int) -> Iterator[tuple[str, R]]:
    if jobs == 1:
        yield from ((name, work(unit)) for name, unit in units.items())
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = {pool.submit(work, unit): name for name, unit in units.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
