"""A backward pass through an inline site: generated kernels on a GPU, the twins on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from kasmina.bench import Row, benchmark, interleave, require, single_thread
from kasmina.bench._gpu import (
    Buffers,
    Case,
    against,
    bandwidth,
    beside,
    called,
    captured,
    medians,
    on_gpu,
    rows_of,
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
from kasmina.bench.forward import (
    BF16,
    CHUNKS,
    CPU,
    FEATURES,
    ROWS,
    SHARES,
    compiled,
    nothing_more,
    prepared,
)
from kasmina.kernels.twin import Pulled

FASTER = {"torch.compile": 4.0}
FLOOR = 1.6  # of the bytes that a backward pass must move


@benchmark("backward")
def run() -> list[Row]:
    """A backward pass of inline seeds, beside its floor and torch.compile."""
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


def on_cpu() -> Iterator[Row]:
    """Forward and backward of the twins against the plain loop, on one core."""
    seeds, chunk, hidden, rows = CPU
    for share in (0.1, 1.0):
        seeded = Seeded(seeds * chunk, seeds, hidden).activate(share)
        seeded.site.sample_every = 0
        x, g = (torch.randn(rows, seeds * chunk) for _ in range(2))
        by_loop = loop(seeded)
        one, other = (_pulled(call, x, g) for call in (seeded.model, by_loop))
        require(torch.allclose(one, other, atol=1e-4), f"{share:.0%} active: the gradients agree")
        with single_thread():
            calls: dict[str, Callable[[Tensor], Tensor]] = {"twins": seeded.model, "loop": by_loop}
            subjects = {name: partial(_pulled, call, x, g) for name, call in calls.items()}
            timings = interleave(subjects, repeats=9, calls=2, clock=time.process_time)
        yield Row(
            f"CPU twins, {seeds} seeds, {share:.0%} active, forward and backward, against the loop",
            timings.ratio("loop", "twins"),
            "times faster",
            baselines={f"{name}, us": timings.median(name) * 1e6 for name in subjects},
        )


def _pulled(call: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    """dL/dx of a pass; parameters collect theirs."""
    if isinstance(call, nn.Module):
        call.zero_grad()
    leaf = x.detach().requires_grad_()
    torch.autograd.backward(call(leaf), g)
    assert leaf.grad is not None
    return leaf.grad


def large(chunk: int, share: float) -> Iterator[Row]:
    """Gradients of input, parameters and alpha; the baseline gives the same."""
    seeded, buffers = prepared(chunk, share, FEATURES), Buffers.like(ROWS, FEATURES, BF16)
    require_kernels(seeded.site)
    launches, alpha = launches_of(seeded.site), seeded.site.alpha.detach()
    stacks = [seeded.stack()]
    theirs = recorded(seeded, buffers.sources)
    for target in buffers.targets:
        target.normal_()
    x, g = buffers.sources[0], buffers.targets[0]
    check(launches.backward(g, x, None, alpha, stacks), seeded, x, g)
    pulls = [partial(one.pull, g) for one, g in zip(theirs, buffers.targets, strict=True)]
    ours = buffers.each(lambda x, g: launches.backward(g, x, None, alpha, stacks))
    times = medians({"ours": captured(ours), "torch.compile": called(pulls)}) | medians(
        {"copy_": buffers.copies()}
    )
    whole = buffers.sources[0].nbytes
    floor = (2 + share) * whole / bandwidth()  # read dL/dy and the active chunks, write dL/dx
    what = f"backward {ROWS}x{FEATURES} bf16, chunk {chunk}, {share:.0%} active"
    figures = beside(times, floor)
    figures |= work(12 * ROWS * FEATURES * share * chunk, (2 + share) * whole)
    yield Row(what, times["ours"] / floor, "x own copy floor", FLOOR, baselines=figures)
    yield from against(what, times, FASTER)


class Graph:
    """A recorded pass by plain torch, through which gradients can be pulled again and again."""

    def __init__(self, form: Callable[..., Tensor], leaves: Sequence[Tensor]) -> None:
        self._leaves = [each.detach().requires_grad_() for each in leaves]
        self._output = form(*self._leaves)

    def pull(self, g: Tensor) -> tuple[Tensor, ...]:
        """dL/dx, dL/dalpha and those of the weights."""
        return torch.autograd.grad(self._output, self._leaves, g, retain_graph=True)


def plain(seeded: Seeded) -> Callable[..., Tensor]:
    """The vectorised form of `(x, alpha, *weights)` by plain torch."""
    slots = None if len(seeded.active) == seeded.seeds else seeded.slots()
    seeds = seeded.seeds
    return lambda x, alpha, *weights: vectorised(x, weights, alpha, slots, seeds)[0]


def leaves(seeded: Seeded, x: Tensor) -> list[Tensor]:
    """What gets a gradient: the input, alpha of each active seed, their parameters."""
    alpha = torch.full((len(seeded.active), 1, 1), ALPHA, device=x.device, dtype=x.dtype)
    return [x, alpha, *(weight.to(x.dtype) for weight in seeded.weights())]


def recorded(seeded: Seeded, sources: Sequence[Tensor]) -> list[Graph]:
    """Passes by torch.compile, whose gradients are compiled as well."""
    from torch._functorch import config

    config.donated_buffer = False  # else a graph can be pulled through once only
    fast = compiled(plain(seeded))
    return [Graph(fast, leaves(seeded, x)) for x in sources]


def check(pulled: Pulled, seeded: Seeded, x: Tensor, g: Tensor) -> None:
    """Hold the kernels' gradients against plain torch in float32."""
    wide = Graph(plain(seeded), leaves(seeded, x.float()))
    to_x, to_alpha, *to_weights = wide.pull(g.float())
    slots = seeded.slots()
    rows = seeded.garden.state["blueprint_slot"].to(slots.device)[slots].long()
    (gradients,) = pulled.stacks.values()
    found = {"input": (pulled.y, to_x), "alpha": (pulled.alpha[slots], to_alpha.flatten())}
    names = seeded.site.pool("mlp").kind.shapes()
    for name, ours, theirs in zip(names, gradients, to_weights, strict=True):
        found[name] = (ours[rows], theirs)
    for name, (ours, theirs) in found.items():
        off = error(ours, theirs)
        require(off < TOLERANCES[x.dtype], f"gradient of {name} is right: {off}")
