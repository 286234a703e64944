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
    except (OSError, ValueError) as error:
        raise TableError(
            f"{path}: no table of tiles ({type(error).__name__}: {error}); run tools/tune again, or "
            "restore the file"
        ) from error
    return {
        gpu: {
            direction: tuple(
                _measured(row, f"{path}: {gpu}, {direction}[{number}]")
                for number, row in enumerate(_of(list, rows, f"{path}: {gpu}, {direction}"))
            )
            for direction, rows in _of(dict, by, f"{path}: {gpu}").items()
        }
        for gpu, by in _of(dict, held, f"{path}").items()
    }


_LEGAL = {
    "rows": "a power of two from 16 up",
    "columns": "a power of two from 16 up",
    "warps": "a power of two from 1 up",
    "programs": "a whole number from 1 up",
    "stages": "a whole number from 1 up",
    "registers": "a whole number from 0 up",
}


def _of(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind):
        named = {"dict": "an object", "list": "a list"}[kind.__name__]
        raise _refused(where, f"is {value!r}", named)
    return value


def _refused(where: str, what: str, legal: str) -> TableError:
    return TableError(
        f"{where} {what}; legal: {legal}. Run tools/tune again, or restore the file"[:2000]
    )


def _measured(row: Any, where: str) -> Measured:
    fields = _of(dict, row, where)
    tiles = _of(dict, _held(fields, "tiles", where), f"{where}.tiles")
    for name, value in tiles.items():
        if name not in _LEGAL:
            raise _refused(f"{where}.tiles", f"has the field {name!r}", ", ".join(_LEGAL))
        if not _is_size(name, value):
            raise _refused(f"{where}.tiles.{name}", f"is {value!r}", _LEGAL[name])
    shape = {name: _held(fields, name, where) for name in ("rows", "chunks", "width", "bytes")}
    for name, value in shape.items():
        if type(value) is not int or value < 1:
            raise _refused(f"{where}.{name}", f"is {value!r}", "a whole number from 1 up")
    return Measured(**shape, tiles=Tiles(**tiles))


def _held(fields: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in fields:
        raise _refused(
            f"{where}.{name}", "is missing", "an entry with rows, chunks, width, bytes, tiles"
        )
    return fields[name]


def _is_size(name: str, value: object) -> bool:
    """Whether a kernel can be compiled for it; a product needs 16 rows and 16 columns."""
    if type(value) is not int:
        return False
    least = {"rows": 16, "columns": 16, "registers": 0}.get(name, 1)
    power = name in ("rows", "columns", "warps")
    return value >= least and not (power and value & (value - 1))


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
        self._known: dict[tuple[Direction, int, int, torch.dtype], tuple[Tiles, Tiles]] = {}

    def tiles(
        self, direction: Direction, y: Tensor, chunks: int, rows: int | None = None
    ) -> tuple[Tiles, Tiles]:
        """For a tensor `[N, F]` that is cut into `chunks`, as if it had so many rows.

        All row counts of one doubling have the same tiles, whichever comes first: so the same
        inputs give the same bits.

        Returns:
            The tiles of the direction, and those of what a launch of it carries over.
        """
        height, features = y.shape
        doubling = (height if rows is None else rows).bit_length()
        key = (direction, doubling, features, y.dtype)
        found = self._known.get(key)
        if found is None:
            shape = ((1 << doubling) >> 1, chunks, -(-features // chunks), y.element_size())
            ours, carried = (nearest(self._gpu, each, *shape) for each in (direction, _CARRY))
            self._known[key] = found = ours, carried
        return found


_CARRY: Direction = "carry"
