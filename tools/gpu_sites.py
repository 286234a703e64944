"""Sites on a GPU: kernels against twins, eager, compiled and captured; and what a pass costs.

    PYTHONPATH=spec:generator:generated:runtime python -m tools.gpu_sites [--only WORDS] [--out FILE]

Needs torch and Triton only. Prints a line a check and ends with 1 where one failed. The cases whose
names begin with WORDS run, each by itself; without WORDS all of them but the launches, which are for
`compute-sanitizer`. On a machine without a GPU the same runs by Triton's interpreter, but for times.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"

from kasmina.blueprints import PoolFull
from kasmina.sites import Garden, Site, SiteLayer, chunked, layer, morph, parallel, traced

STATES = (
    "DORMANT",
    "TRAINING",
    "GRAFTING",
    "STABILIZATION",
    "FINE_TUNING",
    "CULLED",
    "ROLLED_BACK",
)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WIDE = ((16, 200), (64, 128), (100, 64), (256, 256))  # features of a chunk, its units
PLACEMENTS = ("inline", "parallel")
KINDS = ("mlp", "gated", "low_rank", "affine")
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 4e-2, torch.float16: 1e-2}
FOUND: list[dict[str, Any]] = []
OUT: list[Path] = []  # where results go, as they come


def told(what: str, ok: bool, **figures: Any) -> None:
    """Print and keep one result."""
    FOUND.append({"what": what, "ok": ok, **figures})
    for path in OUT:
        path.write_text(json.dumps(FOUND, indent=1))
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
    hidden: int = 8,
) -> nn.Module:
    """A Linear with one site, the same each time but for the backend."""
    os.environ["KASMINA_BACKEND"] = backend
    torch.manual_seed(0)
    host = nn.Linear(32, features).to(DEVICE, dtype)
    site = Site("", placement=placement, seeds=seeds, blueprint=kinds, hidden=hidden, mode=mode)  # type: ignore[arg-type]
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


def eager(placement: str, mode: str, dtype: str) -> None:
    """Passes by kernels and by twins, in every state."""
    kinds = KINDS if placement == "inline" else KINDS[:3]
    of = DTYPES[dtype]
    one, other = (built(b, placement, kinds, dtype=of, mode=mode) for b in ("triton", "torch"))
    x, worst = batch(of), 0.0
    for state in STATES:
        for model in (one, other):
            put(model, state)
        results = (outcome(model, model, x) for model in (one, other))
        worst = max(worst, off(*results))
    chosen = site_of(one).backend
    right = worst < TOLERANCE[of] and chosen.backend == "triton"
    told(f"eager {placement} {mode} {dtype}", right, worst=worst, why=chosen.why)


def wide(kind: str, dtype: str) -> None:
    """Chunks whose hidden units are done in one piece or, where those are too many, block by block."""
    of, found = DTYPES[dtype], {}
    for width, hidden in WIDE if CUDA else ((16, 32),):
        one, other = (
            built(b, "inline", (kind,), features=4 * width, seeds=4, dtype=of, hidden=hidden)
            for b in ("triton", "torch")
        )
        x = batch(of, 300 if CUDA else 20)
        worst = off(*(outcome(model, model, x) for model in (one, other)))
        chosen = site_of(one).backend
        found[f"{width} features, {hidden} units"] = (worst, chosen.backend, chosen.why)
    right = all(each[0] < TOLERANCE[of] and each[1] == "triton" for each in found.values())
    told(f"wide {kind} {dtype}", right, found=found)


def twice(placement: str) -> None:
    """The same inputs give the same bits, output and gradients, while other work runs between."""
    model, x = built("triton", placement, KINDS[:3]), batch(torch.float32, 300)
    first = outcome(model, model, x)
    torch.randn(64, 64, device=DEVICE) @ torch.randn(64, 64, device=DEVICE)
    again = outcome(model, model, x)
    told(f"twice {placement}", all(torch.equal(a, b) for a, b in zip(first, again, strict=True)))


def compiled(placement: str) -> None:
    """A whole life in one graph: every state, an alpha ramp, a slot that is armed again."""
    model, x = built("triton", placement, KINDS[:3]), batch(torch.float32)
    garden, worst = Garden.of(model), 0.0
    run = torch.compile(model, fullgraph=True, backend="inductor" if CUDA else "aot_eager")
    outcome(run, model, x)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for state in garden.state.lifecycle.State:
            for alpha in (0.0, 0.4, 1.0):
                put(model, state.name, alpha)
                worst = max(worst, off(outcome(run, model, x), outcome(model, model, x)))
        garden.release(0)
        garden.allocate(0)
        put(model, "GRAFTING")
        worst = max(worst, off(outcome(run, model, x), outcome(model, model, x)))
    told(f"compiled {placement}, torch {torch.__version__}", worst < 2e-3, worst=worst)


def overwriting() -> None:
    """Without gradients a compiled graph lets seeds write into what a Linear returned."""
    model, x = built("triton", "inline", KINDS), batch(torch.float32)
    run = torch.compile(model, fullgraph=True, backend="inductor" if CUDA else "aot_eager")
    worst, real = 0.0, site_of(model).grow
    calls: list[bool] = []

    def noting(y: Tensor, x: Any, alpha: Any, parameters: Any, out: Tensor, grad: bool) -> None:
        calls.append(out is y)
        real(y, x, alpha, parameters, out, grad)

    with torch.no_grad(), mock.patch.object(site_of(model), "grow", noting):
        for state in STATES:
            put(model, state)
            worst = max(worst, off([run(x)], [model(x)]))
    told("overwriting", worst < 2e-3 and bool(calls) and all(calls), worst=worst)


@contextmanager
def pretending(model: nn.Module, capturing: bool = True) -> Iterator[None]:
    """Where there is no GPU: inside, the site takes itself to be on one, and to be captured."""
    with (
        mock.patch.object(layer, "_is_capturing", lambda: capturing),
        mock.patch.object(traced, "_is_capturing", lambda: capturing),
        mock.patch.object(chunked, "_is_capturing", lambda: capturing),
        mock.patch.object(parallel, "_is_capturing", lambda: capturing),
        mock.patch.object(site_of(model), "_may_capture", True),
    ):
        yield


def captured(placement: str) -> None:
    """A CUDA graph of forward and backward, replayed after each step of the lifecycle."""
    model = built("triton", placement, KINDS[:3])
    x, leaves = batch(torch.float32), [site_of(model).alpha, *model.parameters()]

    def once() -> list[Tensor]:
        y = model(x)
        found = torch.autograd.grad(y.square().mean(), leaves, allow_unused=True)
        pairs = zip(found, leaves, strict=True)
        return [y, *(torch.zeros_like(p) if g is None else g for g, p in pairs)]

    put(model, "DORMANT")
    replay, held = _graph(model, once)
    worst = {}
    for state in STATES:
        put(model, state)
        replay()
        worst[state] = off([each.clone() for each in held], once())
    told(f"captured {placement}", max(worst.values()) < TOLERANCE[torch.float32], worst=worst)


def _graph(
    model: nn.Module, once: Callable[[], list[Tensor]]
) -> tuple[Callable[[], None], list[Tensor]]:
    """What replays `once`, and the tensors that hold its results."""
    if not CUDA:
        with pretending(model, capturing=False):
            once()
        with pretending(model):
            held = once()

        def again() -> None:
            with pretending(model):
                held[:] = once()

        return again, held
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = once()

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay, held


@contextmanager
def tight(room: int) -> Iterator[None]:
    """Inside, there are some bytes more than now and no others."""
    if CUDA:
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(DEVICE).total_memory
        share = (torch.cuda.memory_reserved() + room) / total
        torch.cuda.set_per_process_memory_fraction(share)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def memory() -> None:
    """Memory ends while a pool doubles: nothing is changed, and with memory it goes on."""
    os.environ["KASMINA_BACKEND"] = "auto"
    host = nn.Linear(2048, 2048).to(DEVICE)
    model = morph(host, [Site("", seeds=8, hidden=1024)])  # 17 MB a seed
    garden, x = Garden.of(model), torch.randn(4, 2048, device=DEVICE)
    for row in range(4):
        garden.allocate(row)
    put(model, "GRAFTING")
    before = [each.clone() for each in (*model.state_dict().values(), model(x).detach())]
    refused = ""
    try:
        with tight(60 * 2**20):  # the first parameter of eight rows needs 64
            garden.allocate(4)
    except PoolFull as error:
        refused = f"{error} <- {type(error.__cause__).__name__}"
    now = [*model.state_dict().values(), model(x).detach()]
    same = all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
    garden.allocate(4)
    grown = site_of(model).pool("mlp").capacity == 8
    told("memory ends", bool(refused) and same and grown, same=same, grown=grown, refused=refused)


def launched(placement: str, kind: str) -> None:
    """A few passes with everything awkward in them, for `compute-sanitizer`: nothing is compared."""
    square = placement == "parallel" and kind == "affine"
    features = 32 if square else 100  # uneven chunks, but what maps one by one needs as many
    model = built("triton", placement, (kind,), features=features, seeds=12)
    with torch.no_grad():
        next(Garden.of(model).parameters())[0].fill_(torch.nan)
    site_of(model).sample_every = 1
    for rows in (1, 130):
        outcome(model, model, batch(torch.float32, rows))
    with torch.no_grad():
        model(batch(torch.float32, 130))
    told(f"launched {placement} {kind}", site_of(model).backend.backend == "triton")


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


def cases() -> dict[str, Callable[[], None]]:
    """All checks by name, the most valuable first."""
    found: dict[str, Callable[[], None]] = {}
    for placement in PLACEMENTS[::-1]:
        found[f"captured {placement}"] = partial(captured, placement)
        found[f"compiled {placement}"] = partial(compiled, placement)
        found[f"twice {placement}"] = partial(twice, placement)
    for dtype in DTYPES:
        for placement, mode in (
            ("parallel", "residual"),
            ("inline", "residual"),
            ("inline", "replace"),
        ):
            name = f"eager {placement} {mode} {dtype}"
            found[name] = partial(eager, placement, mode, dtype)
    for dtype in DTYPES:
        for kind in KINDS[:3]:
            found[f"wide {kind} {dtype}"] = partial(wide, kind, dtype)
    found["overwriting"] = overwriting
    found["memory"] = memory
    if CUDA:
        found["costs"] = costs
    for placement in PLACEMENTS:
        for kind in KINDS:
            found[f"launched {placement} {kind}"] = partial(launched, placement, kind)
    return found


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="how the names of the cases begin")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    given = parser.parse_args()
    OUT.extend([given.out] if given.out else [])
    known = {n: case for n, case in cases().items() if n.startswith(given.only)}
    if not known:
        parser.error(f"no case begins with {given.only!r}; known: {', '.join(cases())}")
    for name, case in known.items():
        if given.only or not name.startswith("launched"):
            try:
                case()
            except Exception as error:  # noqa: BLE001  the other cases shall be told as well
                told(name, False, error=f"{type(error).__name__}: {error}"[:2000])
    return int(not all(each["ok"] for each in FOUND))


if __name__ == "__main__":
    sys.exit(main())
