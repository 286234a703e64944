"""Whole runs of a Gardener on the device: germination to fossil, rewind, fold.

    PYTHONPATH=spec:generator:generated:runtime:. python -m tools.gpu_grow [--device cuda] [--only NAME]

A run asserts what it came to, and that what is folded puts out what the grown model does.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import kasmina
from kasmina.growth import Command

EPOCHS, BATCH = 60, 64


class Bed:
    """A task that two hidden units are too few for, and a Gardener over them.

    Args:
        device: of model and data.
        sites: where it grows.
        mixed: dtype of the passes, by autocast; None for none. float16 has a GradScaler.
        compiled: whether the model is compiled.
    """

    def __init__(
        self,
        device: torch.device,
        sites: list[kasmina.Site],
        *,
        mixed: torch.dtype | None = None,
        compiled: bool = False,
        host: Callable[[], nn.Module] | None = None,
    ) -> None:
        torch.manual_seed(0)
        self.x = torch.randn(1536, 8).to(device)
        self.y = (self.x[:, 0] * self.x[:, 1] > 0).long()
        self.device, self.mixed = device, mixed
        made = host() if host else nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 2))
        self.model = kasmina.morph(made.to(device), sites=sites, example=self.x[:2])
        self.run: Any = torch.compile(self.model) if compiled else self.model
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        half = mixed == torch.float16
        self.scaler = torch.amp.GradScaler(device.type) if half else None
        self.gardener = kasmina.Gardener(
            self.model,
            optimizer,
            validate=lambda: self.loss(slice(512, None), "none"),
            controller=kasmina.TamiyoController(),
            config=kasmina.GardenerConfig(epochs=EPOCHS, budget=1000, ramp_steps=24),
            scaler=self.scaler,
        )

    def loss(self, part: slice, reduction: str = "mean") -> Tensor:
        """Of some examples."""
        autocast = torch.autocast(self.device.type, self.mixed) if self.mixed else nullcontext()
        with autocast:
            output = self.run(self.x[part])
        return cross_entropy(output.float(), self.y[part], reduction=reduction)

    def epoch(self) -> None:
        """Eight steps and a tick."""
        for at in range(0, 512, BATCH):
            self.gardener.optimizer.zero_grad()
            loss = self.loss(slice(at, at + BATCH))
            torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))
            self.gardener.step(loss)
        self.gardener.tick()

    @property
    def states(self) -> list[str]:
        """Of all seeds."""
        state = self.gardener.garden.state
        return [state.state(row).name for row in range(len(state))]

    @torch.no_grad()
    def validation(self) -> float:
        """The mean loss on the examples that are not trained on, nats."""
        return float(self.loss(slice(512, None)))

    def grow(self) -> dict[str, Any]:
        """To the end; what came of it."""
        before = self.validation()
        while self.gardener.clock.epoch < EPOCHS:
            self.epoch()
        after = self.validation()
        plain = kasmina.fold(self.model).eval()
        with torch.no_grad():
            self.model.eval()
            apart = float((plain(self.x) - self.model(self.x)).abs().max())
        assert after < before, (before, after)
        assert apart < 1e-4, apart
        return {"before": before, "after": after, "apart": apart, "states": self.states}


def parallel(device: torch.device, **more: Any) -> dict[str, Any]:
    """As the README's example."""
    site = kasmina.Site("0", seeds=4, hidden=8)
    found = Bed(device, [site], **more).grow()
    assert "FOSSILIZED" in found["states"], found
    return found


def inline(device: torch.device) -> dict[str, Any]:
    """Seeds that transform chunks, beside parallel ones."""
    chunks = kasmina.Site("2", placement="inline", seeds=2, hidden=8)
    return Bed(device, [chunks, kasmina.Site("0", seeds=3, hidden=8)]).grow()


def picture(device: torch.device) -> dict[str, Any]:
    """Kinds that look at places."""
    kinds = ("conv", "separable", "attention", "mlp")
    site = kasmina.Site("", seeds=8, blueprint=kinds, hidden=4, layout=(2, 4))
    return Bed(device, [site]).grow()


def taken_back(device: torch.device) -> dict[str, Any]:
    """An emergency in the middle of a ramp, then on to the end."""
    bed = Bed(device, [kasmina.Site("0", seeds=4, hidden=8)])
    while "GRAFTING" not in bed.states:
        bed.epoch()
        assert bed.gardener.clock.epoch < EPOCHS, "nothing grafted"
    row = bed.states.index("GRAFTING")
    bed.gardener.request(Command("emergency", row, "asked for"))
    bed.epoch()
    states = bed.states
    assert "ROLLED_BACK" in states, states
    return bed.grow()


RUNS: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "parallel": parallel,
    "bfloat16": lambda device: parallel(device, mixed=torch.bfloat16),
    "float16, scaled": lambda device: parallel(device, mixed=torch.float16),
    "compiled": lambda device: parallel(device, compiled=True),
    "inline": inline,
    "picture": picture,
    "taken back": taken_back,
}


def main() -> int:
    """Run them one after the other, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", choices=list(RUNS))
    given = parser.parse_args()
    for name in RUNS if given.only is None else [given.only]:
        found = RUNS[name](torch.device(given.device))
        sys.stdout.write(f"ok   {name}: {json.dumps(found)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
