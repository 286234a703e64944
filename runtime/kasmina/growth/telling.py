"""What a run tells over a bus, as messages: the health of its sites, and what a controller sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kasmina.bus.frames import HealthFrame
from kasmina.errors import KasminaError
from kasmina.growth.controller import Observation
from kasmina.growth.gardener import Gardener
from kasmina_generated.messages import types
from kasmina_generated.messages.types import Envelope


class NoObservation(KasminaError, ValueError):
    """A message that holds no observation which this version reads."""


def frames_of(gardener: Gardener, run: str) -> Iterator[HealthFrame]:
    """The health of every site now, in columns of their own."""
    state, clock = gardener.garden.state, gardener.clock
    for path, site in gardener.garden.sites.items():
        rows = slice(site.first_row, site.first_row + site.n_seeds)
        sample = site.telemetry()
        columns = {
            "state": state.codes[rows],
            "epochs": state.epochs[rows],
            "generation": state["generation"][rows],
            "alpha": state["alpha"][rows],
            "mean": sample.mean,
            "deviation": sample.deviation,
            "nonfinite": sample.nonfinite,
        }
        plain = {name: _copied(column, _DTYPES[name]) for name, column in columns.items()}
        yield HealthFrame(run, path or ".", clock.epoch, clock.step, plain)


_DTYPES = {f.name: f.of or "" for f in types.FIELDS["LayerHealth"] if f.type == "column"}


def _copied(column: torch.Tensor, dtype: str) -> NDArray[Any]:
    return np.array(column.detach().cpu().numpy(), dtype=dtype)


def observed_of(run: str, seen: Observation, mask: NDArray[np.bool_]) -> types.Observed:
    """An observation and what is legal, as a message."""
    bits = mask.astype(np.int64) @ (1 << np.arange(mask.shape[1], dtype=np.int64))
    return types.Observed(
        run=run,
        epoch=seen.epoch,
        step=seen.step,
        observation=json.dumps(seen.to_plain()).encode(),
        events=tuple(seen.commands),
        mask=bits.astype(np.int64).tobytes(),
    )


def seen_of(envelope: Envelope) -> tuple[types.Observed, Observation, NDArray[np.bool_]]:
    """What `observed_of` packed.

    Raises:
        NoObservation: the message holds no observation that this version reads.
    """
    body = envelope.body
    if not isinstance(body, types.Observed):
        raise NoObservation(f"a message of kind {type(body).__name__} is no observation")
    try:
        seen = Observation.from_plain(json.loads(body.observation))
    except (ValueError, RecursionError) as error:
        raise NoObservation(f"it holds no observation: {error}") from error
    bits = np.frombuffer(body.mask, np.int64)
    mask = (bits[:, None] >> np.arange(len(body.events), dtype=np.int64)) & 1 == 1
    if len(mask) != len(seen.seeds.state):
        raise NoObservation(
            f"the mask has {len(mask)} rows, the observation {len(seen.seeds.state)}"
        )
    return body, seen, mask
