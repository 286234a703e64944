"""Independent trials, spread over processes; what is done is kept, so that a run can go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import msgspec

Result = TypeVar("Result")


def trials(
    one: Callable[[int], Result],
    seeds: Sequence[int],
    kind: type[Result],
    jobs: int = 1,
    file: Path | None = None,
) -> list[Result]:
    """`one` of every seed, in their order.

    Args:
        one: a trial on one thread; a function of a module, which other processes can import.
        seeds: one trial each.
        kind: of what a trial gives, which msgspec can write and read.
        jobs: processes, 1 or more.
        file: of lines, one a trial that is done; those that it holds are not made again.
    """
    kept: dict[int, Result] = {}
    if file is not None and file.exists():
        for line in file.read_bytes().splitlines():
            seed, result = msgspec.json.decode(line, type=tuple[int, kind])  # type: ignore[valid-type]
            kept[seed] = result
    left = [seed for seed in seeds if seed not in kept]
    for seed, result in _spread(one, left, jobs):
        kept[seed] = result
        print(f"trial {seed}: {len(kept)} done", file=sys.stderr)  # noqa: T201
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as lines:
                lines.write(msgspec.json.encode((seed, result)) + b"\n")
    return [kept[seed] for seed in seeds]


def _spread(
    one: Callable[[int], Result], seeds: Sequence[int], jobs: int
) -> Iterator[tuple[int, Result]]:
    if jobs == 1:
        yield from ((seed, _alone(one, seed)) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = {pool.submit(_alone, one, seed): seed for seed in seeds}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _alone(one: Callable[[int], Result], seed: int) -> Result:
    """On one thread, as many trials run at once."""
    from kasmina.bench import single_thread

    with single_thread():
        return one(seed)
