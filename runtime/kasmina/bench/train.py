"""Training steps of a block with sites: what sleeping and adapting seeds add to the plain block."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kasmina.bench import Row, _gpu, benchmark, interleave, require
from kasmina.bench._gpu import Call, Case, bandwidth, called, medians, on_gpu, rows_of
from kasmina.bench._seeded import ALPHA, code_of, require_kernels
from kasmina.bench.forward import compiled, nothing_more
from kasmina.sites import Garden, Site, morph

WIDTH, HIDDEN, TOKENS, CHUNK = 4096, 16384, 8192, 16
SMALL = (64, 256, 128, 4)  # the same on a CPU
MANY, UNITS = 10_000, 1  # seeds of a layer, and hidden units of each
CALLS = 10  # steps that are timed at once


@benchmark("train")
def run() -> list[Row]:
    """A training step of a block with inline sites, asleep and adapting, and its memory."""
    return rows_of(cases())


def cases() -> Iterator[Case]:
    """What is measured, each by itself."""
    if not on_gpu():
        yield on_cpu
        yield nothing_more
        return
    yield asleep
    yield asleep_compiled
    yield adapting
    yield memory


class Block(nn.Sequential):
    """Linear, ReLU, Linear, as in a transformer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class Trained:
    """A block, its optimizer and its batch.

    Args:
        model: the block, with or without sites.
        tokens: rows of the batch.
        width: of the block's input.
        fast: whether it is compiled.
    """

    def __init__(self, model: nn.Module, tokens: int, width: int, *, fast: bool = False) -> None:
        parameter = next(model.parameters())
        self.model, self._call = model, compiled(model) if fast else model
        fused = parameter.device.type == "cuda"
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)
        stream = torch.Generator().manual_seed(1)
        self.x = torch.randn(tokens, width, generator=stream).to(parameter)
        self.y = torch.randn(tokens, width, generator=stream).to(parameter)

    def step(self) -> None:
        """One step with the mean squared error."""
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.mse_loss(self._call(self.x), self.y))
        self._optimizer.step()


def block(width: int, hidden: int, device: str, dtype: torch.dtype) -> nn.Module:
    """The plain block, the same each time."""
    torch.manual_seed(0)
    return Block(width, hidden).to(device, dtype)


def grown(plain: nn.Module, chunk: int, share: float) -> nn.Module:
    """The same block with a site at its output; a share of the seeds adapts."""
    model = copy.deepcopy(plain)
    width = model[-1].out_features  # type: ignore[index]
    seeds = int(width) // chunk
    model = morph(model, [Site("2", placement="inline", seeds=seeds, hidden=chunk)])
    return awake(model, seeds, share)


def awake(model: nn.Module, seeds: int, share: float) -> nn.Module:
    """Let a share of each site's seeds act and train, at random places."""
    garden = Garden.of(model)
    code = code_of(garden.state.lifecycle)
    rows: list[int] = []
    for site in garden.sites.values():
        chosen = torch.randperm(seeds, generator=torch.Generator().manual_seed(0))
        rows += (site.first_row + chosen[: round(seeds * share)]).tolist()
    for row in rows:
        garden.allocate(row)
    if rows:
        garden.state.update(torch.tensor(rows), {"lifecycle_state": code, "alpha": ALPHA})
    garden.refresh()
    return model


def large() -> nn.Module:
    """The block of the targets."""
    return block(WIDTH, HIDDEN, _gpu.DEVICE, torch.bfloat16)


def same(one: nn.Module, other: nn.Module, x: Tensor, what: str) -> None:
    """Require that two models give the same bits."""
    with torch.no_grad():
        require(torch.equal(one(x), other(x)), f"{what}: dormant seeds change no bit")


def overhead(name: str, plain: Trained, ours: Trained, target: float | None) -> Iterator[Row]:
    """By how much a step is longer than the plain block's."""
    subjects = {
        "plain": called([plain.step] * CALLS),
        "ours": called([ours.step] * CALLS),
        "plain again": called([plain.step] * CALLS),
    }
    times = medians(subjects, 9)
    base = (times["plain"] + times["plain again"]) / 2
    copied = torch.empty_like(plain.x)
    copying = medians({"copy_": called([partial(copied.copy_, plain.x)] * CALLS)})
    yield Row(
        f"training step {WIDTH}-{HIDDEN}-{WIDTH}, {TOKENS} tokens bf16, {name}",
        100 * (times["ours"] / base - 1),
        "% over the plain block",
        target=target,
        baselines={f"{key}, us": us for key, us in (times | copying).items()}
        | {"copy bandwidth, TB/s": bandwidth() / 1e6},
    )


def asleep() -> Iterator[Row]:
    """All seeds dormant, eager, with samples as they are taken by default."""
    plain = large()
    ours = Trained(grown(plain, CHUNK, 0.0), TOKENS, WIDTH)
    theirs = Trained(plain, TOKENS, WIDTH)
    same(ours.model, plain, ours.x, "eager")
    yield from overhead("all dormant, eager", theirs, ours, 0.5)


def asleep_compiled() -> Iterator[Row]:
    """All seeds dormant, compiled."""
    plain = large()
    ours = Trained(grown(plain, CHUNK, 0.0), TOKENS, WIDTH, fast=True)
    theirs = Trained(plain, TOKENS, WIDTH, fast=True)
    same(ours.model, plain, ours.x, "eager")
    yield from overhead("all dormant, compiled", theirs, ours, 1.0)


def adapting() -> Iterator[Row]:
    """A tenth of the seeds adapts, every pass is sampled; and how busy the device is."""
    plain = large()
    ours = Trained(grown(plain, CHUNK, 0.1), TOKENS, WIDTH)
    theirs = Trained(plain, TOKENS, WIDTH)
    for site in Garden.of(ours.model).sites.values():
        site.sample_every = 1
    with torch.no_grad():
        require(not torch.equal(ours.model(ours.x), plain(ours.x)), "the seeds act")
    for site in Garden.of(ours.model).sites.values():
        require_kernels(site)
    yield from overhead("10% active, every pass sampled", theirs, ours, 3.0)
    yield Row(
        f"utilisation in that step (device busy time over wall, {CALLS} steps)",
        100 * utilisation(ours.step),
        "%",
        target=95.0,
        op=">=",
        baselines={"plain block, %": 100 * utilisation(theirs.step)},
    )


def utilisation(call: Call) -> float:
    """The share of the wall time in which the device computes, by the profiler."""
    call()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
        wall = (time.perf_counter() - start) * 1e6
    spans = sorted(_spans(profile))
    last = max(end for _, end in spans)
    return busy([span for span in spans if span[0] >= last - wall]) / wall


def _spans(profile: Any) -> Iterator[tuple[float, float]]:
    """Begin and end of all that ran on the device, us."""
    for event in profile.events():
        if str(event.device_type).endswith("CUDA"):
            yield event.time_range.start, event.time_range.end


def busy(spans: list[tuple[float, float]]) -> float:
    """The length of the union of spans, which begin one after the other."""
    total, until = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def memory() -> Iterator[Row]:
    """10,000 seeds for each of the block's two layers, a tenth of them active and training."""
    host = _peak(lambda: large())
    sites = [Site(name, placement="parallel", seeds=MANY, hidden=UNITS) for name in ("0", "2")]
    ours = _peak(lambda: awake(morph(large(), sites), MANY, 0.1))
    yield Row(
        f"memory of a training step, {MANY} seeds a layer (parallel, {UNITS} hidden unit), "
        "10% active, AdamW",
        100 * (ours / host - 1),
        "% over the host",
        target=20.0,
        baselines={"host, MB": host / 1e6, "with seeds, MB": ours / 1e6},
    )


def _peak(build: Callable[[], nn.Module]) -> float:
    """Bytes at the peak of a step, the optimizer's state included."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    trained = Trained(build(), TOKENS, WIDTH)
    trained.step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    trained.step()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)


def on_cpu() -> Iterator[Row]:
    """A small block on the CPU: the same steps, for information."""
    width, hidden, tokens, chunk = SMALL
    plain = block(width, hidden, "cpu", torch.float32)
    models = {"plain": plain, "all dormant": grown(plain, chunk, 0.0)}
    models["10% active"] = grown(plain, chunk, 0.1)
    trained = {name: Trained(model, tokens, width) for name, model in models.items()}
    same(models["all dormant"], plain, trained["plain"].x, "eager")
    subjects = {name: each.step for name, each in trained.items()}
    timings = interleave(subjects, repeats=21, calls=5, clock=time.process_time)
    for name in ("all dormant", "10% active"):
        yield Row(
            f"CPU twins, training step {width}-{hidden}-{width}, {tokens} tokens, {name}",
            100 * (timings.ratio(name, "plain") - 1),
            "% over the plain block",
            baselines={"plain step, us": timings.median("plain") * 1e6},
        )
