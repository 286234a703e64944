"""Every kind lives a whole life where it fits: learns aside, grafts, is kept, and folds away."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kasmina.growth import Command, Gardener, GardenerConfig, Scripted
from kasmina.sites import Garden, Site, fold, morph
from tests.runtime.growth.gardens import GERMINATE, QUICK

KEPT = {**QUICK, "min_evaluation_score": -10.0, "min_improvement": -10.0}


class Sequences(nn.Module):
    """A map of tokens, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.head = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 6, 3]` to `[B, 2]`."""
        found: Tensor = self.head(torch.relu(self.map(x)).mean(1))
        return found


def picture() -> nn.Module:
    """A small convolutional host."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(4, 2),
    )


def flat() -> nn.Module:
    """A dense host of 24 features, which are a picture, a signal or a sequence."""
    return nn.Sequential(nn.Linear(24, 3), nn.ReLU(), nn.Linear(3, 2))


HOSTS = {
    "tokens": (Sequences, (6, 3), "map", {"layout": ("sequence", 6, 3)}),
    "picture": (picture, (1, 6, 4), "3", {}),
    "picture, inline": (picture, (1, 6, 4), "3", {"placement": "inline"}),
    "replaced": (flat, (24,), "0", {"placement": "inline", "mode": "replace"}),
    "picture, replaced": (picture, (1, 6, 4), "3", {"placement": "inline", "mode": "replace"}),
    "tokens, replaced": (
        *(Sequences, (6, 3), "map"),
        {"placement": "inline", "mode": "replace", "layout": ("sequence", 6, 4)},
    ),
    "flat picture": (flat, (24,), ".", {"layout": (1, 6, 4)}),
    "flat signal": (flat, (24,), ".", {"layout": (2, 12)}),
    "flat sequence": (flat, (24,), ".", {"layout": ("sequence", 8, 3)}),
}
SPATIAL = ("conv", "separable", "attention")
LIVES = [
    *[("tokens", kind) for kind in ("mlp", "low_rank", "gated", "attention", "causal_conv")],
    *[("picture", kind) for kind in (*SPATIAL, "squeeze_excite", "affine")],
    *[("picture, inline", kind) for kind in (*SPATIAL, "squeeze_excite", "gated")],
    *[
        (host, kind)
        for host in ("flat picture", "flat signal", "flat sequence")
        for kind in SPATIAL
    ],
]


def data(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Two classes that lie around two means, which a small host needs some epochs to tell apart."""
    draw = torch.Generator().manual_seed(3)
    y = torch.randint(2, (160,), generator=draw)
    offset = (0.4 * y - 0.2).view(-1, *[1] * len(shape))
    return torch.randn(160, *shape, generator=draw) + offset, y


class Run:
    """Short epochs of a host with some kinds at one site."""

    def __init__(self, host: str, kinds: tuple[str, ...], rows: int, contest: int = 8) -> None:
        build, shape, pattern, options = HOSTS[host]
        self.x, self.y = data(shape)
        torch.manual_seed(2)
        self.model: nn.Module = build()
        site = Site(pattern, seeds=rows, blueprint=kinds, hidden=3, **options)  # type: ignore[arg-type]
        morph(self.model, [site], run="test", example=self.x[:2])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        self.gardener = Gardener(
            self.model,
            self.optimizer,
            validate=lambda: cross_entropy(self.model(self.x[128:]), self.y[128:]),
            controller=Scripted(
                {1: [Command(GERMINATE, row, "test", blueprint=kinds[row]) for row in range(rows)]}
            ),
            config=GardenerConfig(ramp_steps=4, contest=contest),
            limits=KEPT,
        )

    def epoch(self) -> None:
        """Four batches and a tick."""
        for at in range(0, 128, 32):
            self.model.train()
            self.optimizer.zero_grad()
            loss = cross_entropy(self.model(self.x[at : at + 32]), self.y[at : at + 32])
            torch.autograd.backward(loss)
            self.gardener.step(loss)
        self.gardener.tick()

    def states(self) -> list[str]:
        """Of all seeds."""
        state = self.gardener.garden.state
        return [state.state(row).name for row in range(len(state))]


@pytest.mark.parametrize(("host", "kind"), LIVES)
def test_a_kind_lives_a_whole_life(host: str, kind: str) -> None:
    """It is kept, counted, and what is folded computes the same."""
    run = Run(host, (kind,), 1)
    host_only = run.gardener.parameters()
    while run.states() != ["FOSSILIZED"] and run.gardener.clock.epoch < 60:
        run.epoch()
    assert run.states() == ["FOSSILIZED"]
    garden = Garden.of(run.model)
    cost = garden.site_of(0).pool(kind).kind.cost()
    assert run.gardener.parameters() == host_only + cost.parameters
    run.model.eval()
    plain = fold(run.model)
    torch.testing.assert_close(plain(run.x), run.model(run.x), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in plain.parameters()) == run.gardener.parameters()


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        *[("replaced", k) for k in ("mlp", "low_rank", "gated", "affine", "squeeze_excite")],
        *[("picture, replaced", k) for k in (*SPATIAL, "squeeze_excite", "mlp")],
        *[("tokens, replaced", k) for k in ("attention", "affine", "gated")],
    ],
)
def test_a_seed_that_replaces_learns_its_chunk_first(host: str, kind: str) -> None:
    """Beside a host that changes, judged on held-out data, below the limit as the spec has it."""
    run = Run(host, (kind,), 1)
    limit = run.gardener.limits.as_dict()["max_reconstruction_loss"]
    while run.states() != ["GRAFTING"] and run.gardener.clock.epoch < 40:
        run.epoch()
    assert run.states() == ["GRAFTING"]
    assert limit == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("host", "kinds"),
    [
        ("tokens", ("mlp", "attention", "causal_conv")),
        ("picture", ("conv", "separable", "attention", "squeeze_excite")),
        ("flat picture", ("mlp", "conv", "separable", "attention")),
    ],
)
def test_kinds_compete_for_one_site(host: str, kinds: tuple[str, ...]) -> None:
    """Candidates of each kind learn side by side; one stays, the others are culled."""
    run = Run(host, kinds, len(kinds), contest=2)
    learned = False
    for _ in range(60):
        run.epoch()
        learned |= run.states() == ["TRAINING"] * len(kinds)
        if "FOSSILIZED" in run.states():
            break
    assert learned
    assert run.states().count("FOSSILIZED") == 1
    (grown,) = run.gardener.garden.architecture()
    assert grown["blueprint"] in kinds
