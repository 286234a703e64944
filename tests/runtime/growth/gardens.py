"""Small gardens for the tests of growth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.functional import cross_entropy

from kasmina.growth import Command, Controller, Gardener, GardenerConfig, Scripted
from kasmina.lifecycle import ContextTable
from kasmina.observe.log import EventLog
from kasmina.sites import Site, morph

QUICK: Mapping[str, float] = {"training_patience": 1, "min_validation_gain": 0.0}
GERMINATE = "request_germination"


def host(seed: int = 0) -> nn.Sequential:
    """A narrow MLP with BatchNorm and dropout: whatever may be disturbed, is there."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(8, 3),
            nn.BatchNorm1d(3),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(3, 2),
        )


def data(n: int = 256) -> tuple[Tensor, Tensor]:
    """Products of two features, which a narrow network cannot tell."""
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(n, 8, generator=draw)
    return x, (x[:, 0] * x[:, 1] > 0).long()


class Bed:
    """One small run: 4 batches an epoch; with `together` all seeds have learned at that epoch."""

    def __init__(
        self,
        controller: Controller | None = None,
        *,
        sites: Sequence[Site] | None = None,
        log: EventLog | None = None,
        seed: int = 0,
        limits: Mapping[str, float] = QUICK,
        clip: float | None = None,
        together: int | None = None,
        scaler: GradScaler | None = None,
        **config: Any,
    ) -> None:
        self.x, self.y = data()
        self.model = host(seed)
        default = [Site(".", seeds=4, blueprint="mlp", hidden=6)]
        morph(self.model, default if sites is None else sites, run="test", seed=seed)
        self.run: Callable[[Tensor], Tensor] = self.model  # a compiled one may take its place
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.999)
        self.clip, self.together, self.scaler = clip, together, scaler
        self.gardener = Gardener(
            self.model,
            self.optimizer,
            validate=lambda: cross_entropy(self.run(self.x[192:]), self.y[192:]),
            controller=controller,
            config=GardenerConfig(**{"ramp_steps": 8, **config}),
            limits=limits,
            log=log,
            stateful={"scheduler": self.scheduler},
            scaler=scaler,
            reduce_context=self._together,
        )

    def _together(self, context: ContextTable) -> ContextTable:
        if self.together is not None:
            stale = 0 if self.gardener.clock.epoch < self.together else 99
            context.set(slice(None), "stale_epochs", stale)
        return context

    @property
    def states(self) -> list[str]:
        """Every seed's state by name."""
        state = self.gardener.garden.state
        return [state.state(row).name for row in range(len(state))]

    def batch(self, spoil: bool = False) -> Tensor:
        """One training step; returns its loss. `spoil` makes one gradient of the host infinite."""
        at = 48 * (self.gardener.clock.step % 4)
        self.model.train()
        self.optimizer.zero_grad()
        loss = cross_entropy(self.run(self.x[at : at + 48]), self.y[at : at + 48])
        torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))
        if self.clip is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        if spoil:
            gradient = self.model.get_parameter("0.weight").grad
            assert gradient is not None
            gradient[0, 0] = torch.inf
        if self.gardener.step(loss):
            self.scheduler.step()
        return loss.detach()

    def epoch(self) -> None:
        """Four steps and a tick."""
        end = self.gardener.clock.step + 4
        while self.gardener.clock.step < end:
            self.batch()
        self.gardener.tick()

    def until(self, state: str, row: int = 0, most: int = 60) -> None:
        """Run on until a seed is in a state."""
        for _ in range(most):
            if self.states[row] == state:
                return
            self.epoch()
        raise AssertionError(f"seed {row} is in {self.states[row]}, not in {state}")

    def host_state(self) -> dict[str, Tensor]:
        """Parameters and buffers of the host, copied."""
        own = self.model.state_dict().items()
        return {name: v.clone() for name, v in own if not name.startswith("kasmina.")}


def germinate(*rows: int, epoch: int = 1, **options: Any) -> Scripted:
    """A controller that germinates `rows` once."""
    return Scripted({epoch: [Command(GERMINATE, row, "test", **options) for row in rows]})


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Equal to the bit, names included."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
