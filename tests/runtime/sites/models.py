"""Hosts of every family, and how tests put a seed into a state without a Gardener."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kasmina.sites import Garden, Site, morph


class Mlp(nn.Module):
    """Maps with their activations as attributes, not in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 10)
        self.activation = nn.ReLU()
        self.dropout = nn.Dropout(0.2)
        self.second = nn.Linear(10, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 12]` to `[B, 3]`."""
        hidden = self.dropout(self.activation(self.first(x)))
        result: Tensor = self.head(torch.relu(self.second(hidden)))
        return result


class Cnn(nn.Module):
    """Two convolutions with BatchNorm, the second one with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(6, 7, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(7 * 4 * 4, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, 2, 8, 8]` to `[B, 3]`."""
        result: Tensor = self.head(self.down(self.stem(x)))
        return result


class Recurrent(nn.Module):
    """A GRU, which returns (output, hidden)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(5, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, T, 5]` to `[B, 3]`."""
        outputs, _ = self.cell(x)
        result: Tensor = self.head(outputs[:, -1])
        return result


class Transformer(nn.Module):
    """One encoder layer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, T]` of tokens to `[B, 3]`."""
        result: Tensor = self.head(self.block(self.embedding(x)).mean(1))
        return result


@dataclass(frozen=True)
class Host:
    """A model family with a batch, and sites of both placements."""

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Tensor]
    sites: tuple[Site, ...]


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


HOSTS = (
    Host(
        "mlp",
        Mlp,
        lambda: _normal(9, 12),
        (
            Site(
                "first",
                until="second",
                seeds=5,
                blueprint=("mlp", "gated", "conv", "separable", "attention"),
                layout=(1, 12),
            ),
            Site(
                "second", placement="inline", seeds=4, blueprint=("mlp", "affine", "squeeze_excite")
            ),
            Site("head", seeds=2, blueprint="low_rank"),
        ),
    ),
    Host(
        "cnn",
        Cnn,
        lambda: _normal(5, 2, 8, 8),
        (
            Site("stem", seeds=3, blueprint=("conv", "mlp", "attention")),
            Site(
                "down",
                placement="inline",
                seeds=4,
                blueprint=("conv", "low_rank", "squeeze_excite", "attention"),
            ),
            Site("down.0", seeds=2, blueprint=("conv", "separable")),
            Site("head", seeds=3, blueprint=("conv", "mlp", "attention")),
        ),
    ),
    Host(
        "gru",
        Recurrent,
        lambda: _normal(4, 6, 5),
        (
            Site("cell", seeds=2, blueprint=("mlp", "gated")),
            Site("head", placement="inline", seeds=2, mode="replace"),
        ),
    ),
    Host(
        "transformer",
        Transformer,
        lambda: torch.randint(11, (4, 6), generator=torch.Generator().manual_seed(1)),
        (
            Site(
                "block",
                seeds=4,
                blueprint=("gated", "affine", "attention", "squeeze_excite", "causal_conv"),
                layout=("sequence", 6, 8),
            ),
            Site(
                "block.linear1",
                placement="inline",
                seeds=5,
                blueprint=("mlp", "attention", "causal_conv"),
                layout=("sequence", 6, 16),
            ),
            Site("block.self_attn", seeds=2, blueprint="low_rank"),
            Site("embedding", placement="inline", seeds=2, blueprint="affine"),
        ),
    ),
)


def built(host: Host, *, seeds: bool = True, example: bool = True) -> nn.Module:
    """A host with the same weights each time, morphed or plain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = host.build()
    if not seeds:
        return model
    return morph(model, host.sites, example=host.batch() if example else None)


def put(
    garden: Garden, row: int, state: str, *, kind: int = 0, alpha: float = 1.0, refresh: bool = True
) -> None:
    """Put a seed into a state as a Gardener would have left it there."""
    code = garden.state.lifecycle.State[state]
    garden.state.update([row], {"lifecycle_state": int(code), "blueprint_id": kind})
    if state not in ("DORMANT", "GERMINATED", "ROLLED_BACK"):
        garden.allocate(row)
        garden.state.update([row], {"alpha": alpha})
        _stir(garden, row)
    if refresh:
        garden.refresh()


@torch.no_grad()
def _stir(garden: Garden, row: int) -> None:
    """Give kinds that start as the zero function something to compute."""
    site = garden.site_of(row)
    pool = site.pool(int(garden.state["blueprint_id"][row]))
    stream = torch.Generator().manual_seed(row)
    for parameter in pool.stacked().values():
        values = parameter[int(garden.state["blueprint_slot"][row])]
        values += 0.3 * torch.randn(values.shape, generator=stream)


def poison(garden: Garden, row: int, value: float = float("nan")) -> None:
    """Make every parameter of a seed's blueprint `value`."""
    site = garden.site_of(row)
    pool = site.pool(int(garden.state["blueprint_id"][row]))
    for parameter in pool.stacked().values():
        parameter.data[int(garden.state["blueprint_slot"][row])] = value


def every_kind(garden: Garden, state: str, alpha: float = 0.7) -> list[int]:
    """Put one seed of every kind of every site into `state`, as far as seeds go; their rows."""
    rows = []
    for site in garden.sites.values():
        for kind in range(min(len(site.kinds), site.n_seeds)):
            put(garden, site.first_row + kind, state, kind=kind, alpha=alpha, refresh=False)
            rows.append(site.first_row + kind)
    garden.refresh()
    return rows


def gradients(model: nn.Module) -> Mapping[str, Tensor]:
    """The host's gradients by name."""
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not name.startswith("kasmina.")
    }
