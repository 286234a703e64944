"""What takes a cohort back, and that nothing of it is left."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from kasmina.errors import KasminaError
from kasmina.growth import GardenerConfig, Triggers
from kasmina.growth.divergence import Detector
from kasmina.observe.log import EventLog, Record, read_log
from kasmina.sites import Site
from tests.runtime.growth.gardens import Bed, assert_same, germinate

MANY = [Site(".", seeds=40, blueprint="mlp", hidden=2)]


def rewinds(path: Path) -> list[Record]:
    """The rewinds of a log."""
    return [record for record in read_log(path) if record.kind == "rewind"]


def spoil(bed: Bed, how: str) -> bool:
    """One batch whose loss or gradient has exploded; returns whether the step counted."""
    bed.model.train()
    bed.optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(bed.run(bed.x[:48]), bed.y[:48])
    if how == "loss":
        loss = 1000 * loss
    torch.autograd.backward(loss)
    if how == "gradient":
        for parameter in bed.model.parameters():
            if parameter.grad is not None:
                parameter.grad *= 1e6
    if how == "nan gradient":
        next(bed.model.parameters()).grad.fill_(math.nan)  # type: ignore[union-attr]
    return bed.gardener.step(loss)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("loss", "is usual"),
        ("gradient", "the gradient's norm is"),
        ("nan gradient", "the gradient's norm is nan"),
    ],
)
def test_an_explosion_takes_the_cohort_back(tmp_path: Path, how: str, reason: str) -> None:
    """The batch is not learned from, and host and optimizer are those before the graft."""
    with EventLog(tmp_path / "log", "test") as log:
        bed, never = Bed(germinate(0), together=6, log=log), Bed()
        torch.manual_seed(3)
        bed.until("GRAFTING")
        for _ in range(3):
            bed.batch()
        assert not spoil(bed, how)
    torch.manual_seed(3)
    while never.gardener.clock.epoch < bed.gardener.clock.epoch:
        never.epoch()
    assert bed.states[0] == "ROLLED_BACK"
    assert_same(bed.host_state(), never.host_state())
    (rewind,) = rewinds(tmp_path / "log")
    assert rewind["from_step"] - rewind["to_step"] == 3
    commands = [
        r for r in read_log(tmp_path / "log") if r.kind == "command" and r["source"] == "detector"
    ]
    assert reason in commands[0]["reason"]


def test_without_a_cohort_an_explosion_is_the_hosts_own() -> None:
    """A large but finite loss is learned from as plain training would."""
    bed = Bed()
    for _ in range(3):
        bed.epoch()
    assert spoil(bed, "loss")
    assert bed.gardener.clock.step == 13


def test_a_network_that_got_worse_is_taken_back_at_the_epochs_end(tmp_path: Path) -> None:
    """More than 10% above the validation loss before the graft."""
    with EventLog(tmp_path / "log", "test") as log:
        deaf = Triggers(loss=math.inf, gradient=math.inf)
        bed = Bed(germinate(0), log=log, triggers=deaf)
        bed.until("GRAFTING")
        before = bed.gardener.validation.loss
        with torch.no_grad():
            bed.model.get_parameter("4.weight").mul_(20)
        bed.epoch()
    assert bed.states[0] == "ROLLED_BACK"
    assert len(rewinds(tmp_path / "log")) == 1
    command = [r for r in read_log(tmp_path / "log") if r.kind == "command"][-1]
    assert f"more than 10% above the {before:.4g} before the graft" in command["reason"]


@pytest.mark.parametrize(("failed", "rewound"), [(1, 0), (2, 0), (3, 1)])
def test_few_failing_seeds_leave_alone_and_many_take_all_back(
    tmp_path: Path, failed: int, rewound: int
) -> None:
    """Of 40 seeds two are 5%; a third one is too many."""
    with EventLog(tmp_path / "log", "test") as log:
        bed = Bed(germinate(*range(40)), sites=MANY, together=6, log=log)
        bed.until("GRAFTING")
        pool = bed.gardener.garden.site_of(0).pool("mlp")
        with torch.no_grad():
            for row in range(failed):
                pool.stacked()["out_weight"][row] = math.nan
        bed.batch()
        bed.batch()
    assert len(rewinds(tmp_path / "log")) == rewound
    others = "ROLLED_BACK" if rewound else "GRAFTING"
    assert bed.states[:failed] == ["ROLLED_BACK" if rewound else "CANCELLED"] * failed
    assert set(bed.states[failed:]) == {others}
    assert all(bool(value.isfinite().all()) for value in bed.host_state().values())


def test_after_so_many_rewinds_a_site_is_left_alone() -> None:
    """Nothing germinates any more where the run was rewound `max_rewinds` times."""
    bed = Bed(germinate(0), max_rewinds=1, together=6)
    bed.until("GRAFTING")
    assert not spoil(bed, "loss")
    assert bed.gardener.effects.embargoed(".")


def test_triggers_can_be_switched_off() -> None:
    """Infinity is never exceeded; not-a-number and 0 are refused."""
    detector = Detector(Triggers(loss=math.inf, gradient=math.inf, worse=math.inf), [])
    assert detector.batch(1.0, True, 1.0) == ""
    assert detector.batch(1e30, True, 1.0) == ""
    assert detector.worse(1.0, 1e30, 0.0) == ""
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(KasminaError, match=r"Triggers\(loss=.*\): a trigger must be above 0"):
            Triggers(loss=value)


def test_a_rise_within_its_error_is_none() -> None:
    """The loss must surely have risen by so much, two standard errors below it."""
    detector = Detector(Triggers(), [])
    assert detector.worse(1.0, 1.2, 0.0)
    assert not detector.worse(1.0, 1.2, 0.06)
    assert not detector.worse(1.0, 1.09, 0.0)
    assert not detector.worse(-1.0, -0.95, 0.0)  # a likelihood's loss may be below 0
    assert detector.worse(-1.0, -0.85, 0.0)
    assert detector.worse(0.5, 50.0, math.nan)  # what differs by nobody knows what
    assert detector.worse(0.5, math.nan, 0.0) == (
        "the validation loss is nan, and was 0.5 before the graft"
    )


LEGAL_RENT = "it is a finite number of nats, 0 or more; 0 asks for no rent"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"ramp_steps": 1.5},
            "GardenerConfig(ramp_steps=1.5): it must be a whole number, 1 or more",
        ),
        ({"contest": True}, "GardenerConfig(contest=True): it must be a whole number, 1 or more"),
        ({"epochs": "40"}, "GardenerConfig(epochs='40'): it must be a whole number, 1 or more"),
        ({"aside_rate": "x"}, "GardenerConfig(aside_rate='x'): it must be a number"),
        (
            {"held_out_every": 0},
            "GardenerConfig(held_out_every=0): it must be a whole number, 1 or more",
        ),
        ({"ramp_steps": -3}, "GardenerConfig(ramp_steps=-3): it must be a whole number, 1 or more"),
        (
            {"max_rewinds": -1},
            "GardenerConfig(max_rewinds=-1): it must be a whole number, 0 or more",
        ),
        ({"budget": -5}, "GardenerConfig(budget=-5): it must be a whole number, 0 or more"),
        (
            {"aside_rate": math.nan},
            "GardenerConfig(aside_rate=nan): a learning rate must be above 0",
        ),
        *(
            ({"rent": rent}, f"GardenerConfig(rent={rent}): {LEGAL_RENT}")
            for rent in (-0.1, math.nan, math.inf)
        ),
    ],
)
def test_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    """And not by what they break, epochs later."""
    with pytest.raises(KasminaError) as error:
        GardenerConfig(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("usual", [2.0, -3.0])
def test_a_loss_explodes_by_its_size(usual: float) -> None:
    """A likelihood's loss may be below 0; ten times its size is an explosion there as well."""
    detector = Detector(Triggers(), [])
    for _ in range(5):
        assert detector.batch(usual, True, usual) == ""
    assert detector.batch(9.9 * abs(usual), True, usual) == ""
    assert "is usual" in detector.batch(1e6, True, usual)
