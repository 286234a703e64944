"""A pass through an inline site: generated kernels on a GPU, the twins on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kasmina.bench import Row, _gpu, benchmark, interleave, require, single_thread
from kasmina.bench._gpu import (
    Buffers,
    Call,
    Case,
    against,
    bandwidth,
    beside,
    called,
    captured,
    medians,
    on_gpu,
    rows_of,
    together,
    work,
)
from kasmina.bench._seeded import (
    ALPHA,
    TOLERANCES,
    Seeded,
    error,
    launches_of,
    loop,
    require_kernels,
    vectorised,
)

ROWS, FEATURES = 8192, 4096
CHUNKS, SHARES = (16, 64), (0.1, 1.0)
FLOORS = {0.1: 1.25, 1.0: 1.5}  # of the copy, by share
IN_PLACE = {64: 0.3, 16: 0.45}  # of the copy, by chunk
FASTER = {"torch.compile": 7.0, "eager vectorised": 14.0, "loop over chunks": 100.0}
SMALL = (256, 1024, 16)  # rows, features, chunk
CPU = (256, 16, 8, 64)  # seeds, chunk, hidden, rows
BF16 = torch.bfloat16


@benchmark("forward")
def run() -> list[Row]:
    """A forward pass of inline seeds, beside a copy, torch.compile and a loop over chunks."""
    return rows_of(cases())


def cases() -> Iterator[Case]:
    """What is measured, each by itself."""
    yield on_cpu
    if not on_gpu():
        yield nothing_more
        return
    for chunk in CHUNKS:
        for share in SHARES:
            yield partial(large, chunk, share)
        yield partial(in_place, chunk)
    yield small


def nothing_more() -> list[Row]:
    """A row that says why there are no others."""
    return [Row("GPU rows: torch finds no CUDA GPU", 0, "GPUs")]


def on_cpu() -> Iterator[Row]:
    """The twins against the plain loop, on one core."""
    for share, telemetry in ((0.1, True), (0.1, False), (1.0, True)):
        seeds, chunk, hidden, rows = CPU
        seeded = Seeded(seeds * chunk, seeds, hidden).activate(share)
        seeded.site.sample_every = int(telemetry)
        x, by_loop = torch.randn(rows, seeds * chunk), loop(seeded, telemetry)
        with torch.no_grad(), single_thread():
            agree = torch.allclose(seeded.model(x), by_loop(x), atol=1e-5)
            require(agree, f"{share:.0%} active: the twins give what the loop gives")
            subjects = {"twins": partial(seeded.model, x), "loop": partial(by_loop, x)}
            subjects["copy"] = partial(torch.empty_like(x).copy_, x)
            timings = interleave(subjects, repeats=15, calls=3, clock=time.process_time)
        told = "telemetry" if telemetry else "no telemetry"
        yield Row(
            f"CPU twins, {seeds} seeds, {share:.0%} active, {told}, against the loop over chunks",
            timings.ratio("loop", "twins"),
            "times faster",
            target=10.0 if share == 0.1 and telemetry else None,
            op=">=",
            baselines={f"{name}, us": timings.median(name) * 1e6 for name in subjects},
        )


def prepared(chunk: int, share: float, features: int) -> Seeded:
    """A site whose chunks have `chunk` features, and as many hidden units."""
    seeded = Seeded(
        features, features // chunk, chunk, dtype=BF16, device=_gpu.DEVICE, most=max(share, 0.1)
    )
    return seeded.activate(share)


def launching(seeded: Seeded, sample: Tensor | None) -> Callable[[Tensor, Tensor], Any]:
    """The site's kernels by themselves."""
    launches, alpha, stacks = launches_of(seeded.site), seeded.site.alpha.detach(), [seeded.stack()]
    require_kernels(seeded.site)
    return lambda x, out: launches.forward(x, out, alpha, stacks, False, sample)


def compiled(call: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` as it is meant for one shape."""
    return torch.compile(call, fullgraph=True, dynamic=False)


def plain(seeded: Seeded) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The vectorised form of a site by plain torch."""
    whole = len(seeded.active) == seeded.seeds
    slots, weights = None if whole else seeded.slots(), seeded.weights()
    return lambda x: vectorised(x, weights, ALPHA, slots, seeded.seeds)


def check(seeded: Seeded, sample: Tensor) -> None:
    """Hold the kernels' output and telemetry against float64."""
    x = torch.randn(ROWS // 8, seeded.features, device=_gpu.DEVICE).to(BF16)
    out = torch.full_like(x, torch.nan)
    launching(seeded, sample)(x, out)
    whole = len(seeded.active) == seeded.seeds
    wide = [weight.double() for weight in seeded.weights()]
    slots = None if whole else seeded.slots()
    wanted, told = vectorised(x.double(), wide, ALPHA, slots, seeded.seeds)
    require(error(out, wanted) < TOLERANCES[BF16], "the kernels give what float64 gives")
    for number in range(4):
        off = error(sample[:, number], told[number])
        require(
            off < TOLERANCES[BF16] or told[number].norm() == 0,
            f"telemetry {number} is right: {off}",
        )


@torch.no_grad()
def large(chunk: int, share: float) -> Iterator[Row]:
    """The pass with telemetry in every pass, and everything that it stands beside."""
    seeded = prepared(chunk, share, FEATURES)
    sample = torch.zeros(seeded.seeds, 4, device=_gpu.DEVICE)
    check(seeded, sample)
    buffers, form = Buffers.like(ROWS, FEATURES, BF16), plain(seeded)
    seeded.site.sample_every = 1
    ours = launching(seeded, sample)
    fast = compiled(form)
    times = medians(
        {
            "ours": captured(buffers.each(ours)),
            "site in a graph": captured(_passes(buffers, seeded.model)),
            "site as called": called(_passes(buffers, seeded.model)),
            "torch.compile": called(_passes(buffers, fast)),
            "eager vectorised": called(_passes(buffers, form)),
            "copy_": buffers.copies(),
        }
    )
    require_kernels(seeded.site)  # its own passes have held the kernels against the twins
    times |= medians(
        {"loop over chunks": called(_passes(buffers, loop(seeded, True))[:1])}, repeats=3
    )
    what = f"forward {ROWS}x{FEATURES} bf16, chunk {chunk}, {share:.0%} active, telemetry"
    floor = 2 * buffers.sources[0].nbytes / bandwidth()
    whole = 2 * buffers.sources[0].nbytes
    figures = beside(times, floor) | work(4 * ROWS * FEATURES * share * chunk, whole)
    yield Row(what, times["ours"] / floor, "x copy floor", FLOORS[share], baselines=figures)
    yield from against(what, times, FASTER)


def _passes(buffers: Buffers, call: Callable[[Tensor], object]) -> list[Call]:
    return [partial(call, source) for source in buffers.sources]


@torch.no_grad()
def in_place(chunk: int) -> Iterator[Row]:
    """The pass without telemetry where the host's output may be overwritten."""
    seeded, buffers = prepared(chunk, 0.1, FEATURES), Buffers.like(ROWS, FEATURES, BF16)
    ours = launching(seeded, None)
    x = buffers.sources[0]
    wanted, written = plain(seeded)(x)[0], x.clone()
    ours(written, written)
    require(
        error(written, wanted) < TOLERANCES[BF16], "in place gives what the vectorised form gives"
    )
    subjects = {
        "ours": captured([partial(ours, each, each) for each in buffers.targets]),
        "copy_": buffers.copies(),
    }
    for each in buffers.targets:
        each.copy_(x)
    times = medians(subjects)
    floor = 2 * x.nbytes / bandwidth()
    what = f"in place {ROWS}x{FEATURES} bf16, chunk {chunk}, 10% active, no telemetry"
    figures = beside(times, floor)
    yield Row(what, times["ours"] / floor, "x copy floor", IN_PLACE[chunk], baselines=figures)


def small() -> Iterator[Row]:
    """A small pass, host and device together: in a graph, eager, and with autograd."""
    rows, features, chunk = SMALL
    seeded = prepared(chunk, 0.1, features)
    seeded.site.sample_every = 0
    x = torch.randn(rows, features, device=_gpu.DEVICE).to(BF16)
    leaf, target = x.clone().requires_grad_(), torch.empty_like(x)
    with torch.no_grad():
        off = error(seeded.model(x), plain(seeded)(x)[0])
        require(off < TOLERANCES[BF16], f"the small site is right: {off}")
        require_kernels(seeded.site)
        many = captured([partial(seeded.model, x)] * 20)
        times = {
            "captured": together(many.call, 20) / many.times,
            "eager call under no_grad": together(partial(seeded.model, x)),
            "copy_": together(partial(target.copy_, x)),
        }
    times["eager call with autograd"] = together(partial(seeded.model, leaf))
    copy = {"copy_, us": times.pop("copy_")}
    wanted = {"captured": 5, "eager call under no_grad": 20, "eager call with autograd": 45}
    for name, us in times.items():
        what = f"{rows}x{features} bf16, chunk {chunk}, 10% active, {name}"
        yield Row(what, us, "us, host and device", target=wanted[name], baselines=copy)
