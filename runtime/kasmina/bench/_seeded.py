"""A site of many seeds without a host, and the same by plain torch: what kernels stand beside.

Legend: N rows, F features, S seeds, A active ones, c a chunk's width, H hidden units of a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kasmina.bench import require
from kasmina.blueprints import Placement
from kasmina.lifecycle import Lifecycle
from kasmina.sites import ChunkManager, Garden, Site, SiteLayer, morph

ALPHA = 0.5


class Hands(nn.Module):
    """A host that hands on what it is given, and that nothing is known of."""

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself."""
        return x


# Of norms, between what is timed and float64.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


class Seeded:
    """One site of which a share of the seeds acts; all seeds hold blueprints.

    Args:
        features: F.
        seeds: S.
        hidden: H of each seed.
        dtype: of parameters, and of what passes.
        device: where.
        placement: of the site.
        most: the largest share that will be asked for; only so many seeds hold blueprints.
    """

    def __init__(
        self,
        features: int,
        seeds: int,
        hidden: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        placement: Placement = "inline",
        most: float = 1.0,
    ) -> None:
        torch.manual_seed(0)
        site = Site("", placement=placement, seeds=seeds, hidden=hidden, features=features)
        host = Hands().to(device)
        example = torch.zeros(1, features) if placement == "parallel" else None
        self.features, self.seeds, self.hidden = features, seeds, hidden
        self.model = morph(host, [site], example=example).to(device=device, dtype=dtype)
        self.garden = Garden.of(self.model)
        (self.site,) = self.garden.sites.values()
        self.order = torch.randperm(seeds)[: max(1, round(seeds * most))]
        for row in self.order.tolist():
            self.garden.allocate(row)
        with torch.no_grad():
            for parameter in self.garden.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape).to(parameter))
        self.active = self.order[:0]

    def activate(self, share: float) -> Seeded:
        """Let a share of the seeds act and train, at random places, and the others sleep."""
        rows = self.order[: round(self.seeds * share)]
        dormant = int(self.garden.state.lifecycle.initial)
        self.garden.state.update(self.order, {"lifecycle_state": dormant, "alpha": 0.0})
        code = code_of(self.garden.state.lifecycle)
        self.garden.state.update(rows, {"lifecycle_state": code, "alpha": ALPHA})
        self.garden.refresh()
        self.active = rows
        return self

    def stack(self) -> list[Tensor]:
        """The parameters of the site's one pool, `[capacity, ...]` each."""
        return [stacked.detach() for stacked in self.site.stacks()[0]]

    def weights(self) -> list[Tensor]:
        """The parameters of the active seeds, `[A, ...]` each, in the order of their places."""
        slots = self.garden.state["blueprint_slot"][self.slots()]
        return [stacked.index_select(0, slots.long()) for stacked in self.stack()]

    def slots(self) -> Tensor:
        """The places of the active seeds, in their order, int64 `[A]` on the site's device."""
        return self.active.sort().values.to(self.site.alpha.device)


def code_of(lifecycle: Lifecycle, plane: str = "full", trains: str = "joint") -> int:
    """A state of this plane, whose blueprints train so."""
    codes = torch.tensor([int(state) for state in lifecycle.State])
    there = lifecycle.plane_of(codes) == lifecycle.attribute_code("plane", plane)
    there &= lifecycle.attribute_of("trains", codes) == lifecycle.attribute_code("trains", trains)
    return int(codes[there][0])


def vectorised(
    x: Tensor, weights: Sequence[Tensor], alpha: float, slots: Tensor | None, seeds: int
) -> tuple[Tensor, Tensor]:
    """A site's pass and its telemetry as one would write them for torch.compile.

    Args:
        x: `[N, F]`.
        weights: up `[A, H, c]` and its bias, out `[A, c, H]` and its bias.
        alpha: of all seeds.
        slots: int64 `[A]`; None where all seeds act, which spares the indexing.
        seeds: S.

    Returns:
        The output `[N, F]`, and `[4, S]`: sums, sums of squares, maxima, non-finite elements.
    """
    up, up_bias, out, out_bias = weights
    chunks = x.view(len(x), seeds, -1)
    own = chunks if slots is None else chunks.index_select(1, slots)
    own = own.transpose(0, 1)  # [A, N, c]
    hidden = F.relu(torch.baddbmm(up_bias[:, None], own, up.transpose(1, 2)))
    made = torch.baddbmm(out_bias[:, None], hidden, out.transpose(1, 2))
    mixed = torch.where(torch.isfinite(made), own + alpha * made, own).transpose(0, 1)
    result = mixed if slots is None else chunks.index_copy(1, slots, mixed)
    told = result.detach().float()
    counted = (~torch.isfinite(told)).sum((0, 2)).float()
    sample = (told.sum((0, 2)), told.square().sum((0, 2)), told.amax((0, 2)), counted)
    return result.reshape(x.shape), torch.stack(sample)


def loop(seeded: Seeded, telemetry: bool = False) -> Callable[[Tensor], Tensor]:
    """The same by a loop over chunks, each active one with a module of its own.

    With telemetry every chunk is measured as well, by the four figures of a site's sample.
    """
    chunks, kind = ChunkManager(seeded.features, seeded.seeds), seeded.site.pool("mlp").kind
    names = list(kind.shapes())
    modules: dict[int, Any] = {
        slot: kind.export(dict(zip(names, each, strict=True)))
        for slot, *each in zip(seeded.slots().tolist(), *seeded.weights(), strict=True)
    }

    def forward(x: Tensor) -> Tensor:
        parts = [
            chunk + ALPHA * modules[slot](chunk) if slot in modules else chunk
            for slot, chunk in enumerate(chunks.split(x))
        ]
        if telemetry:
            with torch.no_grad():
                forward.sample = torch.stack([measured(each) for each in parts])  # type: ignore[attr-defined]
        return torch.cat(parts, -1)

    return forward


def measured(chunk: Tensor) -> Tensor:
    """Sum, sum of squares, maximum and number of non-finite elements, float32 `[4]`."""
    value = chunk.float()
    bad = (~torch.isfinite(value)).sum()
    return torch.stack((value.sum(), value.square().sum(), value.amax(), bad))


def error(found: Tensor, wanted: Tensor) -> float:
    """The relative error of norms; NaN where something is not finite."""
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))


def launches_of(site: SiteLayer) -> Any:
    """The site's generated kernels; None where its twins compute."""
    return getattr(site, "_launches", None)


def require_kernels(site: SiteLayer) -> None:
    """Raise `IncorrectResult` where a pass has fallen back, or would fall back, to the twins."""
    require(site.backend.backend == "triton", f"kernels compute the site: {site.backend.why}")
