"""The pool of stacked parameters."""

from __future__ import annotations

import copy
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import backward

from kasmina.blueprints import BlueprintPool, PoolFull, SiteShape, blueprint_kind


def pool_of(capacity: int, features: int = 4, hidden: int = 3) -> BlueprintPool:
    """A pool of inline MLPs."""
    kind = blueprint_kind("mlp")(SiteShape("inline", features, features), hidden)
    return BlueprintPool(kind, capacity)


def stream(seed: int = 0) -> torch.Generator:
    """A fresh generator."""
    return torch.Generator().manual_seed(seed)


def total(rows: dict[str, Tensor]) -> Tensor:
    """The sum of everything."""
    return torch.stack([value.sum() for value in rows.values()]).sum()


def test_rows_are_taken_lowest_first() -> None:
    """Rows are given out in order, and a freed one is the next to go."""
    pool = pool_of(4)
    assert [pool.allocate(stream()) for _ in range(3)] == [0, 1, 2]
    pool.free(1)
    assert pool.used() == [0, 2]
    assert pool.allocate(stream()) == 1


def test_free_rows_are_zero() -> None:
    """A row is zero before it is taken and after it was given back."""
    pool = pool_of(2)
    row = pool.allocate(stream())
    assert all(p[row].any() and not p[1].any() for p in pool.stacked().values())
    pool.free(row)
    assert not any(p.any() for p in pool.stacked().values())


@pytest.mark.parametrize("row", [-1, 1, 7])
def test_freeing_a_row_that_nobody_holds(row: int) -> None:
    """Freeing what is free is an error that lists what is taken."""
    pool = pool_of(2)
    pool.allocate(stream())
    with pytest.raises(ValueError, match=rf"^row {row} is not taken; taken: \[0\]$"):
        pool.free(row)


def test_a_pool_needs_a_row() -> None:
    """A capacity below 1 is refused."""
    with pytest.raises(ValueError, match="capacity of 1 or more, got 0"):
        pool_of(0)


def test_doubling_keeps_parameters_and_their_optimizer() -> None:
    """A full pool doubles in place: same Parameters, same values, padded gradients."""
    pool = pool_of(1)
    pool.allocate(stream(1))
    held = pool._parameters
    before = {name: (p, p.detach().clone()) for name, p in pool.stacked().items()}
    for parameter in pool.parameters():
        parameter.grad = torch.ones_like(parameter)
    told: list[tuple[int, int, int]] = []
    taken: list[int] = []

    def grow(parameter: nn.Parameter, old: int, new: int) -> Callable[[], None]:
        assert len(parameter) == old, "it is asked before"
        told.append((id(parameter), old, new))
        return lambda: taken.append(len(parameter))

    pool.grown.append(grow)
    pool.allocate(stream(2))
    assert pool.capacity == 2
    assert told == [(id(p), 1, 2) for p, _ in before.values()]
    assert taken == [2] * len(told)
    assert pool._parameters is not held, "a graph of torch 2.11 would not look at the shapes again"
    for name, parameter in pool.stacked().items():
        assert parameter is before[name][0]
        assert torch.equal(parameter[0], before[name][1][0])
        assert parameter.grad is not None
        assert parameter.grad[0].all() and not parameter.grad[1].any()


def test_doubling_beside_a_graph_that_is_alive() -> None:
    """A loss that somebody still holds does not break the next backward pass."""
    pool = pool_of(2)
    for _ in range(2):
        pool.allocate(stream())
    held = total(pool.rows(torch.tensor([0])))
    backward(held, retain_graph=True)
    pool.allocate(stream())
    rows = pool.rows(torch.tensor([0, 2]))
    backward(total(rows))
    for parameter in pool.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape
        assert (parameter.grad[0] == 2).all() and (parameter.grad[2] == 1).all()


def test_doubling_without_memory_changes_nothing() -> None:
    """Out of memory is told as `PoolFull`, and the pool is as it was."""
    pool = pool_of(4, features=1024, hidden=4096)  # 4 rows of 33 MB, 8 are 268
    for _ in range(4):
        pool.allocate(stream())
    before = {name: p.data_ptr() for name, p in pool.stacked().items()}
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 160 * 2**20, hard))
    try:
        with pytest.raises(PoolFull) as error:
            pool.allocate(stream())
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert str(error.value) == (
        "no memory to double the pool of blueprint 'mlp' from 4 to 8 rows on cpu; nothing was "
        "changed. Free a seed, or use fewer or smaller ones"
    )
    assert pool.capacity == 4 and pool.used() == [0, 1, 2, 3]
    assert {name: p.data_ptr() for name, p in pool.stacked().items()} == before


def test_gradients_reach_the_rows_that_were_read() -> None:
    """`rows` is differentiable; the other rows get a gradient of 0."""
    pool = pool_of(3)
    for _ in range(3):
        pool.allocate(stream())
    backward(total(pool.rows(torch.tensor([2, 0]))))
    for parameter in pool.parameters():
        assert parameter.grad is not None
        assert parameter.grad[0].all() and parameter.grad[2].all()
        assert not parameter.grad[1].any()


@pytest.mark.parametrize(("saved", "here"), [(1, 4), (4, 1), (2, 2)])
def test_a_state_dict_of_another_capacity(saved: int, here: int) -> None:
    """A larger one makes the pool grow, a smaller one is padded; Parameters stay the same."""
    source, target = pool_of(saved), pool_of(here)
    for _ in range(saved):
        source.allocate(stream())
    for _ in range(here):
        target.allocate(stream(5))
    parameters = list(target.parameters())
    target.load_state_dict(source.state_dict())
    assert target.capacity == max(saved, here)
    assert target.used() == source.used()
    assert all(a is b for a, b in zip(parameters, target.parameters(), strict=True))
    for name, value in source.stacked().items():
        assert torch.equal(target.stacked()[name][:saved], value)
        assert not target.stacked()[name][saved:].any()


def test_a_copy_has_no_listeners() -> None:
    """Whoever listens to a pool's growth does not travel with its copies."""
    pool = pool_of(1)
    pool.grown.append(lambda *_: lambda: None)
    twin = copy.deepcopy(pool)
    assert twin.grown == [] and len(pool.grown) == 1
    twin.allocate(stream())
    assert pool.used() == []


def test_parameters_live_where_they_were_asked_to() -> None:
    """A pool takes the host's dtype."""
    kind = blueprint_kind("affine")(SiteShape("inline", 2, 2), 1)
    pool = BlueprintPool(kind, 2, dtype=torch.float64)
    pool.allocate(stream())
    assert all(p.dtype == torch.float64 and isinstance(p, nn.Parameter) for p in pool.parameters())
