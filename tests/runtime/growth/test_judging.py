"""The honest gate: integrals add up to what was gained, controls are true, and the sure end decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kasmina.growth import Command, GrowConfig, Scripted, grow
from kasmina.growth.evidence import Judgement, paired
from kasmina.growth.judging import Judge
from kasmina.growth.rent import rents
from kasmina.growth.training import Run
from kasmina.observe.log import EventLog, Record, read_log
from kasmina.sites import Garden, Site, morph
from kasmina.tasks import digits
from tests.runtime.growth.gardens import Bed, germinate

EARLY = {"min_validation_gain": 0.0, "training_patience": 1}


def evidence(path: Path) -> dict[str, Record]:
    """What was measured of the last judged seed, by what measured it."""
    return {r["measure"]: r for r in read_log(path) if r.kind == "evidence"}


def test_the_integrals_of_seeds_that_ramp_together_add_up_to_the_joint_gain() -> None:
    """While the host stands still, to the error of the quadrature."""
    bed = Bed(germinate(0, 1, 2), together=8, ramp_steps=40, held_out_every=1)
    bed.until("GRAFTING")
    for group in bed.optimizer.param_groups:
        group["lr"] = 1e-3
    own = set(map(id, bed.gardener.garden.parameters()))
    for parameter in bed.model.parameters():
        parameter.requires_grad_(id(parameter) in own)
    before = float(bed.gardener.measure().loss)
    for _ in range(40):
        bed.batch()
    assert bed.gardener.garden.state["alpha"][:3].tolist() == [1.0, 1.0, 1.0]
    joint = before - float(bed.gardener.measure().loss)
    held_out = bed.gardener.judge._held_out
    shares = [held_out.judgement(row, 0.0, before).value for row in range(3)]
    assert abs(joint) > 1e-3
    assert sum(shares) == pytest.approx(joint, rel=0.02, abs=1e-4)
    assert len({round(share, 6) for share in shares}) == 3


def test_a_measurement_disturbs_nothing() -> None:
    """Gradients of parameters, random stream, buffers and modes are as they were."""
    bed = Bed(germinate(0), together=6)
    bed.until("GRAFTING")
    bed.batch()
    before = {name: value.clone() for name, value in bed.model.state_dict().items()}
    modes = [module.training for module in bed.model.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in bed.model.parameters()]
    stream = torch.get_rng_state()
    bed.gardener.judge.measure()
    assert torch.equal(torch.get_rng_state(), stream)
    assert modes == [module.training for module in bed.model.modules()]
    for parameter, gradient in zip(bed.model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]
    for name, value in bed.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def _task(seed: int = 0) -> Any:
    from dataclasses import replace

    site = Site(".", seeds=2, blueprint="gated", hidden=10)
    return replace(digits.task(), sites=lambda: (site,), default_budget=None)


def _graft(path: Path, *, twin_sample: int, twin_parameters: int = 10**6) -> dict[str, Record]:
    command = Command("request_germination", 0, "test")
    with EventLog(path, "test") as log:
        grow(
            _task(),
            GrowConfig(seed=3, epochs=24, limits=EARLY),
            controller=Scripted({2: [command]}),
            log=log,
            gardening={"twin_sample": twin_sample, "twin_parameters": twin_parameters},
        )
    return evidence(path)


def test_the_control_decides_where_it_was_trained(tmp_path: Path) -> None:
    """All that was measured is in the log; removal is among it and never the first."""
    found = _graft(tmp_path / "log", twin_sample=1)
    assert set(found) == {"paired_control", "held_out_integral", "path_integral", "removal_cost"}
    assert [r["measure"] for r in found.values() if r["decides"]] == ["paired_control"]
    low, high = found["paired_control"]["interval"]
    assert low < found["paired_control"]["value"] < high
    assert found["paired_control"]["terms"] == 32
    assert found["removal_cost"]["interval"] is None


def test_without_a_control_the_integral_on_held_out_data_decides(tmp_path: Path) -> None:
    """Where no sample is due and the network is too large for a control."""
    found = _graft(tmp_path / "log", twin_sample=0, twin_parameters=0)
    assert [r["measure"] for r in found.values() if r["decides"]] == ["held_out_integral"]


def test_the_control_is_the_run_that_never_grafted() -> None:
    """Its weights, optimizer and data order equal those of a run whose seed was never asked for."""
    plain, grafted = (
        Run(_task(), GrowConfig(seed=3, epochs=24, limits=EARLY), controller, None, {}, None)
        for controller in (Scripted({}), Scripted({2: [Command("request_germination", 0, "test")]}))
    )
    state = grafted.gardener.garden.state
    while state.state(0).name != "EVALUATING":
        for _ in range(19):
            grafted.batch()
        grafted.gardener.tick()
    twin = grafted.gardener.judge._twin
    snapshot = grafted.gardener.effects.snapshot(int(state["checkpoint_id"][0]))
    assert twin is not None
    assert snapshot is not None
    stream = torch.get_rng_state()
    live = {name: value.clone() for name, value in grafted.model.state_dict().items()}
    parts = twin(snapshot, torch.tensor([0]), grafted.gardener.clock.step - snapshot.step)
    assert torch.equal(torch.get_rng_state(), stream)
    for name, value in grafted.model.state_dict().items():
        assert torch.equal(value, live[name]), name
    while plain.gardener.clock.step < grafted.gardener.clock.step:
        plain.batch()
    from kasmina.growth.batches import validation_loss

    with torch.no_grad():
        plain.model.eval()
        expected = validation_loss(plain.task, plain.model, plain.data, parts=True)[2]
    assert parts is not None
    assert expected is not None
    assert torch.equal(parts, expected)


def test_a_control_that_fails_leaves_the_judgement_to_the_integrals() -> None:
    """A twin that gives nothing decides nothing."""
    bed = Bed(germinate(0), together=6, twin_sample=1)
    bed.gardener.judge = Judge(bed.gardener, lambda snapshot, rows, steps: None)
    bed.until("EVALUATING")
    bed.epoch()
    measures = [each.measure for each in bed.gardener.judge.evidence(0)]
    assert measures == ["held_out_integral", "path_integral", "removal_cost"]


def test_a_difference_of_parts_has_the_interval_of_pairs() -> None:
    """The mean of the differences, and 1.96 of its standard errors."""
    without, with_ = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 3.0])
    found = paired(without, with_, "paired_control")
    half = 1.959964 * torch.tensor([0.5, 1.0, 0.0]).std().item() / 3**0.5
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half))
    assert found.error == pytest.approx(half / 1.959964)
    assert found.straddles() == (half > 0.5)
    assert Judgement(1.0, float("nan"), 2.0, 1).straddles()
    assert not Judgement(0.3, 0.2, 0.4, 9).straddles(rent=0.1)
    assert Judgement(0.3, 0.2, 0.4, 9).straddles(rent=0.3)


@pytest.mark.parametrize(("rent", "end"), [(0.0, "FOSSILIZED"), (0.05, "CULLED")])
def test_parameters_pay_rent(rent: float, end: str, tmp_path: Path) -> None:
    """A seed of 66 parameters in a host of 41 must save 66/41 of the rent, or it goes."""
    torch.manual_seed(3)
    with EventLog(tmp_path / "events.jsonl", "test-0") as log:
        bed = Bed(germinate(0), rent=rent, twin_sample=0, log=log)
        bed.until(end, most=20)
    due = torch.tensor([rent * 66 / 41, 0.0, 0.0, 0.0])
    found = evidence(tmp_path / "events.jsonl")["held_out_integral"].fields
    assert found["rent"] == pytest.approx(rent * 66 / 41)
    assert found["interval"][0] > 0
    assert (found["interval"][0] > found["rent"]) == (end == "FOSSILIZED")
    if end == "FOSSILIZED":
        assert torch.equal(bed.gardener.judge.rents(), due)


def test_a_host_without_parameters_asks_no_rent() -> None:
    """There is no share of nothing."""
    model = morph(
        nn.Sequential(nn.Tanh()), [Site(".", seeds=1, hidden=2)], example=torch.ones(1, 3)
    )
    garden = Garden.of(model)
    garden.state.move([0], garden.state.lifecycle.State["TRAINING"])
    garden.allocate(0)
    assert rents(garden, 1.0).tolist() == [0.0]


def test_a_judge_comes_back_to_the_bit() -> None:
    """What a rewind or a resume takes back decides as it would have."""
    bed = Bed(germinate(0, 1), together=6, held_out_every=2)
    bed.until("GRAFTING")
    for _ in range(5):
        bed.batch()
    kept = bed.gardener.judge.state_dict()
    other = Judge(bed.gardener, None)
    other.load_state_dict(kept)
    for judge in (bed.gardener.judge, other):
        judge.measure()
    for row in (0, 1):
        one, two = (j._held_out.judgement(row, 0.1, 1.0) for j in (bed.gardener.judge, other))
        assert one == two
    assert torch.equal(bed.gardener.judge.improvement(), other.improvement())
