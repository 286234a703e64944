"""Counter-based randomness."""

from __future__ import annotations

import subprocess
import sys

import torch

from kasmina.lifecycle.randomness import generator, key

_SEED = (7, "block.0", 3, 0, "initialise")


def test_the_same_purpose_draws_the_same_numbers() -> None:
    """Two generators of one key agree, however much was drawn in between."""
    first = torch.randn(5, generator=generator(*_SEED))
    torch.randn(100, generator=generator(7, "block.0", 3, 0, "other"))
    assert torch.equal(first, torch.randn(5, generator=generator(*_SEED)))


def test_every_part_of_the_key_counts() -> None:
    """Changing any one part gives other numbers; parts do not run into each other."""
    others = [
        (8, "block.0", 3, 0, "initialise"),
        (7, "block.1", 3, 0, "initialise"),
        (7, "block.0", 4, 0, "initialise"),
        (7, "block.0", 3, 1, "initialise"),
        (7, "block.0", 3, 0, "batch"),
        (7, "block.03", 0, 0, "initialise"),
    ]
    assert len({key(*part) for part in [_SEED, *others]}) == len(others) + 1


def test_the_global_stream_is_never_touched() -> None:
    """Making and using a generator leaves torch's own stream where it was."""
    before = torch.get_rng_state()
    torch.randn(5, generator=generator(*_SEED))
    assert torch.equal(before, torch.get_rng_state())


def test_the_key_is_the_same_in_another_process() -> None:
    """Python's salted hash plays no part in it."""
    code = f"from kasmina.lifecycle.randomness import key; print(key(*{_SEED!r}))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(other.stdout) == key(*_SEED) == 9715435148748361098
