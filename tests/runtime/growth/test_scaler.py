"""A gradient scaler: what it scales is unscaled everywhere, and a step that it skips is none."""

from __future__ import annotations

import pytest
import torch
from torch.amp.grad_scaler import GradScaler

from tests.runtime.growth.gardens import Bed, assert_same, germinate


def scaler(growth_interval: int = 2000) -> GradScaler:
    """One by a power of two, through which no bit is lost."""
    return GradScaler("cpu", init_scale=2.0**10, growth_interval=growth_interval)


@pytest.mark.parametrize("clip", [None, 0.1], ids=["free", "clipped"])
def test_a_scaled_run_is_a_plain_one(clip: float | None) -> None:
    """A whole life to the bit: host, losses and the path integral from dL/dalpha."""
    plain, scaled = (
        Bed(germinate(0), clip=clip, scaler=each) for each in (None, scaler(growth_interval=9))
    )
    for bed in (plain, scaled):
        torch.manual_seed(3)
        bed.until("STABILIZATION")
    assert scaled.scaler is not None
    assert scaled.scaler.get_scale() > 2.0**10  # it has grown meanwhile
    assert plain.gardener.clock.step == scaled.gardener.clock.step
    assert_same(plain.host_state(), scaled.host_state())
    gains = [bed.gardener.ledger.integral.gain() for bed in (plain, scaled)]
    assert float(gains[0][0]) != 0
    assert torch.equal(*gains)


def test_a_step_that_is_skipped_moves_nothing() -> None:
    """Neither host nor alpha nor evidence; it is no divergence either, and the next step is one."""
    bed = Bed(germinate(0), scaler=scaler())
    bed.until("GRAFTING")
    bed.batch()
    state, integral = bed.gardener.garden.state, bed.gardener.ledger.integral
    before, alpha = bed.host_state(), float(state["alpha"][0])
    gain, schedule = integral.gain().clone(), bed.scheduler.last_epoch
    step = bed.gardener.clock.step
    bed.batch(spoil=True)
    after = bed.host_state()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert all(name.startswith("1.") for name in moved)  # BatchNorm has seen the batch
    assert "1.weight" not in moved
    assert bed.states[0] == "GRAFTING"
    assert float(state["alpha"][0]) == alpha > 0
    assert torch.equal(integral.gain(), gain)
    assert bed.scheduler.last_epoch == schedule
    assert bed.gardener.clock.step == step + 1
    bed.batch()
    assert float(state["alpha"][0]) > alpha
    assert not torch.equal(bed.host_state()["0.weight"], after["0.weight"])


def test_a_rewind_brings_the_scaler_back() -> None:
    """Its scale is the snapshot's, and the run goes on with gradients that are unscaled once."""
    bed = Bed(germinate(0), scaler=scaler(growth_interval=3))
    bed.until("GRAFTING")
    assert bed.scaler is not None
    scale = bed.scaler.get_scale()
    for _ in range(3):
        bed.batch()
    assert bed.scaler.get_scale() > scale
    for _ in range(bed.gardener.clock.step % 4, 4):
        bed.batch()
    loss = torch.tensor(float("nan"))
    assert not bed.gardener.step(loss)
    assert bed.states[0] == "ROLLED_BACK"
    assert bed.scaler.get_scale() == scale
    before = bed.host_state()["0.weight"]
    bed.batch()
    change = (bed.host_state()["0.weight"] - before).abs().max()
    assert 0 < float(change) < 0.1
