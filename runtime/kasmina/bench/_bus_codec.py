"""What it takes to pack the health of 10,000 seeds, without a server: size, speed, overhead.

The numbers are those of a network that trains: mean, deviation, mean magnitude and maximum of the
outputs of each of 10,000 chunks, one frame a step, each from a batch of its own. So every number of
an active seed changes in every frame, by the noise of its batch; a dormant one keeps what was last
sampled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kasmina.bench import Row, interleave, require, single_thread
from kasmina.bus.claims import ClaimStore
from kasmina.bus.client import FIRST, MessageBusClient
from kasmina.bus.connecting import open_bus
from kasmina.bus.frames import HealthFrame
from kasmina.bus.health import HealthDecoder, HealthEncoder
from kasmina.bus.in_process import InProcessBus
from kasmina.bus.packing import EXACT, Precision
from kasmina.bus.stamping import Stamp
from kasmina.bus.telemetry import TelemetryConfig, TelemetryPublisher, TelemetryReader
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import LayerHealth, TelemetryBatch

SEEDS, WIDTH, BATCH = 10_000, 16, 64  # chunks, features of a chunk, examples of a batch
FRAMES, TOGETHER = 32, 8  # recorded, and in one batch
BOUND = 1e-3
ROUNDS = 10  # of all frames through a server
SINGLES = 500  # messages of one seed, timed one by one

Columns = dict[str, NDArray[np.float32]]


def codec_rows() -> list[Row]:
    """Compression, throughput and overhead of telemetry, measured in this process."""
    with single_thread():
        active = _recorded()
        dormant = _with_dormant(active, 0.7)
        bounded = Precision("bounded", BOUND)
        _check(active, bounded)
        return [*_sizes(active, dormant, bounded), *_speeds(active, bounded), _overhead(active)]


async def packed_through(url: str | None) -> Row:
    """Telemetry of all seeds from hand-over to decoded, through a server, in one process."""
    frames = _frames(_recorded())
    config = TelemetryConfig(precision=Precision("bounded", BOUND), keep=100)
    async with open_bus(url) as out:
        other = out.peer() if isinstance(out, InProcessBus) else open_bus(url)
        async with other as back:
            publisher = TelemetryPublisher(out, "packed", Stamp("bench"), config=config)
            began, spent = time.perf_counter(), time.process_time()
            got, _ = await asyncio.gather(_decoded(back), _published(publisher, frames))
            seconds, spent = time.perf_counter() - began, time.process_time() - spent
    require(got == ROUNDS * FRAMES, "every frame comes through")
    return Row(
        f"rows of seeds through the server, {SEEDS:,} a site, packed, published and decoded",
        got * SEEDS / seconds, "1/s", 5e6, ">=",
        baselines={"1/s of this process's CPU time": got * SEEDS / spent},
    )  # fmt: skip


async def _published(publisher: TelemetryPublisher, frames: Sequence[HealthFrame]) -> None:
    for _ in range(ROUNDS):
        for frame in frames:
            publisher.offer(frame)
        await publisher.flush()


async def _decoded(client: MessageBusClient) -> int:
    reader, last, got = TelemetryReader(ClaimStore(client)), FIRST, 0
    while got < ROUNDS * FRAMES:
        for delivery in await client.read("packed", after=last, count=4, wait_s=1.0):
            last = delivery.id
            got += len(await reader.read(delivery.payload))
    return got


def _recorded() -> list[Columns]:
    """Frames of a network while it trains on noise, which changes more than data do."""
    stream = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, SEEDS * WIDTH), nn.ReLU(), nn.Linear(SEEDS * WIDTH, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    found = []
    for _ in range(FRAMES):
        x = torch.randn(BATCH, 16, generator=stream)
        y = model[0](x)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward((model[1:](y) - x[:, :8]).square().mean())
        optimizer.step()
        found.append(_statistics(y.detach().reshape(BATCH, SEEDS, WIDTH)))
    return found


def _statistics(chunks: torch.Tensor) -> Columns:
    """Of `[batch, seeds, width]`, by seed."""
    size = chunks.abs()
    return {
        "mean": chunks.mean((0, 2)).numpy(),
        "deviation": chunks.std((0, 2)).numpy(),
        "magnitude": size.mean((0, 2)).numpy(),
        "maximum": size.amax((0, 2)).numpy(),
    }


def _with_dormant(frames: Sequence[Columns], share: float) -> list[Columns]:
    still = np.random.default_rng(0).random(SEEDS) < share
    return [
        {name: np.where(still, frames[0][name], column) for name, column in each.items()}
        for each in frames
    ]


def _frames(columns: Sequence[Columns]) -> list[HealthFrame]:
    return [HealthFrame("bench", "a", 0, step, each) for step, each in enumerate(columns)]


def _packed(columns: Sequence[Columns], precision: Precision) -> list[bytes]:
    """As entries of the bus: keyframe, deltas, envelopes and all."""
    stamp, encoder = Stamp("bench"), HealthEncoder(0, precision=precision)
    return [
        wire.encode(stamp(encoder.encode(part)), check=False) for part in _parts(_frames(columns))
    ]


def _parts(frames: Sequence[HealthFrame]) -> Iterator[Sequence[HealthFrame]]:
    return (frames[at : at + TOGETHER] for at in range(0, len(frames), TOGETHER))


def _unpacked(payloads: Sequence[bytes]) -> list[HealthFrame]:
    decoder, found = HealthDecoder(), list[HealthFrame]()
    for payload in payloads:
        body = wire.decode(payload).body
        assert isinstance(body, TelemetryBatch)
        found += decoder.decode(body)
    return found


def _check(columns: Sequence[Columns], bounded: Precision) -> None:
    for precision in (EXACT, bounded):
        found = _unpacked(_packed(columns, precision))
        errors = [
            np.abs(got.columns[name].astype(np.float64) - column).max()
            for got, given in zip(found, columns, strict=True)
            for name, column in given.items()
        ]
        require(max(errors) <= precision.bound, f"errors stay within {precision.bound}")


def _sizes(active: list[Columns], dormant: list[Columns], bounded: Precision) -> list[Row]:
    raw = sum(column.nbytes for each in active for column in each.values())

    def ratio(columns: list[Columns], precision: Precision) -> float:
        return raw / sum(map(len, _packed(columns, precision)))

    return [
        Row(f"compression of {SEEDS:,} seeds, lossless, 70% dormant", ratio(dormant, EXACT),
            "x raw float32", 3.0, ">=", baselines={"all active": ratio(active, EXACT)}),
        Row(f"compression, error at most {BOUND:g}, all active", ratio(active, bounded),
            "x raw float32", 4.5, ">=", baselines={
                "70% dormant": ratio(dormant, bounded),
                "float16, all active": ratio(active, Precision("float16"))}),
    ]  # fmt: skip


def _speeds(columns: list[Columns], bounded: Precision) -> list[Row]:
    def through(precision: Precision) -> Callable[[], object]:
        return lambda: _unpacked(_packed(columns, precision))

    subjects = {"lossless": through(EXACT), "bounded": through(bounded)}
    subjects["encode alone, lossless"] = partial(_packed, columns, EXACT)
    times = interleave(subjects, repeats=7, clock=time.process_time)  # of one core
    rows = SEEDS * FRAMES
    rates = {name: rows / times.median(name) for name in subjects}
    slowest = min(rates["lossless"], rates["bounded"])
    return [
        Row("rows of seeds encoded and decoded, the slower of lossless and bounded", slowest,
            "1/s of a core", 5e6, ">=", baselines=rates),
    ]  # fmt: skip


def _overhead(columns: list[Columns]) -> Row:
    """Seconds of this process from handing a seed's health over until a reader has it decoded."""
    frames = _frames(columns)[:TOGETHER]
    times = interleave(
        {
            "single": lambda: asyncio.run(_singles()),
            "batched": lambda: asyncio.run(_batch(frames)),
        },
        repeats=7,
    )
    single = times.median("single") / SINGLES
    batched = times.median("batched") / (SEEDS * TOGETHER)
    return Row(
        "time of a message (one seed at one step) alone, over its time in a batch",
        single / batched, "x", 100.0, ">=",
        baselines={"alone, us": 1e6 * single, "in a batch, us": 1e6 * batched},
    )  # fmt: skip


async def _singles() -> None:
    bus, stamp, last = InProcessBus(), Stamp("bench"), FIRST
    for step in range(SINGLES):
        health = LayerHealth(
            run="bench", epoch=0, step=step, site="a", first=step, gradient_ratio=0.0,
            state=b"\0", epochs=bytes(2), generation=bytes(4), alpha=bytes(4), mean=bytes(4),
            deviation=bytes(4), nonfinite=bytes(8),
        )  # fmt: skip
        await bus.publish("health", wire.encode(stamp(health), check=False))
        (delivery,) = await bus.read("health", after=last)
        last = delivery.id
        wire.decode(delivery.payload)


async def _batch(frames: Sequence[HealthFrame]) -> None:
    bus = InProcessBus()
    config = TelemetryConfig(batch_bytes=1 << 26, precision=Precision("bounded", BOUND))
    publisher = TelemetryPublisher(bus, "health", Stamp("bench"), config=config)
    for frame in frames:
        publisher.offer(frame)
    await publisher.flush()
    reader, got = TelemetryReader(ClaimStore(bus)), 0
    for delivery in await bus.read("health"):
        got += len(await reader.read(delivery.payload))
    assert got == len(frames)
