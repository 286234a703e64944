"""How the cost of an inline site grows: with its seeds, with the share that acts, with their width.

Seeds have as many hidden units as features. Forward passes take their telemetry each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from kasmina.bench import Row, _gpu, benchmark, require
from kasmina.bench._gpu import (
    Buffers,
    Case,
    Subject,
    bandwidth,
    called,
    captured,
    medians,
    on_gpu,
    rows_of,
)
from kasmina.bench._seeded import ALPHA, TOLERANCES, Seeded, error, launches_of, vectorised
from kasmina.bench.forward import BF16, nothing_more

SEEDS = (1, 10, 100, 1000, 10_000)
MOST_HIDDEN = 64  # units of a wide chunk; GPUs have no kernels for more in half precision
PERCENT = (0, 1, 2, 5, 10, 20, 35, 50, 75, 100)
WIDTHS = (2, 4, 8, 16, 32, 64, 128, 256)
ROWS, FEATURES, CHUNK, FEW = 8192, 4096, 16, 512
SMALL = {"ROWS": 256, "FEATURES": 2048, "FEW": 64}  # on a CPU


@benchmark("curves")
def run(*, quick: bool = False) -> list[Row]:
    """The cost of an inline site over its seeds, their active share and their width."""
    return rows_of(cases(quick))


def cases(quick: bool = False) -> Iterator[Case]:
    """What is measured, each by itself; some points of each curve where it shall be `quick`."""
    rows, features, few = (ROWS, FEATURES, FEW) if on_gpu() else tuple(SMALL.values())
    every = 3 if quick else 1
    for seeds in SEEDS[: -1 if quick else None]:
        what = partial(point, "seeds", seeds, few, seeds * CHUNK, seeds)
        yield partial(what, max(0.1, 1 / seeds))
    for percent in PERCENT[::every]:
        yield partial(point, "share, %", percent, rows, features, features // CHUNK, percent / 100)
    for width in WIDTHS[::every]:
        seeds = features // width
        yield partial(point, "width", width, rows, features, seeds, max(0.1, 1 / seeds))
    if on_gpu():
        yield roof
    else:
        yield nothing_more


def point(
    axis: str, at: float, rows: int, features: int, seeds: int, share: float
) -> Iterator[Row]:
    """One point of a curve: forward and backward, beside a copy of the tensor."""
    device, dtype = (_gpu.DEVICE, BF16) if on_gpu() else ("cpu", torch.float32)
    width = features // seeds
    hidden, most = min(width, MOST_HIDDEN), max(share, 1 / seeds)
    seeded = Seeded(features, seeds, hidden, dtype=dtype, device=device, most=most)
    seeded.activate(share)
    times = medians(subjects(seeded, rows))
    described = f"{rows}x{features} {str(dtype).removeprefix('torch.')}, {seeds} seeds"
    figures = {axis: float(at), "copy_, us": times["copy_"]}
    for name in ("forward", "backward"):
        if name in times:
            what = f"curve of {axis}: {at}, {name}, {described}, {len(seeded.active)} active"
            yield Row(what, times[name], "us", baselines=figures)


def subjects(seeded: Seeded, rows: int) -> dict[str, Subject]:
    """The site's kernels in a graph; its twins as called."""
    launches, alpha = launches_of(seeded.site), seeded.site.alpha.detach()
    seeded.site.sample_every = 1
    if launches is None:
        x = torch.randn(rows, seeded.features)
        target = torch.empty_like(x)
        g, leaf = torch.randn_like(x), x.clone().requires_grad_()
        out = seeded.model(leaf)
        (to_x,) = torch.autograd.grad(out, leaf, g)
        check(seeded, x, out.detach(), to_x, g)
        forward = torch.no_grad()(partial(seeded.model, x))
        return {"forward": called([forward] * 3), "copy_": called([partial(target.copy_, x)] * 3)}
    sample, stacks = torch.zeros(seeded.seeds, 4, device=_gpu.DEVICE), [seeded.stack()]
    buffers = Buffers.like(rows, seeded.features, stacks[0][0].dtype)
    x, out = buffers.sources[0], buffers.targets[0]
    launches.forward(x, out, alpha, stacks, False, sample)
    few, g = x[:200], torch.randn_like(x[:200])
    pulled = launches.backward(g, few, None, alpha, stacks)
    check(seeded, few, out[:200], pulled.y, g)
    forwards = buffers.each(lambda x, y: launches.forward(x, y, alpha, stacks, False, sample))
    backwards = buffers.each(lambda x, g: launches.backward(x, x, None, alpha, stacks))
    return {
        "forward": captured(forwards),
        "backward": captured(backwards),
        "copy_": captured(buffers.each(lambda x, y: y.copy_(x)))
        if x.nbytes < 2**20
        else buffers.copies(),
    }


def check(seeded: Seeded, x: Tensor, found: Tensor, to_x: Tensor, g: Tensor) -> None:
    """Hold a pass and the gradient of its input against plain torch in float64."""
    weights: Sequence[Tensor] = [weight.double() for weight in seeded.weights()]
    wide = x.double().requires_grad_()
    with torch.enable_grad():
        wanted, _ = vectorised(wide, weights, ALPHA, seeded.slots(), seeded.seeds)
    (gradient,) = torch.autograd.grad(wanted, wide, g.double())
    most = TOLERANCES[x.dtype]
    require(error(found, wanted) < most, f"{seeded.seeds} seeds give what float64 gives")
    off = error(to_x, gradient)
    require(off < most, f"the gradient of {seeded.seeds} seeds is float64's: off by {off:.2g}")


def roof() -> Iterator[Row]:
    """The two ceilings of the device."""
    yield Row("roof: copy of 1 GiB, read and written", bandwidth() / 1e6, "TB/s")
    a, b = (torch.randn(8192, 8192, device=_gpu.DEVICE).to(BF16) for _ in range(2))
    took = medians({"product": called([partial(torch.mm, a, b)] * 3)})["product"]
    yield Row("roof: product of 8192x8192 bf16 matrices", 2 * 8192**3 / took / 1e6, "TFLOP/s")
