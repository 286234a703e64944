"""Measure tiles for the inline kernels on the GPU at hand, and write the committed table.

    PYTHONPATH=spec:generator:generated:runtime python -m tools.tune

needs torch and triton. For each class of shapes and each direction every candidate is timed in a
CUDA graph, with a tenth and with all of the seeds active, measured and not; the least product of
the times is taken.
The table of other GPUs is left as it is. Nothing is tuned inside a training run.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kasmina.bench import _gpu
from kasmina.bench._gpu import Buffers, captured, medians
from kasmina.bench._seeded import Seeded, launches_of
from kasmina.kernels.tiles import TABLE, Direction, Tiles, Tuning, table

BF16 = torch.bfloat16
# Share of the seeds that act, and whether the pass is measured; what is timed for a direction.
SITUATIONS: dict[Direction, tuple[tuple[float, bool], ...]] = {
    "carry": ((0.1, True), (0.1, False)),
    "forward": ((0.1, False), (1.0, False)),
    "sampled": ((0.1, True), (1.0, True)),
    "backward": ((0.1, False), (1.0, False)),
}
CANDIDATES: dict[Direction, tuple[Tiles, ...]] = {
    "carry": (
        Tiles(64, 64, 396, 4, 4),
        Tiles(64, 64, 528, 4, 4),
        Tiles(64, 64, 660, 4, 4),
        Tiles(128, 64, 396, 4, 3),
    ),
    "forward": (
        Tiles(64, 64, 396, 4, 3, 168),
        Tiles(32, 64, 396, 4, 4, 168),
        Tiles(32, 64, 528, 4, 3, 128),
        Tiles(64, 32, 396, 4, 3, 168),
    ),
    "sampled": (
        Tiles(64, 64, 396, 4, 3, 168),
        Tiles(32, 64, 396, 4, 4, 168),
        Tiles(64, 64, 264, 4, 3),
        Tiles(64, 32, 264, 4, 3),
    ),
    "backward": (
        Tiles(32, 64, 264, 4, 3),
        Tiles(32, 64, 264, 4, 4),
        Tiles(64, 64, 264, 4, 2),
        Tiles(64, 64, 264, 4, 3),
    ),
}


class Class(NamedTuple):
    """A class of shapes: rows, features, features of a chunk (bfloat16)."""

    rows: int
    features: int
    width: int


CLASSES = (Class(8192, 4096, 16), Class(8192, 4096, 64), Class(256, 1024, 16))


class Fixed(Tuning):
    """Tiles that stand in the place of the table."""

    def __init__(self) -> None:
        self.chosen: dict[Direction, Tiles] = {
            direction: tiles[0] for direction, tiles in CANDIDATES.items()
        }

    def tiles(
        self, direction: Direction, y: Tensor, chunks: int, rows: int | None = None
    ) -> tuple[Tiles, Tiles]:
        """See `Tuning`; the shape is of no account."""
        return self.chosen[direction], self.chosen["carry"]


class Bench:
    """One class of shapes, and the site on which its tiles are timed."""

    def __init__(self, of: Class, most: float = 1.0) -> None:
        seeds = of.features // of.width
        self.of, self.fixed = of, Fixed()
        self.seeded = Seeded(
            of.features, seeds, of.width, dtype=BF16, device=_gpu.DEVICE, most=max(most, 0.1)
        )
        self._buffers = Buffers.like(of.rows, of.features, BF16)
        self._sample = torch.zeros(seeds, 4, device=_gpu.DEVICE)
        launches_of(self.seeded.site)._tuning = self.fixed

    def timed(self, direction: Direction, tiles: Tiles, share: float, sampled: bool) -> float:
        """Microseconds of a pass with these tiles, with or without telemetry."""
        self.fixed.chosen[direction] = tiles
        self.seeded.activate(share)
        call = self._backward() if direction == "backward" else self._forward(sampled)
        return medians({"": captured(self._buffers.each(call))}, repeats=7)[""]

    def _forward(self, sampled: bool) -> Callable[[Tensor, Tensor], object]:
        launches, alpha, stacks = self._bound()
        sample = self._sample if sampled else None
        return lambda x, out: launches.forward(x, out, alpha, stacks, False, sample)

    def _backward(self) -> Callable[[Tensor, Tensor], object]:
        launches, alpha, stacks = self._bound()
        return lambda x, g: launches.backward(x, x, None, alpha, stacks)

    def _bound(self) -> tuple[Any, Tensor, list[list[Tensor]]]:
        site = self.seeded.site
        return launches_of(site), site.alpha.detach(), [self.seeded.stack()]

    def best(self, direction: Direction, told: list[dict[str, Any]]) -> Tiles:
        """The fastest candidate, from now on the one in use; all times go to `told`."""
        products = {}
        for tiles in CANDIDATES[direction]:
            try:
                times = [self.timed(direction, tiles, *each) for each in SITUATIONS[direction]]
            except Exception as error:  # noqa: BLE001  a candidate may not fit into the device
                sys.stdout.write(f"{self.of} {direction} {tuple(tiles)}: {error}\n"[:300])
                continue
            products[tiles] = math.prod(times)
            told.append(
                {**self.of._asdict(), "direction": direction, "tiles": tuple(tiles), "us": times}
            )
        self.fixed.chosen[direction] = min(products, key=products.__getitem__)
        return self.fixed.chosen[direction]


def compilations() -> Iterator[Callable[[], object]]:
    """What compiles everything that tuning will launch, in pieces that may run side by side."""
    for of in CLASSES:
        for direction, candidates in CANDIDATES.items():
            for half in (0, 1):
                yield partial(_launched, of, direction, candidates[half::2])


def _launched(of: Class, direction: Direction, candidates: tuple[Tiles, ...]) -> None:
    bench = Bench(of, most=0.1)
    for tiles in candidates:
        for share, sampled in SITUATIONS[direction]:
            bench.timed(direction, tiles, min(share, 0.1), sampled)


def tuned(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of this GPU, as it is written."""
    found: dict[str, list[dict[str, Any]]] = {direction: [] for direction in CANDIDATES}
    for of in CLASSES:
        bench = Bench(of)
        shape = {"rows": of.rows, "chunks": of.features // of.width, "width": of.width, "bytes": 2}
        for direction in CANDIDATES:
            best = bench.best(direction, told)
            sys.stdout.write(f"{of} {direction}: {tuple(best)}\n")
            found[direction].append({**shape, "tiles": best._asdict()})
    return found


def write(found: dict[str, Any], path: Path = TABLE) -> None:
    """Put the table of this GPU into the file."""
    held = json.loads(path.read_text()) | {torch.cuda.get_device_name(): found}
    path.write_text(json.dumps(held, indent=1) + "\n")
    table.cache_clear()


def main() -> int:
    """Tune, and write; 2 where there is no GPU."""
    if not torch.cuda.is_available():
        sys.stdout.write("there is no GPU that torch can use\n")
        return 2
    told: list[dict[str, Any]] = []
    write(tuned(told))
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
