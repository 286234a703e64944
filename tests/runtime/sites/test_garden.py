"""All seeds of a model together."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kasmina.lifecycle import CommandQueue
from kasmina.sites import Garden, Site, SiteError, morph
from tests.runtime.sites.models import Mlp, every_kind, poison, put


def garden_of(**options: int) -> tuple[nn.Module, Garden]:
    """An MLP with a parallel and an inline site, 5 seeds."""
    sites = [
        Site("first", until="second", seeds=2, blueprint=("mlp", "low_rank")),
        Site("second", placement="inline", seeds=3, hidden=4),
    ]
    model = morph(Mlp(), sites, run="test", example=torch.zeros(1, 12), **options)  # type: ignore[arg-type]
    return model, Garden.of(model)


def test_a_plain_model_has_none() -> None:
    """The error says what to call."""
    with pytest.raises(SiteError) as error:
        Garden.of(nn.Linear(2, 2))
    assert str(error.value) == ("Linear has no seeds; call kasmina.morph(model, sites=[...]) first")


def test_addresses() -> None:
    """Run, site, slot and generation of every row."""
    _, garden = garden_of()
    garden.state.update([3], {"generation": 2})
    assert str(garden.address(3)) == "test/second[1]#2"
    assert str(garden.address(0)) == "test/first..second[0]#0"
    with pytest.raises(IndexError, match="no site owns row 5; rows go from 0 to 4"):
        garden.address(5)


def test_seeds_are_views_with_addresses() -> None:
    """One `LogicalSeed` a row, whose requests go where the caller said."""
    _, garden = garden_of()
    queue = CommandQueue(garden.state)
    seeds = garden.seeds(queue)
    assert [str(seed.address) for seed in seeds] == [str(garden.address(r)) for r in range(5)]
    seeds[2].request("request_germination")
    assert queue.drain().events.nonzero().flatten().tolist() == [2]


def test_allocation_is_reproducible() -> None:
    """A seed's first values depend on run seed, site, slot and generation, and on nothing else."""

    def drawn(row: int, *, seed: int = 0, before: int | None = None, life: int = 0) -> torch.Tensor:
        _, garden = garden_of(seed=seed)
        garden.state.update([row], {"generation": life})
        if before is not None:
            garden.allocate(before)
        torch.rand(3)
        taken = garden.allocate(row)
        return garden.site_of(row).pool(0).stacked()["up_weight"][taken].detach()

    stream = torch.get_rng_state()
    reference = drawn(1)
    torch.set_rng_state(stream)
    assert torch.equal(reference, drawn(1, before=0))
    for other in (drawn(0), drawn(1, seed=1), drawn(1, life=1)):
        assert not torch.equal(reference, other)


def test_release_leaves_nothing() -> None:
    """The row is zeroed, the seed's columns and counts are cleared, and a second call is no error."""
    model, garden = garden_of()
    put(garden, 1, "GRAFTING", kind=1)
    poison(garden, 1)
    model(torch.zeros(2, 12))
    assert garden.nonfinite()[1] > 0
    garden.release(1)
    garden.release(1)
    assert garden.nonfinite()[1] == 0
    assert garden.site_of(1).pool("low_rank").used() == []
    assert not any(p.any() for p in garden.site_of(1).pool(1).parameters())
    columns = ("blueprint_id", "blueprint_slot", "alpha")
    assert [garden.state[name][1].item() for name in columns] == [-1, -1, 0]


def test_a_pool_doubles_under_its_seeds() -> None:
    """More seeds than a pool had rows: the forward pass goes on, earlier seeds as they were."""
    model = morph(nn.Linear(3, 4), [Site("", seeds=9, hidden=2)])
    garden = Garden.of(model)
    put(garden, 0, "GRAFTING")
    x = torch.randn(2, 3)
    first = model(x)
    for row in range(1, 9):
        put(garden, row, "TRAINING")
    assert torch.equal(model(x), first)
    assert garden.sites["."].pool("mlp").capacity == 16


def test_refresh_forgets_the_gradient_of_alpha() -> None:
    """It adds up over backward passes until then."""
    model, garden = garden_of()
    put(garden, 0, "GRAFTING", alpha=0.5)
    model.eval()
    for _ in range(2):
        torch.autograd.backward(model(torch.ones(2, 12)).sum())
    twice = garden.alpha_gradient()
    garden.refresh()
    assert not garden.alpha_gradient().any()
    torch.autograd.backward(model(torch.ones(2, 12)).sum())
    assert torch.allclose(2 * garden.alpha_gradient(), twice)


def test_a_trial_is_at_alpha_1_and_leaves_no_trace() -> None:
    """Inside, the seeds act in full; afterwards state, counts and output are as before."""
    model, garden = garden_of()
    model.eval()
    put(garden, 0, "TRAINING", alpha=0.0)
    put(garden, 3, "GRAFTING", alpha=0.0)
    poison(garden, 3)
    x = torch.ones(2, 12)
    with torch.no_grad():
        before = model(x)
        counts = garden.nonfinite()
        columns = {name: value.clone() for name, value in garden.state.columns.items()}
        with garden.trial(torch.tensor([0, 3])):
            tried = model(x)
            assert [name for name, _, _ in garden.signature()] == ["first..second", "second"]
        assert torch.equal(model(x), before)
    put_in_full = copy.deepcopy(model)
    put(Garden.of(put_in_full), 1, "DORMANT")
    assert not torch.equal(tried, before) and tried.isfinite().all()
    assert torch.equal(garden.nonfinite() - counts, torch.tensor([0, 0, 0, counts_of(x), 0]))
    for name, value in columns.items():
        assert torch.equal(garden.state[name], value)


def counts_of(x: torch.Tensor) -> int:
    """Elements that the poisoned inline seed of 3 features puts out in one pass."""
    return 3 * len(x)


def test_parameters_are_counted_by_what_stays() -> None:
    """Host, acting seeds, and with `promised` the ones on their way; free rows nowhere."""
    _model, garden = garden_of()
    host = sum(p.numel() for p in Mlp().parameters())
    assert garden.host_parameters() == garden.parameters_kept() == host
    costs = [garden.site_of(row).pool(0).kind.cost().parameters for row in range(5)]
    put(garden, 0, "FOSSILIZED")
    put(garden, 2, "TRAINING", alpha=0.0)
    put(garden, 3, "CULLED", alpha=0.5)
    put(garden, 4, "CULLED", alpha=0.0)
    garden.state.update([1], {"lifecycle_state": 1})  # GERMINATED
    assert garden.parameters_kept() == host + costs[0] + costs[3]
    promised = host + costs[0] + costs[1] + costs[2] + costs[3]
    assert garden.parameters_kept(promised=True) == promised
    first, second, _leaving = garden.architecture()  # mixed in, at whatever alpha
    assert first == {
        "site": "first..second",
        "slot": 0,
        "generation": 0,
        "blueprint": "mlp",
        "parameters": costs[0],
        "state": "FOSSILIZED",
    }
    assert (second["site"], second["slot"]) == ("second", 1)
    assert set(garden.pool_parameters()) == {n for n, _ in garden.named_parameters()}


def test_describe() -> None:
    """The sites as the event log holds them."""
    _, garden = garden_of()
    assert garden.describe()[1] == {
        "path": "second",
        "placement": "inline",
        "first_row": 2,
        "seeds": 3,
        "kinds": ["mlp"],
    }
    assert "'second', inline, 3 seeds of mlp" in repr(garden)


def test_equal_signatures_cost_the_same() -> None:
    """How many seeds of which kind act where; which ones does not matter."""
    _, garden = garden_of()
    assert garden.signature() == ()
    put(garden, 0, "GRAFTING")
    first = garden.signature()
    put(garden, 0, "DORMANT", refresh=False)
    put(garden, 1, "STABILIZATION")
    assert garden.signature() == first == (("first..second", "mlp", 1),)
    every_kind(garden, "GRAFTING")
    assert garden.signature() != first
