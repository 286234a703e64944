"""Sites on a GPU: kernels against twins, eager, compiled and captured; and what a pass costs.

    PYTHONPATH=spec:generator:generated:runtime python tools/gpu_sites.py [FILE.json]

Needs torch and Triton only. Prints a line a check and ends with 1 where one failed. On a machine
without a GPU it runs what needs none, by Triton's interpreter.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"

from kasmina.sites import Garden, Site, SiteLayer, morph

STATES = (
    "DORMANT",
    "TRAINING",
    "GRAFTING",
    "STABILIZATION",
    "FINE_TUNING",
    "CULLED",
    "ROLLED_BACK",
)
KINDS = ("mlp", "gated", "low_rank", "affine")
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 4e-2, torch.float16: 1e-2}
FOUND: list[dict[str, Any]] = []


def told(what: str, ok: bool, **figures: Any) -> None:
    """Print and keep one result."""
    FOUND.append({"what": what, "ok": ok, **figures})
    print("ok  " if ok else "FAIL", what, figures or "", flush=True)  # noqa: T201


def built(
    backend: str,
    placement: str,
    kinds: tuple[str, ...],
    *,
    features: int = 96,
    seeds: int = 12,
    dtype: torch.dtype = torch.float32,
    mode: str = "residual",
) -> nn.Module:
    """A Linear with one site, the same each time but for the backend."""
    os.environ["KASMINA_BACKEND"] = backend
    torch.manual_seed(0)
    host = nn.Linear(32, features).to(DEVICE, dtype)
    site = Site("", placement=placement, seeds=seeds, blueprint=kinds, hidden=8, mode=mode)  # type: ignore[arg-type]
    model = morph(host, [site])
    garden = Garden.of(model)
    for row in range(seeds // 2):
        garden.state.update([row], {"blueprint_id": row % len(kinds)})
        garden.allocate(row)
    with torch.no_grad():
        for parameter in garden.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape).to(parameter))
    put(model, "GRAFTING")
    return model


def put(model: nn.Module, state: str, alpha: float = 0.6) -> None:
    """All seeds that hold a blueprint into a state."""
    garden = Garden.of(model)
    held = (garden.state["blueprint_slot"] >= 0).nonzero().flatten()
    code = int(garden.state.lifecycle.State[state])
    garden.state.update(held, {"lifecycle_state": code, "alpha": alpha})
    garden.refresh()


def site_of(model: nn.Module) -> SiteLayer:
    """Its one site."""
    (site,) = Garden.of(model).sites.values()
    return site


def outcome(run: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, dL/dalpha and the gradients of all parameters, which are 0 where there are none."""
    model.zero_grad()
    site_of(model).alpha.grad = None
    y = run(x)
    torch.autograd.backward(y.float().square().mean())
    grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
    return [y.detach(), Garden.of(model).alpha_gradient(), *grads]


def off(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest relative error of norms."""
    norms = [
        float((a.float() - b.float()).norm() / b.float().norm().clamp_min(1e-3))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return max(norms)


def batch(dtype: torch.dtype, rows: int = 40, width: int = 32) -> Tensor:
    """Random input."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)


def against_twins() -> None:
    """Eager passes by kernels and by twins, in every state."""
    for placement in ("inline", "parallel"):
        kinds = KINDS if placement == "inline" else KINDS[:3]
        modes = ("residual", "replace") if placement == "inline" else ("residual",)
        for dtype in (torch.float32, torch.bfloat16):
            for mode in modes:
                one, other = (
                    built(b, placement, kinds, dtype=dtype, mode=mode) for b in ("triton", "torch")
                )
                x, worst = batch(dtype), 0.0
                for state in STATES:
                    for model in (one, other):
                        put(model, state)
                    results = (outcome(model, model, x) for model in (one, other))
                    worst = max(worst, off(*results))
                chosen = site_of(one).backend
                told(
                    f"eager {placement} {mode} {dtype}",
                    worst < TOLERANCE[dtype] and chosen.backend == "triton",
                    worst=worst,
                    why=chosen.why,
                )


def compiled() -> None:
    """A compiled model through all states; one graph."""
    for placement in ("inline", "parallel"):
        torch._dynamo.reset()
        model = built("triton" if not CUDA else "auto", placement, KINDS[:3])
        run, x = (
            torch.compile(model, fullgraph=True, backend="inductor" if CUDA else "aot_eager"),
            batch(torch.float32),
        )
        outcome(run, model, x)
        worst = 0.0
        with torch._dynamo.config.patch(error_on_recompile=True):
            for state in STATES:
                put(model, state)
                worst = max(worst, off(outcome(run, model, x), outcome(model, model, x)))
        told(f"compiled {placement}, torch {torch.__version__}", worst < 2e-3, worst=worst)


def captured() -> None:
    """A CUDA graph of forward and backward, replayed after each step of the lifecycle."""
    for placement in ("inline", "parallel"):
        told(f"captured {placement}", *_replayed(built("auto", placement, KINDS[:3])))


def _replayed(model: nn.Module) -> tuple[bool]:
    """Whether replays give what eager passes give."""
    x, leaves = batch(torch.float32), [site_of(model).alpha, *model.parameters()]

    def once() -> list[Tensor]:
        y = model(x)
        found = torch.autograd.grad(y.square().mean(), leaves, allow_unused=True)
        pairs = zip(found, leaves, strict=True)
        return [y, *(torch.zeros_like(p) if g is None else g for g, p in pairs)]

    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    put(model, "DORMANT")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = once()
    for state in STATES:
        put(model, state)
        graph.replay()
        torch.cuda.synchronize()
        worst = off([each.clone() for each in held], once())
        if not worst < TOLERANCE[torch.float32]:
            told(f"captured in {state}", False, worst=worst)
            return (False,)
    return (True,)


def timed(call: Callable[[], object], calls: int = 200) -> float:
    """Median us of host and device together."""
    for _ in range(20):
        call()
    seen = []
    for _ in range(15):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        seen.append((time.perf_counter() - start) / calls * 1e6)
    return statistics.median(seen)


def costs() -> None:
    """What a site of 64 chunks, 10% of them active, adds to 256 x 1024 in bfloat16."""

    class Host(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    torch.manual_seed(0)
    os.environ["KASMINA_BACKEND"] = "auto"
    site = Site("", placement="inline", seeds=64, hidden=16, features=1024)
    model = morph(Host().to(DEVICE), [site]).to(DEVICE, torch.bfloat16)
    garden = Garden.of(model)
    for row in range(6):
        garden.state.update([row * 10], {"blueprint_id": 0})
        garden.allocate(row * 10)
    put(model, "GRAFTING")
    layer = site_of(model)
    layer.sample_every = 0
    x = torch.randn(256, 1024, device=DEVICE, dtype=torch.bfloat16)
    leaf, g = x.clone().requires_grad_(), torch.randn_like(x)
    with torch.no_grad():
        told("256x1024 eager no_grad, us (<= 20)", True, us=timed(lambda: model(x)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(20):
                model(x)
        told("256x1024 captured, us (<= 5)", True, us=timed(graph.replay, 20) / 20)
    told("256x1024 forward with autograd, us (<= 45)", True, us=timed(lambda: model(leaf)))

    def step() -> None:
        leaf.grad = None
        model.zero_grad()
        torch.autograd.backward(model(leaf), g)

    told("256x1024 forward and backward, us", True, us=timed(step))


def main() -> int:
    """Run everything that this machine can."""
    parts = [against_twins, compiled, *((captured, costs) if CUDA else ())]
    for part in parts:
        try:
            part()
        except Exception as error:  # noqa: BLE001  the other parts shall be told as well
            told(part.__name__, False, error=f"{type(error).__name__}: {error}"[:2000])
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(FOUND, indent=1))
    return int(not all(each["ok"] for each in FOUND))


if __name__ == "__main__":
    sys.exit(main())
