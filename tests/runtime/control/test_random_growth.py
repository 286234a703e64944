"""Growth by lot."""

from __future__ import annotations

from typing import Any

import numpy as np

from kasmina.control import RandomController
from tests.runtime.control.test_tamiyo import COMMANDS, _observe, _site


def _drawn(seed: int, epoch: int, **more: Any) -> list[tuple[int, str | None]]:
    seen = _observe(epoch, **more)
    mask = np.ones((len(seen.seeds.state), len(COMMANDS)), np.bool_)
    proposal = RandomController(seed, first=0).propose(seen, mask)
    return [(command.row, command.blueprint) for command in proposal.commands]


def test_it_draws_one_seed_at_a_time_and_the_same_one_again() -> None:
    """The draw depends on the seed and the epoch; over many all rows come up."""
    draws = [_drawn(seed, epoch) for seed in range(20) for epoch in (3, 4)]
    assert draws == [_drawn(seed, epoch) for seed in range(20) for epoch in (3, 4)]
    assert {len(draw) for draw in draws} == {0, 1}
    assert {row for draw in draws for row, _ in draw} == {0, 1, 2, 3}


def test_it_waits_where_tamiyo_waits() -> None:
    """Before the warm-up, after the last epoch, while a seed is under way, without budget."""
    for more in (
        {"epoch": 1},
        {"epoch": 80},
        {"epoch": 5, "busy": 1},
        {"epoch": 5, "budget": 1050},
    ):
        assert not any(_drawn(seed, **more) for seed in range(10)), more


def test_it_obeys_mask_and_embargo() -> None:
    """Rows that may not germinate are never drawn."""
    seen = _observe(5, sites=(_site("a", 0), _site("b", 2, embargoed=True)))
    mask = np.ones((4, len(COMMANDS)), np.bool_)
    mask[0] = False
    rows = {
        command.row
        for seed in range(20)
        for command in RandomController(seed, first=0).propose(seen, mask).commands
    }
    assert rows == {1}
