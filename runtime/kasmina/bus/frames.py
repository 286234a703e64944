"""Health of all seeds of a site, frame after frame, as bytes and back.

A batch holds several frames of one source. A *key* batch stands for itself, a *delta* batch needs
the one before it. Every number is read back to the bit, or within the bound that its batch states.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import zstandard
from msgspec import Meta
from numpy.typing import NDArray

from kasmina.bus.errors import BusError
from kasmina.bus.packing import (
    DTYPES,
    LOSSLESS,
    Coding,
    Precision,
    applies,
    from_planes,
    from_words,
    to_planes,
    to_words,
    width,
)

Array = NDArray[Any]

LARGEST_BATCH = 1 << 26  # bytes of all columns; a reader never makes room for more
_LEVEL = 1  # level 3 takes twice the time and saves 1% of telemetry
_WINDOW_LIMIT = 1 << 27


class BadHealth(BusError, ValueError):
    """Frames that cannot be packed, or bytes that hold none."""


class MissingKeyframe(BusError):
    """A delta batch came and the one before it did not; the next key batch can be read again."""


@dataclass(frozen=True, slots=True, eq=False)
class HealthFrame:
    """The health of the seeds of one source at one moment.

    Attributes:
        epoch: epochs finished.
        step: optimizer steps made.
        time: seconds since 1970.
        columns: by name, each `[seeds]` and of a dtype of `DTYPES`.
    """

    epoch: int
    step: int
    time: float
    columns: Mapping[str, Array]

    @property
    def nbytes(self) -> int:
        """Bytes of the columns."""
        return sum(column.nbytes for column in self.columns.values())

    def shape(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """What must be equal in all frames of a batch: names, dtypes and seeds."""
        return tuple((name, str(c.dtype), c.shape) for name, c in self.columns.items())


Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]


class ColumnHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How a column is packed; `raw` numbers are sent as they are."""

    name: Name
    dtype: Annotated[str, Meta(max_length=8)]
    coding: Coding
    bound: float
    raw: Count


class HealthBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="health"):
    """Several frames of one source, packed.

    `session` tells two lives of a publisher apart; `number` counts its batches of this source from
    0; `dropped` counts the frames that it had to drop since the batch before.
    """

    source: Name
    session: Count
    number: Count
    key: bool
    dropped: Count
    seeds: Annotated[int, Meta(ge=0, le=1 << 26)]
    epochs: Annotated[list[Count], Meta(min_length=1, max_length=65_536)]
    steps: Annotated[list[Count], Meta(max_length=65_536)]
    times: Annotated[list[float], Meta(max_length=65_536)]
    columns: Annotated[list[ColumnHeader], Meta(max_length=256)]
    content: bytes


def to_bytes(batch: HealthBatch) -> bytes:
    """Return a batch as msgpack."""
    return msgspec.msgpack.encode(batch)


def from_bytes(data: bytes) -> HealthBatch:
    """Read what `to_bytes` wrote; raises `BadHealth` for anything else."""
    try:
        return msgspec.msgpack.decode(data, type=HealthBatch)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadHealth(f"{len(data)} bytes that are no batch of health: {error}") from None


class HealthEncoder:
    """Packs the frames of one source; for one thread.

    Args:
        source: whose health it is, e.g. run/site.
        session: differs from that of any other encoder of the source.
        precision: of all columns of floats, or by name; what is not named is lossless.
        key_every: batches from one key batch to the next, 1 or more.
    """

    def __init__(
        self,
        source: str,
        session: int,
        *,
        precision: Precision | Mapping[str, Precision] = LOSSLESS,
        key_every: int = 32,
    ) -> None:
        self._source, self._session, self._precision = source, session, precision
        self._key_every, self._number, self._since_key = key_every, 0, 0
        self._shape: tuple[Any, ...] | None = None
        self._words: dict[str, Array] = {}  # of the last frame, by column
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)

    def reset(self) -> None:
        """Let the next batch be a key batch, because this one may not have arrived."""
        self._shape = None

    def encode(self, frames: Sequence[HealthFrame], *, dropped: int = 0) -> HealthBatch:
        """Pack frames, one or more, of equal shape.

        Raises:
            BadHealth: they are not equal, too large, or of a dtype that cannot be packed.
        """
        shape = frames[0].shape()
        seeds = _check(frames, shape)
        key = shape != self._shape or self._since_key >= self._key_every
        headers, parts = [], list[bytes]()
        for name, dtype, _ in shape:
            column = np.stack([np.asarray(frame.columns[name]) for frame in frames])
            precision = self._of(name, dtype)
            words, raw = to_words(column, precision)
            before = np.zeros(seeds, words.dtype) if key else self._words[name]
            parts += [to_planes(words, before), raw.tobytes(), column.reshape(-1)[raw].tobytes()]
            headers.append(ColumnHeader(name, dtype, precision.coding, precision.bound, len(raw)))
            self._words[name] = words[-1].copy()
        batch = HealthBatch(
            source=self._source,
            session=self._session,
            number=self._number,
            key=key,
            dropped=dropped,
            seeds=seeds,
            epochs=[frame.epoch for frame in frames],
            steps=[frame.step for frame in frames],
            times=[frame.time for frame in frames],
            columns=headers,
            content=self._compressor.compress(b"".join(parts)),
        )
        self._shape, self._number = shape, self._number + 1
        self._since_key = 1 if key else self._since_key + 1
        return batch

    def _of(self, name: str, dtype: str) -> Precision:
        if isinstance(self._precision, Precision):
            return applies(self._precision, dtype)
        return applies(self._precision.get(name, LOSSLESS), dtype)


@dataclass(slots=True)
class _Source:
    """What a decoder knows of a source."""

    session: int
    number: int
    layout: tuple[Any, ...]
    words: list[Array]


class HealthDecoder:
    """Unpacks batches of many sources; for one thread.

    Args:
        sources: whose last frame is kept; of more, those that were quiet longest wait for a key
            batch.
    """

    def __init__(self, sources: int = 256) -> None:
        self._limit = sources
        self._sources: OrderedDict[str, _Source] = OrderedDict()

    def decode(self, batch: HealthBatch) -> list[HealthFrame]:
        """Unpack a batch; its columns are views of one array a column.

        Raises:
            BadHealth: the batch is not what it says.
            MissingKeyframe: it needs a batch that did not come.
        """
        before = self._before(batch)
        content = _decompress(batch)
        words, columns, at = [], {}, 0
        for header, last in zip(batch.columns, before, strict=True):
            now, column, at = _column(batch, header, last, content, at)
            words.append(now)
            columns[header.name] = column
        self._sources[batch.source] = _Source(
            batch.session, batch.number, _layout(batch), [each[-1].copy() for each in words]
        )
        self._sources.move_to_end(batch.source)
        if len(self._sources) > self._limit:
            self._sources.popitem(last=False)
        return [
            HealthFrame(epoch, step, time, {name: c[at] for name, c in columns.items()})
            for at, (epoch, step, time) in enumerate(
                zip(batch.epochs, batch.steps, batch.times, strict=True)
            )
        ]

    def _before(self, batch: HealthBatch) -> list[Array]:
        _check_header(batch)
        if batch.key:
            types = [f"<u{width(each.dtype, _precision(each))}" for each in batch.columns]
            return [np.zeros(batch.seeds, dtype) for dtype in types]
        known = self._sources.get(batch.source)
        follows = known is not None and (known.session, known.number + 1, known.layout) == (
            batch.session,
            batch.number,
            _layout(batch),
        )
        if known is None or not follows:
            self._sources.pop(batch.source, None)
            raise MissingKeyframe(
                f"batch {batch.number} of {batch.source!r} needs batch {batch.number - 1}, which "
                "was not read; frames can be read again from its next key batch on"
            )
        return known.words


def _check(
    frames: Sequence[HealthFrame], shape: tuple[tuple[str, str, tuple[int, ...]], ...]
) -> int:
    """Refuse frames that make no batch; returns the seeds."""
    sizes = {size for _, _, size in shape}
    if any(len(size) != 1 for size in sizes) or len(sizes) > 1:
        raise BadHealth(f"columns are [seeds], all equally long, and not of the shapes {sizes}")
    for name, dtype, _ in shape:
        if dtype not in DTYPES:
            raise BadHealth(f"column {name!r} is {dtype}; legal are {', '.join(DTYPES)}")
    if any(frame.shape() != shape for frame in frames):
        raise BadHealth("the frames of a batch differ in names, dtypes or seeds: send them apart")
    if (size := sum(frame.nbytes for frame in frames)) > LARGEST_BATCH:
        raise BadHealth(f"{size} bytes of frames; a batch holds at most {LARGEST_BATCH}")
    return sizes.pop()[0] if sizes else 0


def _check_header(batch: HealthBatch) -> None:
    frames = len(batch.epochs)
    names = {header.name for header in batch.columns}
    if not (frames == len(batch.steps) == len(batch.times) and len(names) == len(batch.columns)):
        raise BadHealth(
            f"batch {batch.number} of {batch.source!r}: epochs, steps and times differ in number, "
            "or a column stands twice"
        )
    for header in batch.columns:
        if header.dtype not in DTYPES or header.raw > frames * batch.seeds:
            raise BadHealth(
                f"batch {batch.number} of {batch.source!r}: column {header.name!r} has dtype "
                f"{header.dtype!r} and {header.raw} of {frames * batch.seeds} numbers as they are"
            )
    if _size(batch) > 3 * LARGEST_BATCH:  # at worst every number goes with its position as well
        raise BadHealth(
            f"batch {batch.number} of {batch.source!r} would take {_size(batch)} bytes; at most "
            f"{3 * LARGEST_BATCH} are read"
        )


def _size(batch: HealthBatch) -> int:
    """Bytes of the content before compression."""
    numbers = len(batch.epochs) * batch.seeds
    return sum(
        numbers * width(each.dtype, _precision(each))
        + each.raw * (4 + np.dtype(each.dtype).itemsize)
        for each in batch.columns
    )


def _precision(header: ColumnHeader) -> Precision:
    try:
        precision = Precision(header.coding, header.bound)
    except ValueError as error:
        raise BadHealth(f"column {header.name!r}: {error}") from None
    if precision != applies(precision, header.dtype):
        raise BadHealth(f"column {header.name!r} is {header.dtype} and cannot be {header.coding}")
    return precision


def _layout(batch: HealthBatch) -> tuple[Any, ...]:
    columns = ((each.name, each.dtype, each.coding, each.bound) for each in batch.columns)
    return (batch.seeds, *columns)


def _decompress(batch: HealthBatch) -> Array:
    """Decompress to exactly the declared size, never making room for more."""
    size, where = _size(batch), f"batch {batch.number} of {batch.source!r}"
    try:
        declared = zstandard.get_frame_parameters(batch.content).content_size
        if declared != size:
            raise BadHealth(f"{where}: its content declares {declared} bytes and not {size}")
        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).stream_reader(
            batch.content, read_across_frames=False
        )
        content = np.empty(size, np.uint8)
        view, filled = content.data, 0
        while filled < size and (got := reader.readinto(view[filled:])):
            filled += got
        if filled < size or reader.read(1):
            raise BadHealth(f"{where}: its content does not hold the {size} bytes it declares")
    except zstandard.ZstdError as error:
        raise BadHealth(f"{where}: its content cannot be read: {error}") from None
    return content


def _column(
    batch: HealthBatch, header: ColumnHeader, before: Array, content: Array, at: int
) -> tuple[Array, Array, int]:
    """Unpack one column from `at`; returns its words, itself and where the next one begins."""
    frames, precision = len(batch.epochs), _precision(header)
    planes = at + frames * batch.seeds * before.itemsize
    words = from_planes(content[at:planes], before, frames)
    column = from_words(words, precision, header.dtype)
    if header.dtype == "bool" and (words > 1).any():
        raise BadHealth(f"column {header.name!r} holds what is neither true nor false")
    positions = planes + 4 * header.raw
    end = positions + header.raw * np.dtype(header.dtype).itemsize
    if header.raw:
        places = content[planes:positions].copy().view("<u4")
        if places.max() >= column.size:
            raise BadHealth(f"column {header.name!r} has a number at a place that does not exist")
        column.reshape(-1)[places] = content[positions:end].copy().view(header.dtype)
    return words, column, end
