"""A run whose seeds sleep, wait or learn aside is, bit for bit, a run without Kasmina."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kasmina.growth import Command, Gardener, GardenerConfig
from kasmina.sites import Site, morph
from tests.runtime.growth.gardens import GERMINATE, data

STEPS = 100
SITES = (
    Site(
        ".",
        seeds=4,
        blueprint=("mlp", "gated", "separable", "attention"),
        hidden=4,
        layout=(2, 4),
    ),
    Site("0", placement="inline", seeds=2, blueprint=("squeeze_excite", "affine")),
    Site("4", placement="inline", seeds=2, blueprint="low_rank", mode="replace", hidden=2),
)
KINDS = ("mlp", "gated", "separable", "attention", "squeeze_excite", "affine", "low_rank")
NEVER = {"min_validation_gain": 1.0, "max_reconstruction_loss": 0.0, "hopeless_epochs": 1000}
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


@pytest.fixture(autouse=True)
def _pinned() -> Iterator[None]:
    """One thread, full precision and deterministic kernels: what could reorder sums, may not."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def host() -> nn.Sequential:
    """With BatchNorm and dropout, the two that remember and draw."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3)
        )


class Run:
    """Some steps of training, with a Gardener or without one; keeps all that could differ."""

    def __init__(
        self, make: Make, *, grows: bool, autocast: bool = False, clip: float | None = None
    ) -> None:
        self.x, self.y = data()
        self.model, self.autocast, self.clip = host(), autocast, clip
        if grows:
            morph(self.model, SITES, run="test")
        self.optimizer = make(list(self.model.parameters()))
        self.seen: list[Tensor] = []
        self.gardener = self._gardener() if grows else None
        torch.manual_seed(7)

    def _gardener(self) -> Gardener:
        return Gardener(
            self.model,
            self.optimizer,
            validate=lambda: cross_entropy(self.model(self.x[192:]), self.y[192:]),
            config=GardenerConfig(strategy="learned", contest=1000),
            limits=NEVER,
        )

    def steps(self, number: int, *, ticks: bool = True) -> None:
        """Train on; with `ticks` every tenth step ends an epoch."""
        for step in range(number):
            at = 48 * (step % 4)
            self.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
                output = self.model(self.x[at : at + 48])
            loss = cross_entropy(output.float(), self.y[at : at + 48])
            torch.autograd.backward(loss)
            if self.clip is not None:
                self.seen.append(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip))
            self.seen += [output.detach().clone(), loss.detach().clone()]
            self.seen += [p.grad.clone() for _, p in self._own() if p.grad is not None]
            if self.gardener is None:
                self.optimizer.step()
            else:
                self.gardener.step(loss)
                if ticks and step % 10 == 9:
                    self.gardener.tick()

    def _own(self) -> list[tuple[str, nn.Parameter]]:
        named = self.model.named_parameters()
        return [(name, p) for name, p in named if not name.startswith("kasmina.")]

    def everything(self) -> dict[str, Tensor]:
        """All that was seen, weights, buffers, the optimizer's state, the random stream."""
        found = {f"seen {number}": value for number, value in enumerate(self.seen)}
        for name, value in self.model.state_dict().items():
            if not name.startswith("kasmina."):
                found[name] = value.clone()
        for name, parameter in self._own():
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor):
                    found[f"{name} {key}"] = value.clone()
        return {**found, "stream": torch.get_rng_state()}

    def states(self) -> set[str]:
        """Of all seeds."""
        assert self.gardener is not None
        state = self.gardener.garden.state
        return {state.state(row).name for row in range(len(state))}

    def germinate(self) -> None:
        """Ask for every seed, each of another kind."""
        assert self.gardener is not None
        for row, kind in enumerate((*KINDS, "low_rank")):
            self.gardener.request(Command(GERMINATE, row, "test", blueprint=kind))
        self.gardener.tick()

    def poison(self, value: float) -> None:
        """Break every other seed's weights."""
        assert self.gardener is not None
        for site in self.gardener.garden.sites.values():
            for pool in map(site.pool, site.kinds):
                for parameter in pool.stacked().values():
                    parameter.data[::2] = value


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Names and bits."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-1, momentum=0.9, weight_decay=1e-2),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip": 0.1},
    "autocast": {"autocast": True},
    "both": {"autocast": True, "clip": 0.1},
}
CASES = [
    *[("TRAINING", "adamw", variant) for variant in VARIANTS],
    *[("TRAINING", "nadam", "plain"), ("TRAINING", "sgd", "clipped")],
    *[("GERMINATED", "adamw", "both"), ("GERMINATED", "sgd", "plain")],
    *[("DORMANT", "adamw", "both"), ("DORMANT", "sgd", "plain")],
]


@pytest.mark.parametrize(("state", "optimizer", "variant"), CASES)
def test_a_hundred_steps_are_equal_to_the_bit(state: str, optimizer: str, variant: str) -> None:
    """Outputs, losses, gradients, buffers, optimizer and random stream, in each state."""
    make, how = OPTIMIZERS[optimizer], VARIANTS[variant]
    plain, grown = (Run(make, grows=grows, **how) for grows in (False, True))
    if state != "DORMANT":
        grown.germinate()
    if state == "TRAINING":
        assert grown.gardener is not None
        grown.gardener.tick()
    assert grown.states() == {state}
    learned = [p.clone() for p in grown.gardener.garden.parameters()] if grown.gardener else []
    plain.steps(STEPS)
    torch.manual_seed(7)
    grown.steps(STEPS, ticks=state != "GERMINATED")
    assert grown.states() == {state}
    assert_equal(grown.everything(), plain.everything())
    if state == "TRAINING":  # and they did learn meanwhile
        assert grown.gardener is not None
        for before, after in zip(learned, grown.gardener.garden.parameters(), strict=True):
            assert not torch.equal(before, after)


@pytest.mark.parametrize(
    ("value", "variant"),
    [(float("nan"), "plain"), (float("nan"), "both"), (float("inf"), "both"), (3e38, "clipped")],
)
def test_a_broken_seed_is_not_felt(value: float, variant: str) -> None:
    """NaN, infinity or an overflow in the weights of seeds that learn aside, from step 20 on."""
    how = VARIANTS[variant]
    plain, grown = (Run(OPTIMIZERS["adamw"], grows=grows, **how) for grows in (False, True))
    grown.germinate()
    assert grown.gardener is not None
    grown.gardener.tick()
    plain.steps(20 + STEPS)
    torch.manual_seed(7)
    grown.steps(20)
    grown.poison(value)
    grown.steps(STEPS)
    assert grown.states() == {"TRAINING"}
    ours = grown.everything()
    assert_equal(ours, plain.everything())
    assert all(bool(v.isfinite().all()) for v in ours.values() if v.is_floating_point())


def test_the_comparison_can_fail() -> None:
    """A seed that grafts is felt."""
    plain, grown = (Run(OPTIMIZERS["adamw"], grows=grows) for grows in (False, True))
    grown.germinate()
    assert grown.gardener is not None
    for name, value in (("min_validation_gain", 0.0), ("training_patience", 1)):
        grown.gardener.limits.override(name, value)
    plain.steps(STEPS)
    torch.manual_seed(7)
    grown.steps(STEPS)
    with pytest.raises(AssertionError):
        assert_equal(grown.everything(), plain.everything())
