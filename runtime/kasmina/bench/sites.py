"""What seeds cost in a forward pass: while they sleep, and by how many of them are awake."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kasmina.bench import Row, benchmark, interleave, require, single_thread
from kasmina.bench._seeded import Seeded, loop
from kasmina.sites import Site, morph
from kasmina.tasks.mlp import build_mlp

EXAMPLES, FEATURES, CLASSES, WIDTH = 64, 64, 10, 32  # the digits MLP and its batch
SEEDS, CHUNK, HIDDEN, BATCH = 256, 16, 8, 256  # of the inline site with many seeds
BUILDS = 15  # models that are built for one figure
SHARES = (0, 10, 25, 50, 100)  # percent of the seeds that are active

DIGITS = {
    "the task's site": (Site("features", seeds=4),),
    "one site of each placement": (
        Site("features", seeds=4),
        Site("activation", placement="inline", seeds=4, features=WIDTH),
    ),
}


@benchmark("sites")
def run() -> list[Row]:
    """Overhead of dormant sites on a training step, and the cost of active seeds."""
    with single_thread():
        return [*_dormant(), *_active()]


def _batch() -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(EXAMPLES, FEATURES, generator=stream)
    return x, torch.randint(CLASSES, (EXAMPLES,), generator=stream)


def _dormant() -> list[Row]:
    """Training steps with Adam: a plain model against one with sleeping seeds."""
    x, _ = _batch()
    for name, sites in DIGITS.items():
        same = torch.equal(morph(_host(), sites)(x), _host()(x))
        require(same, f"{name}: dormant seeds change no bit")
    noise, step = _overhead(_host)
    beside = {"plain step, us": step, "plain against plain, %": noise}
    return [
        Row(
            f"dormant, digits training step: {name}",
            _overhead(partial(_morphed, sites))[0],
            "% over the plain step",
            target=2.0,
            baselines=beside,
        )
        for name, sites in DIGITS.items()
    ]


def _overhead(build: Callable[[], nn.Module]) -> tuple[float, float]:
    """Percent that the step of `build`'s model takes longer, and a plain step in us.

    Where a model's memory lies moves a step by 2% either way, so models are built again and again.
    """
    timed = []
    for _ in range(BUILDS):
        subjects = {"plain": _training(_host()), "built": _training(build())}
        timed.append(interleave(subjects, repeats=120, calls=4, warmup=40, clock=time.process_time))
    ratios = [timings.ratio("built", "plain") for timings in timed]
    return 100 * (median(ratios) - 1), 1e6 * median(t.median("plain") for t in timed)


def _morphed(sites: tuple[Site, ...]) -> nn.Module:
    return morph(_host(), sites)


def _host() -> nn.Sequential:
    return build_mlp(FEATURES, CLASSES, WIDTH, seed=0)


def _training(model: nn.Module) -> Callable[[], None]:
    """One training step of the digits MLP."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = _batch()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model(x), y))
        optimizer.step()

    return step


def _active() -> list[Row]:
    """One pass through an inline site of many seeds, by the share of them that acts."""
    rows = []
    for share in SHARES:
        seeded = Seeded(SEEDS * CHUNK, SEEDS, HIDDEN).activate(share / 100)
        model, x, by_loop = seeded.model, torch.randn(BATCH, SEEDS * CHUNK), loop(seeded)
        with torch.no_grad():
            agree = torch.allclose(model(x), by_loop(x), atol=1e-5)
            require(agree, f"{share}% active: the vectorised site gives what the loop gives")
            timings = interleave(
                {
                    "site": partial(model, x),
                    "loop": partial(by_loop, x),
                    "copy": x.clone,
                },
                repeats=15,
                calls=3,
                clock=time.process_time,
            )
        rows.append(
            Row(
                f"{share}% of {SEEDS} seeds active, forward",
                timings.median("site") * 1e6,
                "us",
                baselines={
                    "Python loop over chunks, us": timings.median("loop") * 1e6,
                    "copy of the tensor, us": timings.median("copy") * 1e6,
                },
            )
        )
    return rows
