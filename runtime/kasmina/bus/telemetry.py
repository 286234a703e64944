"""Sends the health of many sites, and reads it.

Telemetry yields to everything else: whoever hands a frame over never waits, and where the bus is
slow or away the oldest frames go; each batch says how many of its site went before it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from random import Random
from threading import Lock

from kasmina.bus.breaker import CircuitBreaker
from kasmina.bus.claims import ClaimStore
from kasmina.bus.client import MessageBusClient
from kasmina.bus.frames import BadHealth, HealthFrame, check_frames, frame_of
from kasmina.bus.health import HealthDecoder, HealthEncoder
from kasmina.bus.outages import Outages
from kasmina.bus.packing import EXACT, Precision
from kasmina.bus.retry import DEFAULT_BACKOFF, Backoff, BadSetting
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages.types import LayerHealth, TelemetryBatch

Source = tuple[str, str, int]

_KEPT_S = 60.0  # a frame that is larger than an entry; an hour of them would fill the bus


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """When a batch is sent, and what it may lose.

    Attributes:
        batch_frames: frames that are sent without waiting for more.
        batch_bytes: bytes of columns that are; a batch holds no more of several frames. The default
            always fits into one entry of the bus.
        batch_s: how long a frame waits for others, seconds.
        limit_bytes: bytes of columns that wait at most; beyond, the oldest frames are dropped.
        keep: entries that the stream keeps; None keeps all.
        precision: of all columns of floats, or by name; what is not named is exact.
        key_every: batches of a site from one keyframe to the next.
    """

    batch_frames: int = 64
    batch_bytes: int = 1 << 19
    batch_s: float = 1.0
    limit_bytes: int = 64 << 20
    keep: int | None = 10_000
    precision: Precision | Mapping[str, Precision] = field(default=EXACT)
    key_every: int = 32

    def __post_init__(self) -> None:
        for name in ("batch_frames", "batch_bytes", "limit_bytes", "key_every"):
            if getattr(self, name) < 1:
                raise BadSetting("TelemetryConfig", name, getattr(self, name), "1 or more")
        if not self.batch_s > 0:
            raise BadSetting("TelemetryConfig", "batch_s", self.batch_s, "more than 0 seconds")


class TelemetryPublisher:
    """Sends frames in batches from the event loop in which `run` runs.

    Args:
        client: the bus.
        stream: where batches go.
        stamp: of this process.
        claims: takes batches that are too large for an entry; None makes one on the bus that keeps
            them for a minute.
        config: see `TelemetryConfig`.
        backoff: waits while the bus is away.
        rng: draws them.
        breaker: leaves a bus alone that keeps failing; what waits meanwhile is bounded as ever.
    """

    def __init__(
        self,
        client: MessageBusClient,
        stream: str,
        stamp: Stamp,
        *,
        claims: ClaimStore | None = None,
        config: TelemetryConfig | None = None,
        backoff: Backoff = DEFAULT_BACKOFF,
        rng: Random | None = None,
        breaker: CircuitBreaker | None = None,
    ) -> None:
        self.dropped: Counter[Source] = Counter()  # by site, since the publisher was made
        self.sent = 0
        self.outages = Outages(backoff, rng, breaker)
        self._client, self._stream, self._stamp = client, stream, stamp
        self._claims = claims or ClaimStore(client, expires_s=_KEPT_S)
        self._config = config or TelemetryConfig()
        self._lock = Lock()
        self._waiting: deque[HealthFrame] = deque()
        self._bytes = 0
        self._untold: Counter[Source] = Counter()  # dropped, and in no batch yet
        self._encoders: dict[Source, HealthEncoder] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._stopping = False

    @property
    def waiting(self) -> int:
        """Frames that wait."""
        return len(self._waiting)

    def offer(self, frame: HealthFrame) -> None:
        """Hand over a frame; from any thread, without waiting.

        The columns are not copied and must not change any more.

        Raises:
            BadHealth: the frame cannot be packed.
        """
        check_frames([frame], frame.shape())
        with self._lock:
            self._waiting.append(frame)
            self._bytes += frame.nbytes
            self._drop_surplus()
            full = len(self._waiting) >= self._config.batch_frames
            full |= self._bytes >= self._config.batch_bytes
        if full:
            self._wake_up()

    async def run(self) -> None:
        """Send until `stop`; then send what waits, if the bus takes it within `backoff`."""
        self._loop = asyncio.get_running_loop()
        while not self._stopping or self._waiting:
            if not self._stopping:
                await self._until_due()
            await self.outages.through(self.flush)

    def stop(self) -> None:
        """Let `run` send what waits and return; from any thread."""
        self._stopping = self.outages.ending = True
        self._wake_up()

    async def flush(self) -> None:
        """Send what waits now.

        Raises:
            BusError: the bus did not take it; the frames wait again.
        """
        with self._lock:
            frames, self._waiting, self._bytes = list(self._waiting), deque(), 0
            untold, self._untold = self._untold, Counter()
        left = Counter(untold)
        try:
            payloads = [
                await self._claims.fit(self._stamp(batch), self._stamp)
                async for batch in self._batches(frames, left)
            ]
            if payloads:
                await self._client.publish_many(self._stream, payloads, keep=self._config.keep)
        except BaseException:
            self._put_back(frames, untold)
            raise
        self.sent += len(frames)
        with self._lock:
            self._untold.update(left)  # of sites that had no frame left to tell it

    async def _batches(
        self, frames: Sequence[HealthFrame], untold: Counter[Source]
    ) -> AsyncIterator[TelemetryBatch]:
        for part in _parts(frames, self._config.batch_bytes):
            source = part[0].source
            encoder = self._encoder(source)
            # in a thread: 1 MB takes some 5 ms, and commands would wait for them
            yield await asyncio.to_thread(encoder.encode, part, dropped=untold.pop(source, 0))

    def _encoder(self, source: Source) -> HealthEncoder:
        if source not in self._encoders:
            self._encoders[source] = HealthEncoder(
                secrets.randbits(63),
                precision=self._config.precision,
                key_every=self._config.key_every,
            )
        return self._encoders[source]

    def _put_back(self, frames: list[HealthFrame], untold: Counter[Source]) -> None:
        """Nobody knows what arrived: let the frames wait again and begin with keyframes."""
        for source in {frame.source for frame in frames}:
            self._encoder(source).reset()
        with self._lock:
            self._waiting.extendleft(reversed(frames))
            self._bytes += sum(frame.nbytes for frame in frames)
            self._untold.update(untold)
            self._drop_surplus()

    def _drop_surplus(self) -> None:
        while self._bytes > self._config.limit_bytes and len(self._waiting) > 1:
            oldest = self._waiting.popleft()
            self._bytes -= oldest.nbytes
            self.dropped[oldest.source] += 1
            self._untold[oldest.source] += 1

    async def _until_due(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.batch_s):
                await self._wake.wait()
        self._wake.clear()

    def _wake_up(self) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended; nobody waits
                self._loop.call_soon_threadsafe(self._wake.set)


def _parts(frames: Iterable[HealthFrame], limit: int) -> Iterator[list[HealthFrame]]:
    """Frames of one site and shape together, in their order, of at most `limit` bytes."""
    by_source: dict[Source, list[HealthFrame]] = {}
    for frame in frames:
        by_source.setdefault(frame.source, []).append(frame)
    for same in by_source.values():
        for _, alike in groupby(same, key=HealthFrame.shape):
            part, size = list[HealthFrame](), 0
            for frame in alike:
                if part and size + frame.nbytes > limit:
                    yield part
                    part, size = [], 0
                part.append(frame)
                size += frame.nbytes
            yield part


class TelemetryReader:
    """Reads what a `TelemetryPublisher` sent, and single messages of health.

    Args:
        claims: gives out batches that went by claim-check.
        sources: sites whose last frame is kept.
    """

    def __init__(self, claims: ClaimStore, *, sources: int = 256) -> None:
        self._claims, self._decoder = claims, HealthDecoder(sources)
        self.dropped = 0  # frames that the senders had to drop

    async def read(self, payload: bytes) -> list[HealthFrame]:
        """Return the frames of an entry.

        Raises:
            MessageRefused: it is no message that can be read.
            BadClaim: its bytes are gone, or others.
            BadHealth: it holds no frames.
            MissingKeyframe: an entry before it was not read; later ones will be readable again.
        """
        body = (await self._claims.read(payload)).body
        if isinstance(body, LayerHealth):
            return [frame_of(body)]
        if not isinstance(body, TelemetryBatch):
            raise BadHealth(f"a message of kind {type(body).__name__} holds no health of seeds")
        self.dropped += body.dropped
        return self._decoder.decode(body)
