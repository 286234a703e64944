"""Taking an optimizer over to a model that has grown."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kasmina.errors import KasminaError
from kasmina.growth import Gardener, StaleOptimizer, migrate
from kasmina.growth.optimizer import check_holds
from kasmina.sites import Garden, Site, morph
from tests.runtime.growth.gardens import Bed, host
from tests.runtime.growth.test_optimizer import OPTIMIZERS, Make

ELEMENTWISE = {name: make for name, make in OPTIMIZERS.items() if name != "a user's own"}


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Some steps on random data that depends on nothing else."""
    for step in range(steps):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        torch.autograd.backward(model(x).square().mean())
        optimizer.step()


def moments(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Of a parameter's state the tensors."""
    state = optimizer.state[parameter]
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_host_that_gets_seeds_trains_on_as_if_it_had_none(make: Make) -> None:
    """The optimizer was there first; after `migrate` the host's next steps are the same bits."""
    plain, grown = host().eval(), host().eval()
    optimizers = [make(list(model.parameters())) for model in (plain, grown)]
    for model, optimizer in zip((plain, grown), optimizers, strict=True):
        trained(model, optimizer, 3)
    before = dict(grown.named_parameters())
    morph(grown, [Site("0", seeds=2)])
    migrate(optimizers[1], before, grown)
    check_holds(optimizers[1], dict(grown.named_parameters()))
    for model, optimizer in zip((plain, grown), optimizers, strict=True):
        trained(model, optimizer, 3)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, grown.get_parameter(name)), name
    for parameter in Garden.of(grown).parameters():  # and a seed may train at once
        parameter.grad = torch.ones_like(parameter)
    optimizers[1].step()
    assert all(bool((p < 0).all()) for p in Garden.of(grown).parameters())


@pytest.mark.parametrize("make", ELEMENTWISE.values(), ids=ELEMENTWISE)
def test_a_wider_network_keeps_the_moments_that_it_had(make: Make) -> None:
    """Parameters of the same names take over steps and moments, padded with zeros."""
    small, wide = nn.Linear(8, 3), nn.Linear(8, 5)
    optimizer = make(list(small.parameters()))
    trained(small, optimizer, 4)
    kept = {name: moments(optimizer, p) for name, p in small.named_parameters()}
    migrate(optimizer, dict(small.named_parameters()), wide)
    for name, parameter in wide.named_parameters():
        now = moments(optimizer, parameter)
        assert now.keys() == kept[name].keys()
        for key, value in kept[name].items():
            if value.dim() == 0:
                assert now[key] == value
            else:
                assert now[key].shape == parameter.shape
                assert torch.equal(now[key][:3], value)
                assert (now[key][3:] == (0.1 if key == "sum" else 0.0)).all()
    trained(wide, optimizer, 2)


def test_new_parameters_join_the_group_of_their_neighbours() -> None:
    """With its learning rate and decay; a seed's that of the module at its site."""
    model = host()
    groups = [
        {"params": list(model[0].parameters()), "lr": 1e-3, "weight_decay": 0.5},
        {"params": [*model[1].parameters(), *model[4].parameters()], "lr": 1e-1},
    ]
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    before = dict(model.named_parameters())
    morph(model, [Site("0", seeds=2), Site("4", seeds=2, blueprint="low_rank")])
    migrate(optimizer, before, model)
    names = {id(p): name for name, p in model.named_parameters()}
    found = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert [n for n in found[0] if "kasmina" in n and "mlp" not in n] == []
    assert [n for n in found[1] if "kasmina" in n and "low_rank" not in n] == []
    assert sum(map(len, found)) == len(names)
    trained(model.eval(), optimizer, 1)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [5e-4, 5e-2]
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_names_that_are_gone_leave_the_optimizer() -> None:
    """With their state."""
    model = nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 2))
    optimizer = torch.optim.Adam(model.parameters())
    trained(model, optimizer, 1)
    before = dict(model.named_parameters())
    del model[1]
    migrate(optimizer, before, model)
    assert len(optimizer.param_groups[0]["params"]) == len(optimizer.state) == 2
    trained(model, optimizer, 1)


def test_what_cannot_be_taken_over_is_refused() -> None:
    """And the optimizer stays as it was."""
    wide, small = nn.Linear(8, 5), nn.Linear(8, 3)
    optimizer = torch.optim.Adam(wide.parameters())
    trained(wide, optimizer, 1)
    with pytest.raises(KasminaError) as caught:
        migrate(optimizer, dict(wide.named_parameters()), small)
    assert str(caught.value) == (
        "weight had shape (5, 8) and has (3, 8) now; an optimizer's state can be padded, not cut. "
        "Build a new optimizer"
    )
    with pytest.raises(KasminaError, match=r"of shape \(5, 8\) that `before` does not name; give"):
        migrate(optimizer, {}, small)
    assert optimizer.param_groups[0]["params"] == list(wide.parameters())
    assert len(optimizer.state) == 2


def test_a_gardener_takes_a_migrated_optimizer() -> None:
    """Without it the Gardener refuses to start."""
    model = host()
    optimizer = torch.optim.AdamW(model.parameters())
    before = dict(model.named_parameters())
    morph(model, [Site(".", seeds=2)])
    with pytest.raises(StaleOptimizer, match=r"does not hold 3 parameter\(s\) of the grown model"):
        Gardener(model, optimizer, validate=lambda: torch.tensor(0.0))
    migrate(optimizer, before, model)
    Gardener(model, optimizer, validate=lambda: torch.tensor(0.0))


def test_an_optimizer_that_loses_a_grown_parameter_is_found_at_the_next_step() -> None:
    """Whether its groups have changed, or another optimizer took its place."""
    bed = Bed()
    bed.batch()
    group = bed.optimizer.param_groups[0]
    pool = set(map(id, bed.gardener.garden.parameters()))
    every = group["params"]
    group["params"] = [p for p in every if id(p) not in pool]
    with pytest.raises(StaleOptimizer, match=r"does not hold 3 parameter\(s\) of the grown model"):
        bed.batch()
    group["params"] = every
    bed.batch()
    bed.gardener.optimizer = torch.optim.AdamW(bed.model.parameters())
    with pytest.raises(StaleOptimizer, match=r"^the Gardener's optimizer is another object than"):
        bed.batch()
