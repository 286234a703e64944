"""Health of all seeds of a site at one moment: frames, and the message of one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import blake3
import numpy as np
from numpy.typing import NDArray

from kasmina.bus.errors import BusError
from kasmina.bus.packing import DTYPES
from kasmina_generated.messages.types import FIELDS, LayerHealth

Array = NDArray[Any]
Shape = tuple[tuple[str, str, tuple[int, ...]], ...]

LARGEST_BATCH = 1 << 26  # bytes of all columns; a reader never makes room for more


class BadHealth(BusError, ValueError):
    """Frames that cannot be packed, or bytes that hold none."""


@dataclass(frozen=True, slots=True, eq=False)
class HealthFrame:
    """The health of the seeds of one site at one moment.

    Attributes:
        run: its name.
        site: path of the site.
        epoch: epochs finished.
        step: optimizer steps made.
        columns: by name, each `[seeds]` and of a dtype of `DTYPES`.
        first: slot of the first entry.
        gradient_ratio: RMS of the loss gradient at the site's output over the output's RMS; NaN
            where nothing was recorded.
    """

    run: str
    site: str
    epoch: int
    step: int
    columns: Mapping[str, Array]
    first: int = 0
    gradient_ratio: float = math.nan

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return sum(column.nbytes for column in self.columns.values())

    @property
    def source(self) -> tuple[str, str, int]:
        """What a stream of deltas is of."""
        return self.run, self.site, self.first

    def shape(self) -> Shape:
        """What must be equal in all frames of a batch: names, dtypes and seeds."""
        return tuple((name, str(c.dtype), c.shape) for name, c in self.columns.items())


def frame_of(health: LayerHealth) -> HealthFrame:
    """Return a message as a frame; the columns are read-only views of its bytes."""
    columns = {
        name: np.frombuffer(getattr(health, name), np.dtype(dtype)) for name, dtype in _COLUMNS
    }
    return HealthFrame(
        health.run, health.site, health.epoch, health.step, columns, health.first,
        health.gradient_ratio,
    )  # fmt: skip


def message_of(frame: HealthFrame) -> LayerHealth:
    """Return a frame as a message.

    Raises:
        BadHealth: its columns are not those of the message.
    """
    found = tuple((name, str(column.dtype)) for name, column in frame.columns.items())
    if sorted(found) != sorted(_COLUMNS):
        raise BadHealth(f"columns are {found}; those of the message are {_COLUMNS}")
    return LayerHealth(
        run=frame.run,
        site=frame.site,
        epoch=frame.epoch,
        step=frame.step,
        first=frame.first,
        gradient_ratio=frame.gradient_ratio,
        **{name: column.tobytes() for name, column in frame.columns.items()},
    )


_COLUMNS = tuple((f.name, f.of or "") for f in FIELDS["LayerHealth"] if f.type == "column")


def stream_name(run: str, site: str, first: int) -> str:
    """The name of a stream of deltas; a long one by its digest."""
    name = f"{run}/{site}" + (f"[{first}:]" if first else "")
    return name if len(name) <= 256 else f"blake3 {blake3.blake3(name.encode()).hexdigest()}"


def check_frames(frames: Sequence[HealthFrame], shape: Shape) -> int:
    """Refuse frames that make no batch; returns the seeds."""
    sizes = {size for _, _, size in shape}
    if any(len(size) != 1 for size in sizes) or len(sizes) > 1:
        raise BadHealth(f"columns are [seeds], all equally long, and not of the shapes {sizes}")
    for name, dtype, _ in shape:
        if dtype not in DTYPES:
            raise BadHealth(f"column {name!r} is {dtype}; legal are {', '.join(DTYPES)}")
    source = frames[0].source
    if any(frame.shape() != shape or frame.source != source for frame in frames):
        raise BadHealth(
            "the frames of a batch differ in site, names, dtypes or seeds: send them apart"
        )
    if (size := sum(frame.nbytes for frame in frames)) > LARGEST_BATCH:
        raise BadHealth(f"{size} bytes of frames; a batch holds at most {LARGEST_BATCH}")
    return sizes.pop()[0] if sizes else 0
