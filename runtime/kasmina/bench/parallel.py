"""A parallel site of many seeds against one dense MLP of the active width."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from kasmina.bench import Row, _gpu, benchmark, require
from kasmina.bench._gpu import (
    Call,
    Case,
    Subject,
    bandwidth,
    called,
    captured,
    medians,
    on_gpu,
    rows_of,
)
from kasmina.bench._seeded import ALPHA, TOLERANCES, Seeded, error, require_kernels
from kasmina.bench.forward import BF16, FEATURES, ROWS, nothing_more

SEEDS, UNITS, SHARE = 1024, 64, 0.1
NAMES = ("up_weight", "up_bias", "out_weight")
SMALL = (32, 16, 64)  # the same on a CPU: seeds, units, rows and features


@benchmark("parallel")
def run() -> list[Row]:
    """Parallel seeds beside a dense MLP of as many hidden units as act."""
    return rows_of(cases())


def cases() -> Iterator[Case]:
    """What is measured, each by itself."""
    if on_gpu():
        yield large
    else:
        yield on_cpu
        yield nothing_more


def large() -> Iterator[Row]:
    """At the size of the target."""
    yield from measured(SEEDS, UNITS, ROWS, FEATURES, _gpu.DEVICE, BF16)


class Dense(nn.Module):
    """`x + MLP(x)`, with as many hidden units as the active seeds have."""

    def __init__(self, seeded: Seeded) -> None:
        super().__init__()
        units = len(seeded.active) * seeded.hidden
        self.up = nn.Linear(seeded.features, units)
        self.out = nn.Linear(units, seeded.features, bias=False)
        self.to(device=seeded.site.alpha.device, dtype=seeded.stack()[0].dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, F]` to the same."""
        made: Tensor = self.out(torch.relu(self.up(x)))
        return x + made


def reference(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """What the site gives, seed by seed, from the parameters `[A, ...]` of those that act."""
    result = x
    for up, bias, out in zip(*(weights[name] for name in NAMES), strict=True):
        result = result + ALPHA * (x @ up.T + bias).relu() @ out.T
    return result


def check(seeded: Seeded, x: Tensor, g: Tensor) -> None:
    """Hold the site's output and the gradients of input and blueprints against float64.

    What the host lets through, x and g, is left out: it would hide what the seeds add.
    """
    most, leaf = TOLERANCES[x.dtype], x.clone().requires_grad_()
    wide, stack = x.double().requires_grad_(), seeded.site.stacks()[0]
    names = list(seeded.site.pool("mlp").kind.shapes())
    rows = seeded.garden.state["blueprint_slot"][seeded.slots()].long()
    weights = [each.double().requires_grad_() for each in seeded.weights()]
    wanted = reference(wide, dict(zip(names, weights, strict=True)))
    ours = torch.autograd.grad(found := seeded.model(leaf), [leaf, *stack], g)
    theirs = torch.autograd.grad(wanted, [wide, *weights], g.double())
    compared = {
        "output": (found.detach() - x, wanted.detach() - x.double()),
        "gradient of the input": (ours[0] - g, theirs[0] - g.double()),
    }
    for name, mine, other in zip(names, ours[1:], theirs[1:], strict=True):
        compared[f"gradient of {name}"] = (mine[rows], other)
    for name, pair in compared.items():
        off = error(*pair)
        require(off < most, f"the {name} is what the seeds give one by one: off by {off:.2g}")


def measured(
    seeds: int, units: int, rows: int, features: int, device: str, dtype: torch.dtype
) -> Iterator[Row]:
    """Forward and training pass of the site and of the dense MLP."""
    seeded = Seeded(
        features, seeds, units, dtype=dtype, device=device, placement="parallel", most=SHARE
    ).activate(SHARE)
    seeded.site.sample_every = 0
    dense = Dense(seeded)
    x = torch.randn(rows, features, device=device).to(dtype)
    leaf, g = x.clone().requires_grad_(), torch.randn_like(x)
    check(seeded, x[:100], g[:100])
    on_device = dtype is BF16
    if on_device:
        require_kernels(seeded.site)
    host = {"copy bandwidth, TB/s": bandwidth() / 1e6} if on_device else {}
    models = {"ours": seeded.model, "dense MLP": dense}
    forward: dict[str, Call] = {name: partial(_forward, model, x) for name, model in models.items()}
    both: dict[str, Call] = {name: partial(_trained, m, leaf, g) for name, m in models.items()}
    for what, calls in (("forward", forward), ("forward and backward", both)):
        times = medians(_subjects(calls, x, what == "forward"))
        yield Row(
            f"parallel, {seeds} seeds x {units} units, {SHARE:.0%} active, {rows}x{features} "
            f"{str(dtype).removeprefix('torch.')}, {what}, against a dense MLP of {len(seeded.active) * units}",
            times["ours"] / times["dense MLP"],
            "x dense MLP",
            target=1.3 if on_device else None,
            baselines={f"{name}, us": us for name, us in times.items()} | host,
        )


def _subjects(calls: dict[str, Call], x: Tensor, graph: bool) -> dict[str, Subject]:
    subjects = {name: called([call] * 3) for name, call in calls.items()}
    subjects["copy_"] = called([partial(torch.empty_like(x).copy_, x)] * 3)
    if x.dtype is BF16 and graph:
        subjects["ours in a graph"] = captured([calls["ours"]] * 3)
    return subjects


@torch.no_grad()
def _forward(model: nn.Module, x: Tensor) -> Tensor:
    found: Tensor = model(x)
    return found


def _trained(model: nn.Module, leaf: Tensor, g: Tensor) -> None:
    model.zero_grad()
    leaf.grad = None
    torch.autograd.backward(model(leaf), g)


def on_cpu() -> Iterator[Row]:
    """The twins at a size that takes a moment, for information."""
    seeds, units, rows = SMALL
    yield from measured(seeds, units, rows, rows, "cpu", torch.float32)
