"""Random rewinds, to the bit; `kasmina bench rewind` tries 200."""

from __future__ import annotations

import pytest
import torch

from kasmina.bench import rewind


@pytest.mark.parametrize("seed", range(1000, 1012))
def test_a_rewound_run_is_one_that_never_grafted(seed: int) -> None:
    """Any optimizer, width, kind and number of seeds, at any step of the ramp, and 100 steps on."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert rewind.same(seed)
    finally:
        torch.set_num_threads(threads)


def test_a_difference_of_one_bit_is_found() -> None:
    """The comparison itself can fail."""
    import random

    from kasmina.growth import GrowConfig, Idle
    from kasmina.growth.training import Run

    task = rewind._task(random.Random(0))
    one, two = (Run(task, GrowConfig(seed=0, epochs=2), Idle(), None, {}, None) for _ in range(2))
    assert rewind._equal(one, two)
    weight = two.model.get_parameter("0.weight")
    with torch.no_grad():
        weight.view(torch.int32)[0, 0] += 1
    assert not rewind._equal(one, two)


@pytest.mark.long
def test_two_hundred_random_rewinds() -> None:
    """As many as the benchmark tries, with other seeds."""
    assert all(rewind.same(seed) for seed in range(2000, 2200))
