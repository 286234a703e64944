"""Sizes of a launch's tiles: measured once for a GPU and class of shapes, and committed.

`tiles.json` holds, by GPU, a list of measured shapes; `tools/tune` writes it. A launch takes the
nearest one. Nothing is tuned inside a training run. Legend: N rows, S chunks, c chunk width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from kasmina.errors import KasminaError

Direction = Literal["forward", "sampled", "backward", "carry"]
TABLE = Path(__file__).with_name("tiles.json")


class Tiles(NamedTuple):
    """How a launch cuts its tensor: a program takes `rows` by `columns`, and so on.

    `programs` is how many share the work, `registers` the most of a thread, 0 for what the compiler
    takes.
    """

    rows: int = 64
    columns: int = 64
    programs: int = 264
    warps: int = 4
    stages: int = 2
    registers: int = 0


class Measured(NamedTuple):
    """A shape for which tiles were measured."""

    rows: int  # N
    chunks: int  # S
    width: int  # c
    bytes: int  # of an element
    tiles: Tiles

    def distance(self, rows: int, chunks: int, width: int, bytes_: int) -> float:
        """How far another shape is from this one, in doublings; width counts most."""
        return (
            abs(math.log2(max(rows, 1) / self.rows))
            + abs(math.log2(chunks / self.chunks))
            + 4 * abs(math.log2(width / self.width))
            + 2 * abs(math.log2(bytes_ / self.bytes))
        )


class TableError(KasminaError, ValueError):
    """A table of tiles that cannot be used; says where."""


@cache
def table(path: Path = TABLE) -> Mapping[str, Mapping[str, Sequence[Measured]]]:
    """What was measured, by GPU and direction.

    Raises:
        TableError: the file is no such table.
    """
    try:
        held = json.loads(path.read_text())
        return {
            gpu: {direction: tuple(map(_measured, rows)) for direction, rows in by.items()}
            for gpu, by in held.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(
            f"{path}: no table of tiles ({type(error).__name__}: {error}); run tools/tune again, or "
            "restore the file"
        ) from error


def _measured(row: Mapping[str, Any]) -> Measured:
    shape = {name: int(row[name]) for name in ("rows", "chunks", "width", "bytes")}
    if min(shape.values()) < 1:
        raise ValueError(f"a shape holds numbers from 1 up, not {shape}")
    tiles = Tiles(**row["tiles"])
    for name, value in tiles._asdict().items():
        power = name in ("rows", "columns", "warps")
        least = 0 if name == "registers" else 1
        if not isinstance(value, int) or value < least or (power and value & (value - 1)):
            raise ValueError(f"{name}={value!r} of {row['tiles']} is no legal size of a tile")
    return Measured(**shape, tiles=tiles)


def nearest(
    gpu: str, direction: Direction, rows: int, chunks: int, width: int, bytes_: int
) -> Tiles:
    """The tiles of the nearest measured shape; sane ones for a GPU that nobody has measured."""
    measured = table().get(gpu, {}).get(direction, ())
    if not measured:
        return Tiles()
    return min(measured, key=lambda each: each.distance(rows, chunks, width, bytes_)).tiles


class Tuning:
    """The tiles of one site's launches, looked up once for a shape."""

    def __init__(self, device: torch.device) -> None:
        self._gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._known: dict[tuple[Direction, int, int, int], Tiles] = {}

    def tiles(self, direction: Direction, y: Tensor, chunks: int, rows: int | None = None) -> Tiles:
        """For a tensor `[N, F]` that is cut into `chunks`, as if it had so many rows.

        All row counts of one doubling have the same tiles, whichever comes first: so the same
        inputs give the same bits.
        """
        doubling = (len(y) if rows is None else rows).bit_length()
        features, size = y.shape[1], y.element_size()
        key = (direction, doubling, features, size)
        if key not in self._known:
            width = -(-features // chunks)
            self._known[key] = nearest(
                self._gpu, direction, (1 << doubling) >> 1, chunks, width, size
            )
        return self._known[key]
