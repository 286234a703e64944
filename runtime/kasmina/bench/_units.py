"""Work that is done piece by piece, on many processes, and goes on where it was ended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kasmina.bench._timing import single_thread

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
    """What `work` gives for each of `units`, on one thread each: what `file` holds is not done again.

    Args:
        units: what there is to do, the longest first; each a tuple of plain values.
        work: a function of a module, so that another process can call it.
        made: the type of what it gives, of which msgspec makes JSON and back.
        jobs: processes; 1 works in this one.
        file: a line is added for each unit that is done; None keeps nothing.
    """
    names = {str(list(unit)): unit for unit in units}
    kept = {} if file is None else _kept(file, made)
    left = {name: unit for name, unit in names.items() if name not in kept}
    for name, result in _spread(left, work, jobs):
        kept[name] = result
        sys.stderr.write(f"{name}: done, {sum(n in kept for n in names)} of {len(names)}\n")
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as lines:
                entry = {"unit": name, "outcomes": result}
                lines.write(msgspec.json.encode(entry) + b"\n")
    return {unit: kept[name] for name, unit in names.items()}


def _kept(file: Path, made: type[R] | Any) -> dict[str, R]:
    """What a file holds; a line that was cut off while it was written is taken away."""
    if not file.exists():
        return {}
    found = file.read_bytes()
    whole = found[: found.rfind(b"\n") + 1]
    if whole != found:
        file.write_bytes(whole)
    entries = [msgspec.json.decode(line) for line in whole.splitlines()]
    return {str(entry["unit"]): msgspec.convert(entry["outcomes"], made) for entry in entries}


def _spread(units: dict[str, U], work: Callable[[U], R], jobs: int) -> Iterator[tuple[str, R]]:
    if jobs == 1:
        yield from ((name, _alone(work, unit)) for name, unit in units.items())
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = {pool.submit(_alone, work, unit): name for name, unit in units.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _alone(work: Callable[[U], R], unit: U) -> R:
    with single_thread():  # as many units run at once
        return work(unit)
