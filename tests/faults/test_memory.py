"""Out of memory while a pool doubles: the allocator itself fails, at each of its allocations."""

from __future__ import annotations

import json
import sys

import pytest

from tests.helpers import run_python

# A child, because a limit on memory cannot be told from a leak in a process that goes on.
DOUBLING = """
import json, resource, sys
import torch
from torch import nn
from kasmina.blueprints import PoolFull
from kasmina.growth.rows import RowGuard
from kasmina.sites import Garden, Site, morph

MB = 2**20
torch.set_num_threads(1)
torch.manual_seed(0)
model = morph(nn.Linear(1024, 1024), [Site("", seeds=8, hidden=256)])
garden = Garden.of(model)
(site,) = garden.sites.values()
pool = site.pool("mlp")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
guard = RowGuard(optimizer, list(pool.parameters()), lambda: pool.occupied)
pool.grown.append(guard.grow)
code = int(garden.state.lifecycle.State["FINE_TUNING"])
for row in range(4):
    garden.allocate(row)
    garden.state.update([row], {"lifecycle_state": code, "alpha": 1.0})
garden.refresh()
x = torch.randn(4, 1024)

def step():
    optimizer.zero_grad()
    torch.autograd.backward(model(x).square().sum())
    optimizer.step()

def state():
    tensors = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    for parameter in model.parameters():
        tensors += optimizer.state[parameter].values()
    return tensors

def used():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

step()
before = [each.clone() for each in state()]
columns = garden.state.codes.clone()
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
outcomes = []
for room in [*range(0, 97, 8), 4096]:
    resource.setrlimit(resource.RLIMIT_AS, (used() + room * MB + MB, hard))
    try:
        garden.allocate(4)
    except PoolFull as error:
        outcomes.append(str(error.__cause__))
    else:
        outcomes.append("")
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    if not outcomes[-1]:
        break
    now = state()
    same = all(torch.equal(a, b) for a, b in zip(before, now, strict=True))
    same = same and torch.equal(columns, garden.state.codes) and pool.used() == [0, 1, 2, 3]
    assert same and int(garden.state["blueprint_slot"][4]) == -1, room
assert pool.capacity == 8 and pool.used() == [0, 1, 2, 3, 4]
step()
assert all(moment.shape == p.shape for p in pool.parameters()
           for name, moment in optimizer.state[p].items() if name != "step")
print(json.dumps(outcomes))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux")
def test_a_pool_that_cannot_double_is_as_it_was() -> None:
    """Parameters, gradients, moments and seeds keep their bits; with memory the next try goes on.

    A doubling allocates 8 MB for each of two parameters, their gradients and their two moments. It
    is stopped at each of them, moments too, of which the pool itself knows nothing.
    """
    # Memory that was freed goes back at once, so that a limit means the same each time.
    done = run_python(DOUBLING, environment={"MALLOC_MMAP_THRESHOLD_": "65536"})
    assert done.returncode == 0, done.stderr
    *refused, last = json.loads(done.stdout)
    assert len(refused) >= 6
    assert all("allocate memory" in each for each in refused), refused
    assert last == ""
