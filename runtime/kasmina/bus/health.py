"""Frames of health as batches and back.

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

from kasmina.bus.errors import BusError
from kasmina.bus.frames import (
    LARGEST_BATCH,
    Array,
    BadHealth,
    HealthFrame,
    Shape,
    check_frames,
    stream_name,
)
from kasmina.bus.packing import (
    DTYPES,
    EXACT,
    Coding,
    Precision,
    applies,
    from_planes,
    from_words,
    to_planes,
    to_words,
    width,
)
from kasmina_generated.messages.types import TelemetryBatch

_LEVEL = 1  # level 3 takes twice the time and saves 1% of telemetry
_WINDOW_LIMIT = 1 << 27


class MissingKeyframe(BusError):
    """A delta batch came and the one before it did not; the next key batch can be read again."""


Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=512)]


class ColumnHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """How a column is packed; `moved` seeds are not as before, `raw` numbers are sent as they are."""

    name: Name
    dtype: Annotated[str, Meta(max_length=8)]
    coding: Coding
    bound: float
    moved: Count
    raw: Count


class Packed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """What the `data` of a batch holds; `session` tells two lives of a publisher apart."""

    session: Count
    run: Name
    site: Name
    first: Count
    seeds: Annotated[int, Meta(ge=0, le=1 << 26)]
    epochs: Annotated[list[Count], Meta(min_length=1, max_length=65_536)]
    steps: Annotated[list[Count], Meta(max_length=65_536)]
    ratios: Annotated[list[float], Meta(max_length=65_536)]
    columns: Annotated[list[ColumnHeader], Meta(max_length=256)]
    content: bytes


class HealthEncoder:
    """Packs the frames of one source; for one thread.

    Args:
        session: differs from that of any other encoder of the source.
        precision: of all columns of floats, or by name; what is not named is exact.
        key_every: batches from one key batch to the next, 1 or more.
    """

    def __init__(
        self,
        session: int,
        *,
        precision: Precision | Mapping[str, Precision] = EXACT,
        key_every: int = 32,
    ) -> None:
        self._session, self._precision, self._key_every = session, precision, key_every
        self._number = self._key = 0  # of the next batch, and of the last key batch
        self._shape: Shape | None = None
        self._words: dict[str, Array] = {}  # of the last frame, by column
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)

    def reset(self) -> None:
        """Let the next batch be a key batch, because this one may not have arrived."""
        self._shape = None

    def encode(self, frames: Sequence[HealthFrame], *, dropped: int = 0) -> TelemetryBatch:
        """Pack frames, one or more, of equal shape.

        Raises:
            BadHealth: they are not equal, too large, or of a dtype that cannot be packed.
        """
        first, shape = frames[0], frames[0].shape()
        seeds = check_frames(frames, shape)
        if shape != self._shape or self._number - self._key >= self._key_every:
            self._key = self._number
        headers, parts = [], list[bytes]()
        for name, dtype, _ in shape:
            header, column = self._column(name, dtype, seeds, frames)
            headers.append(header)
            parts += column
        content = b"".join(parts)
        packed = Packed(
            session=self._session,
            run=first.run,
            site=first.site,
            first=first.first,
            seeds=seeds,
            epochs=[frame.epoch for frame in frames],
            steps=[frame.step for frame in frames],
            ratios=[frame.gradient_ratio for frame in frames],
            columns=headers,
            content=self._compressor.compress(content),
        )
        self._shape, self._number = shape, self._number + 1
        codings = {header.coding for header in headers}
        return TelemetryBatch(
            stream=stream_name(*first.source),
            frame=self._number - 1,
            keyframe=self._key,
            messages=len(frames),
            codec="zstd",
            precision=next((c for c in ("bounded", "float16") if c in codings), "exact"),
            bound=max((header.bound for header in headers), default=0.0),
            size=len(content),
            dropped=dropped,
            data=msgspec.msgpack.encode(packed),
        )

    def _column(
        self, name: str, dtype: str, seeds: int, frames: Sequence[HealthFrame]
    ) -> tuple[ColumnHeader, list[bytes]]:
        column = np.stack([frame.columns[name] for frame in frames])
        precision = self._of(name, dtype)
        words, raw = to_words(column, precision)
        key = self._key == self._number
        before = np.zeros(seeds, words.dtype) if key else self._words[name]
        self._words[name] = words[-1].copy()
        moved, planes = to_planes(words, before)
        header = ColumnHeader(
            name, dtype, precision.coding, precision.bound, int(moved.sum()), len(raw)
        )
        parts = (np.packbits(moved), raw, column.reshape(-1)[raw])
        still, places, numbers = (part.tobytes() for part in parts)
        return header, [still, planes, places, numbers]

    def _of(self, name: str, dtype: str) -> Precision:
        if isinstance(self._precision, Precision):
            return applies(self._precision, dtype)
        return applies(self._precision.get(name, EXACT), dtype)


@dataclass(slots=True)
class _Source:
    """What a decoder knows of a stream."""

    session: int
    frame: int
    layout: tuple[Any, ...]
    words: list[Array]


class HealthDecoder:
    """Unpacks batches of many streams; for one thread.

    Args:
        sources: streams whose last frame is kept; of more, those that were quiet longest wait for a
            key batch.
    """

    def __init__(self, sources: int = 256) -> None:
        self._limit = sources
        self._sources: OrderedDict[str, _Source] = OrderedDict()

    def decode(self, batch: TelemetryBatch) -> list[HealthFrame]:
        """Unpack a batch; its columns are views of one array a column.

        Raises:
            BadHealth: the batch is not what it says.
            MissingKeyframe: it needs a batch that did not come.
        """
        packed = _packed(batch)
        before = self._before(batch, packed)
        content = _decompress(batch, packed)
        words, columns, at = [], {}, 0
        for header, last in zip(packed.columns, before, strict=True):
            now, column, at = _column(packed, header, last, content, at)
            words.append(now[-1].copy())
            columns[header.name] = column
        self._sources[batch.stream] = _Source(packed.session, batch.frame, _layout(packed), words)
        self._sources.move_to_end(batch.stream)
        if len(self._sources) > self._limit:
            self._sources.popitem(last=False)
        rows = zip(packed.epochs, packed.steps, packed.ratios, strict=True)
        return [
            HealthFrame(
                packed.run, packed.site, epoch, step, {n: c[at] for n, c in columns.items()},
                packed.first, ratio,
            )
            for at, (epoch, step, ratio) in enumerate(rows)
        ]  # fmt: skip

    def _before(self, batch: TelemetryBatch, packed: Packed) -> list[Array]:
        if batch.keyframe == batch.frame:
            types = [f"<u{width(each.dtype, _precision(each))}" for each in packed.columns]
            return [np.zeros(packed.seeds, dtype) for dtype in types]
        known = self._sources.get(batch.stream)
        expected = (packed.session, batch.frame - 1, _layout(packed))
        if known is None or (known.session, known.frame, known.layout) != expected:
            self._sources.pop(batch.stream, None)
            raise MissingKeyframe(
                f"frame {batch.frame} of {batch.stream!r} needs frame {batch.frame - 1}, which was "
                "not read; it can be read again from its next keyframe on"
            )
        return known.words


def _packed(batch: TelemetryBatch) -> Packed:
    """Read what a batch holds, and hold it against what the batch says."""
    where = f"frame {batch.frame} of {batch.stream!r}"
    try:
        packed = msgspec.msgpack.decode(batch.data, type=Packed)
    except (ValueError, RecursionError) as error:
        raise BadHealth(f"{where}: its data holds no frames: {error}") from None
    frames, numbers = len(packed.epochs), len(packed.epochs) * packed.seeds
    names = {header.name for header in packed.columns}
    counts = {frames, len(packed.steps), len(packed.ratios), batch.messages}
    if len(counts) > 1 or len(names) < len(packed.columns) or batch.keyframe > batch.frame:
        raise BadHealth(
            f"{where}: messages, epochs, steps and ratios differ in number, a column stands twice, "
            "or its keyframe comes after it"
        )
    for header in packed.columns:
        if header.dtype not in DTYPES or header.raw > numbers or header.moved > packed.seeds:
            raise BadHealth(
                f"{where}: column {header.name!r} has dtype {header.dtype!r}, {header.raw} of "
                f"{numbers} numbers as they are and {header.moved} of {packed.seeds} seeds moved"
            )
    taken = numbers * sum(np.dtype(header.dtype).itemsize for header in packed.columns)
    if max(taken, batch.size // 3) > LARGEST_BATCH:  # numbers sent as they are have a place as well
        raise BadHealth(
            f"{where} would take {taken} bytes, and {batch.size} to unpack; a batch holds at most "
            f"{LARGEST_BATCH}"
        )
    if (size := _size(packed)) != batch.size:
        raise BadHealth(f"{where} says {batch.size} bytes, and its columns take {size}")
    return packed


def _size(packed: Packed) -> int:
    """Bytes of the content before compression."""
    frames, bits = len(packed.epochs), -(-packed.seeds // 8)
    return sum(
        bits
        + frames * each.moved * width(each.dtype, _precision(each))
        + each.raw * (4 + np.dtype(each.dtype).itemsize)
        for each in packed.columns
    )


def _precision(header: ColumnHeader) -> Precision:
    try:
        precision = Precision(header.coding, header.bound)
    except ValueError as error:
        raise BadHealth(f"column {header.name!r}: {error}") from None
    if precision != applies(precision, header.dtype):
        raise BadHealth(f"column {header.name!r} is {header.dtype} and cannot be {header.coding}")
    return precision


def _layout(packed: Packed) -> tuple[Any, ...]:
    columns = ((each.name, each.dtype, each.coding, each.bound) for each in packed.columns)
    return (packed.seeds, *columns)


def _decompress(batch: TelemetryBatch, packed: Packed) -> Array:
    """Decompress to exactly the declared size, never making room for more."""
    size, where = batch.size, f"frame {batch.frame} of {batch.stream!r}"
    if batch.codec == "plain":
        if len(packed.content) != size:
            raise BadHealth(f"{where}: its content has {len(packed.content)} bytes and not {size}")
        return np.frombuffer(packed.content, np.uint8)
    try:
        declared = zstandard.get_frame_parameters(packed.content).content_size
        if declared != size:
            raise BadHealth(f"{where}: its content declares {declared} bytes and not {size}")
        reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).stream_reader(
            packed.content, read_across_frames=False
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
    packed: Packed, header: ColumnHeader, before: Array, content: Array, at: int
) -> tuple[Array, Array, int]:
    """Unpack one column from `at`; returns its words, itself and where the next one begins."""
    frames, precision = len(packed.epochs), _precision(header)
    begin = at + -(-packed.seeds // 8)
    moved = np.unpackbits(content[at:begin], count=packed.seeds).view(bool)
    if moved.sum() != header.moved:
        raise BadHealth(f"column {header.name!r} has {moved.sum()} seeds moved, not {header.moved}")
    planes = begin + frames * header.moved * before.itemsize
    words = from_planes(content[begin:planes], before, moved, frames)
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
