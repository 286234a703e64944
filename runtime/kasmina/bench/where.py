"""Whether the bottleneck score finds a planted narrow layer, beside other signals."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from kasmina.bench import Row, benchmark, single_thread
from kasmina.growth.bottleneck import bottleneck
from kasmina.growth.observation import gradient_ratio
from kasmina.growth.task import seeded
from kasmina.sites import Garden, Passage, Recorder, Site, SiteLayer, morph
from kasmina.sites.passage import finished

FIRST = 1000  # seeds below drove the choice of the score
NETWORKS, DEPTH, WIDTH, NARROW = 20, 5, 32, 2
EXAMPLES, STEPS, BATCH = 6000, 800, 128

Signal = Callable[[SiteLayer, list[Passage]], float]
SIGNALS: dict[str, Signal] = {
    "bottleneck": bottleneck,
    "gradient ratio": lambda _, passages: gradient_ratio(passages),
    "variance": lambda _, passages: float(torch.cat([p.output for p in passages]).var()),
}


@benchmark("where")
def run(*, quick: bool = False) -> list[Row]:
    """How often a planted narrow layer is ranked first, by each signal."""
    networks = 4 if quick else NETWORKS
    with single_thread():
        found = [planted(seed) for seed in range(FIRST, FIRST + networks)]
    share = {name: 100 * sum(each[name] for each in found) / networks for name in SIGNALS}
    ours = share.pop("bottleneck")
    beside = {**share, "random (expected)": 100 / DEPTH}
    target = None if quick else 90.0
    return [Row(f"planted narrow layer first, of {networks}", ours, "%", target, ">=", beside)]


def planted(seed: int) -> dict[str, bool]:
    """Train a network with one narrow layer; whether each signal ranks its site first.

    Site k spans hidden layer k: from the input of its map to the output of the next one.
    """
    with seeded(seed):
        place = int(torch.randint(DEPTH, ()))
        model = _network(place)
        teacher = _teacher()
        x, held_out = torch.randn(2, EXAMPLES, 16)
        y, wanted = (_labels(teacher, each) for each in (x, held_out))
        spans = [Site(str(2 * k), until=str(2 * k + 2), seeds=1) for k in range(DEPTH)]
        morph(model, spans, run="planted", seed=seed)
        _train(model, x, y)
    sites = list(Garden.of(model).sites.values())
    recorders = [Recorder(site) for site in sites]
    for recorder in recorders:
        recorder.start()
    passages = finished(recorders, nn.functional.cross_entropy(model(held_out), wanted))
    for recorder in recorders:
        recorder.stop()
    return {
        name: max(range(DEPTH), key=lambda k: signal(sites[k], passages[k])) == place
        for name, signal in SIGNALS.items()
    }


def _network(place: int) -> nn.Sequential:
    widths = [NARROW if k == place else WIDTH for k in range(DEPTH)]
    sizes = [16, *widths, 5]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _teacher() -> nn.Sequential:
    made = nn.Sequential(
        nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 5)
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


@torch.no_grad()
def _labels(teacher: nn.Module, x: Tensor) -> Tensor:
    labels: Tensor = teacher(x).argmax(1)
    return labels


def _train(model: nn.Module, x: Tensor, y: Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,))
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(x[rows]), y[rows]))
        optimizer.step()
