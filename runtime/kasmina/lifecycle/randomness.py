"""Random numbers that depend on what they are for and on nothing else.

A stream would make every draw depend on all draws before it: one seed more in the model, or one
draw more of the host's dropout, and everything after it changes. Here the key is the whole of
(run seed, site, slot, generation, purpose), hashed, so that no draw disturbs another one and a
resumed run draws what the first one would have drawn.

Torch's CPU engine keeps 32 of the 64 bits of the key (measured, torch 2.13). Two of 1000 keys
share a stream with a chance of 1e-4, which weakens an initialisation but breaks nothing.
"""

from __future__ import annotations

import json
from hashlib import blake2b

import torch


def key(run_seed: int, site: str, slot: int, generation: int, purpose: str) -> int:
    """The 64-bit key of a purpose; equal on every machine and in every process."""
    text = json.dumps([run_seed, site, slot, generation, purpose], ensure_ascii=True)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(
    run_seed: int,
    site: str,
    slot: int,
    generation: int,
    purpose: str,
    device: torch.device | str = "cpu",
) -> torch.Generator:
    """A fresh generator for one purpose, e.g. "initialise"; never touches torch's global stream."""
    seeded = torch.Generator(device)
    seeded.manual_seed(key(run_seed, site, slot, generation, purpose))
    return seeded
