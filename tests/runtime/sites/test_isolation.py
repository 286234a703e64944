"""Until it is grafted, a seed changes nothing: not a bit of the host, also when it is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import backward

from kasmina.blueprints import Placement
from kasmina.sites import Garden, Site, morph
from tests.runtime.sites.models import HOSTS, Host, built, every_kind, poison

every_host = pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
UNFELT = ("DORMANT", "GERMINATED", "TRAINING", "ROLLED_BACK")
STEPS = 5


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Pin what could reorder sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(
    host: Host,
    model: nn.Module,
    *,
    autocast: bool = False,
    between: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Outputs, gradients, buffers, weights and random stream over some training steps."""
    torch.manual_seed(11)
    seen: dict[str, Tensor] = {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(host.batch())
        backward(output.float().square().mean())
        between()
        seen[f"{step} norm"] = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        seen[f"{step} output"] = output.detach()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                seen[f"{step} grad {name}"] = parameter.grad.clone()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        seen["evaluation"] = model(host.batch())
    for name, value in model.state_dict().items():
        if not name.startswith("kasmina."):
            seen[name] = value.clone()
    return {**seen, "stream": torch.get_rng_state()}


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal names and equal bits."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


@pytest.fixture(autouse=True)
def _no_fast_path() -> Iterator[None]:
    """An encoder layer with hooks does not take torch's fused path, which rounds otherwise."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(enabled)


@every_host
@pytest.mark.parametrize("state", UNFELT)
def test_training_is_the_same_to_the_bit(host: Host, state: str) -> None:
    """Outputs, gradients, clipping, dropout, BatchNorm and the stream of random numbers."""
    model = built(host)
    every_kind(Garden.of(model), state)
    assert_same_bits(trained(host, model), trained(host, built(host, seeds=False)))


@every_host
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_seed_that_trains_aside_is_not_felt(host: Host, value: float) -> None:
    """NaN or infinity in every weight of every blueprint in TRAINING."""
    model = built(host)
    garden = Garden.of(model)
    for row in every_kind(garden, "TRAINING"):
        poison(garden, row, value)
    assert_same_bits(trained(host, model), trained(host, built(host, seeds=False)))


@every_host
def test_under_autocast(host: Host) -> None:
    """bfloat16 on the CPU."""
    model = built(host)
    every_kind(Garden.of(model), "TRAINING")
    plain = trained(host, built(host, seeds=False), autocast=True)
    assert_same_bits(trained(host, model, autocast=True), plain)


@every_host
def test_isolated_training_is_not_felt(host: Host) -> None:
    """Blueprints that really learn aside, from what the sites captured, between the steps."""
    model = built(host)
    garden = Garden.of(model)
    rows = torch.tensor(every_kind(garden, "TRAINING"))
    learned = 0

    def learn() -> None:
        nonlocal learned
        for site in garden.sites.values():
            passage = site.captured
            if passage is not None:
                seeds = rows[(rows >= site.first_row) & (rows < site.first_row + site.n_seeds)]
                for kind in site.kinds:
                    _learn_one(garden, site.path, kind, seeds - site.first_row)
                    learned += 1

    assert_same_bits(trained(host, model, between=learn), trained(host, built(host, seeds=False)))
    assert learned >= STEPS * len(garden.sites)


def _learn_one(garden: Garden, path: str, kind: str, seeds: Tensor) -> None:
    """One gradient step of the blueprints of one kind, as growth does it."""
    site = garden.sites[path]
    of_kind = garden.state["blueprint_id"][seeds + site.first_row] == site.kinds.index(kind)
    chosen = seeds[of_kind]
    passage = site.captured
    if passage is None or not len(chosen):
        return
    pool = site.pool(kind)
    rows = garden.state["blueprint_slot"][chosen + site.first_row].long()
    with torch.enable_grad():
        params = {n: v.detach().requires_grad_() for n, v in pool.rows(rows).items()}
        made = pool.kind.forward(params, site.blueprint_input(passage.input, chosen))
        error = (made + site.blueprint_output(passage.gradient, chosen)).square().mean()
        gradients = torch.autograd.grad(error, list(params.values()))
    with torch.no_grad():
        for (name, _), gradient in zip(params.items(), gradients, strict=True):
            pool.stacked()[name][rows] -= 0.1 * gradient


class Remembering(nn.Linear):
    """A Linear that knows the very object that it returned."""

    last: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Linear's."""
        self.last = super().forward(x)
        return self.last


@pytest.mark.parametrize("state", UNFELT)
@pytest.mark.parametrize("placement", ["inline", "parallel"])
def test_the_hosts_object_is_returned(placement: Placement, state: str) -> None:
    """Not a copy of the host's output: the very object."""
    model = morph(Remembering(3, 4), [Site("", placement=placement, seeds=2)])
    every_kind(Garden.of(model), state)
    for _ in range(3):
        assert model(torch.ones(2, 3)) is model.last
