"""A Gardener whose model is not on the CPU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kasmina.growth import Command
from kasmina.sites import Site
from tests.runtime.growth import gardens
from tests.runtime.growth.elsewhere import MixedDevices, simulated
from tests.runtime.growth.gardens import Bed, germinate

SITES = [
    Site("0", placement="inline", seeds=2),
    Site("4", seeds=3, blueprint=("mlp", "low_rank"), hidden=3),
]


def test_a_life_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ramps that are changed, a seed that leaves, a resume, a judgement and a rewind: none mixes."""
    host, data = gardens.host, gardens.data
    with simulated() as device:
        monkeypatch.setattr(gardens, "host", lambda seed: host(seed).to(device))
        monkeypatch.setattr(gardens, "data", lambda: tuple(each.to(device) for each in data()))
        asked = germinate(0, 1, 2, 3, strategy="drift_controlled")
        bed = Bed(asked, sites=SITES, together=3, ramp_steps=12, clip=1.0, contest=1)
        gardener, state = bed.gardener, bed.gardener.garden.state
        assert state.device == device
        bed.until("GRAFTING", row=1)
        bed.batch()
        gardener.ramps.retarget([1], steps=3)
        gardener.request(Command("cancel", 0, "test"))
        bed.epoch()
        assert bed.states[:2] == ["CANCELLED", "GRAFTING"]
        parts = {name: part.state_dict() for name, part in gardener.resumable().items()}
        for name, part in gardener.resumable().items():
            part.load_state_dict(parts[name])
        bed.batch()
        leaves, stays = state["alpha"].cpu()[:2].tolist()
        assert 0 < leaves < 5 / 12 < stays
        state.move([1], int(state.lifecycle.State["EVALUATING"]))
        bed.epoch()
        assert bed.states[1] in ("FINE_TUNING", "CULLED")  # judged
        gardener.request(Command("emergency", 1, "test"))
        gardener.conclude()
        bed.epoch()
        assert math.isfinite(gardener.validation.loss)


def test_the_simulated_device_refuses_what_a_gpu_refuses() -> None:
    """Else the test above could not fail."""
    here, rows = torch.arange(4.0), torch.tensor([0, 2])

    def refused(there: Tensor, rows_there: Tensor) -> None:
        for call in (
            lambda: there + here,
            lambda: here[rows_there],
            lambda: there.index_select(0, rows),
            lambda: there.numpy(),
        ):
            with pytest.raises(MixedDevices):
                call()

    with simulated() as device:
        there = here.to(device)
        refused(there, rows.to(device))
        assert there[rows].tolist() == [0.0, 2.0]
        there[rows] = 7.0
        assert (there * 2).cpu().tolist() == [14.0, 2.0, 14.0, 6.0]
