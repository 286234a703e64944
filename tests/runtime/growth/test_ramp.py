"""Alpha in a living garden: changed on its way, measured, and by strategies that a run learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from kasmina.errors import KasminaError
from kasmina.grafting import (
    Ramp,
    StrategyError,
    StrategySelector,
    known_strategies,
    strategy_by_name,
    strategy_number,
)
from kasmina.growth import Command
from kasmina.growth.choosing import Choices
from kasmina.growth.ramp import Drift
from kasmina.lifecycle import Lifecycle
from kasmina.observe.log import EventLog, read_log
from kasmina.observe.story import tell
from kasmina.observe.tables import strategies
from tests.runtime.growth.gardens import Bed, assert_same, germinate


def grafting(strategy: str = "linear", **options: object) -> Bed:
    """A bed whose first seed has just begun its ramp."""
    torch.manual_seed(3)
    bed = Bed(germinate(0, strategy=strategy), **options)  # type: ignore[arg-type]
    bed.until("GRAFTING")
    return bed


def alpha(bed: Bed) -> float:
    """That of the first seed."""
    return float(bed.gardener.garden.state["alpha"][0])


def test_a_paused_ramp_waits_and_goes_on() -> None:
    """Alpha stays where it is to the bit, then the ramp goes on as if nothing had been."""
    bed = grafting()
    bed.batch()
    bed.gardener.ramps.pause([0])
    for _ in range(2):
        bed.batch()
        assert alpha(bed) == 0.125
    assert bed.gardener.ledger.integral.judgement(0).terms == 1
    bed.gardener.ramps.resume([0])
    bed.batch()
    assert alpha(bed) == 0.25


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda ramp: None, "NoneType None"),
        (lambda ramp: 0.5, "float 0.5"),
        (lambda ramp: ramp.progress.double(), "torch.float64 [1] on cpu"),
        (lambda ramp: ramp.steps, "torch.int32 [1] on cpu"),
        (lambda ramp: ramp.progress.sum(), "torch.float32 [] on cpu"),
        (lambda ramp: ramp.progress.repeat(2), "torch.float32 [2] on cpu"),
        (lambda ramp: ramp.progress / 0 * 0, "nan at step 2 of 8, where alpha was 0.125"),
        (lambda ramp: ramp.progress + 1, "1.25 at step 2 of 8, where alpha was 0.125"),
        (lambda ramp: -ramp.progress, "-0.25 at step 2 of 8, where alpha was 0.125"),
        (lambda ramp: ramp.steps.add_(1) / 8, "its values and wrote into ramp.steps"),
        (lambda ramp: ramp.score > 0, "nothing, it raised TypeError: '>' not supported between"),
    ],
)
def test_an_alpha_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: Callable[[Ramp], object], told: str
) -> None:
    """By strategy, seed and what is legal; the whole state stays as it was, and the run can go on."""
    bed = grafting()
    bed.batch()
    garden = bed.gardener.garden
    before = garden.state.snapshot().columns
    with monkeypatch.context() as patch:
        patch.setattr(strategy_by_name("linear"), "alpha", given, raising=False)
        with pytest.raises(StrategyError) as error:
            bed.batch()
    assert str(error.value).startswith(f"grafting strategy 'linear': alpha(ramp) gave {told}")
    assert (
        f", for {garden.address(0)}; legal: torch.float32 [1] on cpu, each in [0, 1]. Nothing was "
        "moved; "
    ) in str(error.value)
    assert_same(before, garden.state.snapshot().columns)
    bed.batch()
    assert alpha(bed) == 0.25


def test_a_broken_strategy_moves_no_other_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed blends, another withdraws by a strategy that fails: neither moves."""
    bed = grafting()
    state, graft = bed.gardener.garden.state, int(state_of("GRAFTING"))
    bed.batch()
    state.update([1], {"lifecycle_state": int(state_of("CULLED")), "alpha": 0.5})
    state.update([1], {"grafting_strategy": strategy_number("cosine")})
    assert int(state.codes[0]) == graft
    before = state.snapshot().columns
    monkeypatch.setattr(strategy_by_name("cosine"), "alpha", lambda ramp: None, raising=False)
    with pytest.raises(StrategyError, match=r"^grafting strategy 'cosine': .* NoneType None, for "):
        bed.gardener.ramps.move(torch.zeros(len(state)))
    assert_same(before, state.snapshot().columns)


def state_of(name: str) -> int:
    """The code of a state of the built-in lifecycle."""
    return int(Lifecycle.default().State[name])


def test_a_ramp_gets_another_end_on_its_way() -> None:
    """From the alpha that it has, without a jump, to exactly its target; and on from there."""
    bed = grafting()
    bed.batch()
    ramps = bed.gardener.ramps
    ramps.retarget([0], 0.5, steps=3)
    seen = []
    for _ in range(4):
        bed.batch()
        seen.append(alpha(bed))
    assert seen == pytest.approx([0.25, 0.375, 0.5, 0.5])
    assert seen[-1] == 0.5
    ramps.retarget([0], 0.25, steps=1)
    bed.batch()
    assert alpha(bed) == 0.25
    ramps.retarget([0], steps=2)
    for _ in range(2):
        bed.batch()
    assert alpha(bed) == 1.0


def test_an_aborted_ramp_falls_from_where_it_was() -> None:
    """`cancel` in the middle of a ramp: down to 0 from the alpha of then, and the row is free."""
    bed = grafting(ramp_steps=16)
    bed.batch(), bed.batch()
    bed.gardener.request(Command("cancel", 0, "test"))
    bed.gardener.tick()
    assert bed.states[0] == "CANCELLED"
    seen = [alpha(bed)]
    while int(bed.gardener.garden.state["blueprint_slot"][0]) >= 0:
        bed.batch()
        seen.append(alpha(bed))
    assert seen == pytest.approx([0.125 * (1 - step / 16) for step in range(17)])
    assert seen[-1] == 0.0


@pytest.mark.parametrize("name", known_strategies()[:6])
def test_every_strategy_brings_a_seed_through(name: str) -> None:
    """Within twice its length, with everything measured that it reads."""
    bed = grafting(name)
    for _ in range(16):
        bed.batch()
    assert alpha(bed) == 1.0


def test_a_ramp_comes_back_as_it_was_saved() -> None:
    """State and load in the middle of a changed ramp; the two go on alike to the bit."""
    beds = [grafting("drift_controlled") for _ in range(2)]
    for bed in beds:
        torch.manual_seed(5)
        bed.batch()
        bed.gardener.ramps.retarget([0], 0.75, steps=5)
        bed.batch()
    saved = beds[0].gardener.ramps.state_dict()
    for values in (beds[1].gardener.ramps._start, beds[1].gardener.ramps._target):
        values.fill_(0.3)
    beds[1].gardener.ramps._drift.rest()
    beds[1].gardener.ramps.load_state_dict(saved)
    for bed in beds:
        torch.manual_seed(6)
        for _ in range(4):
            bed.batch()
    assert alpha(beds[0]) == alpha(beds[1])
    assert_same(beds[0].host_state(), beds[1].host_state())


def test_changes_of_a_ramp_are_in_the_log(tmp_path: Path) -> None:
    """Who was changed, and how."""
    bed = grafting(log=EventLog(tmp_path / "events.jsonl", "test"))
    bed.gardener.ramps.pause([0])
    bed.gardener.ramps.resume([0])
    bed.gardener.ramps.retarget([0], 0.5, steps=3)
    events = [r for r in read_log(tmp_path / "events.jsonl") if r.kind == "ramp"]
    assert [r["action"] for r in events] == ["pause", "resume", "retarget"]
    assert events[2].address is not None and events[2].address.slot == 0
    assert (events[2]["target"], events[2]["steps"]) == (0.5, 3)


def test_what_has_no_ramp_cannot_be_changed() -> None:
    """The message names the seed, its state and what is legal."""
    bed = grafting()
    with pytest.raises(KasminaError) as caught:
        bed.gardener.ramps.pause([0, 1])
    assert str(caught.value) == (
        "pause: test/.[1]#0 is in DORMANT and has no ramp; only a seed whose alpha moves up (plane "
        "blend) can be changed"
    )
    bed.batch()
    assert alpha(bed) == 0.125  # nothing was half done


def test_a_change_of_ramps_that_means_nothing_is_refused(tmp_path: Path) -> None:
    """By what is wrong and what is legal; no ramp was changed, and the log tells of none."""
    bed = grafting(log=EventLog(tmp_path / "events.jsonl", "test"))
    ramps = bed.gardener.ramps
    before = ramps.state_dict()

    def refused(change: Callable[..., None], *given: object) -> str:
        with pytest.raises(KasminaError) as caught:
            change(*given)
        return str(caught.value)

    for target, steps in ((1.5, 1), (math.nan, 1), ("x", 1), (True, 1), (0.5, 0), (0.5, 2.5)):
        assert refused(ramps.retarget, [0], target, steps) == (
            f"retarget(target={target!r}, steps={steps!r}): legal: a target in [0, 1] and a whole "
            "number of steps, 1 or more"
        )
    for change in (ramps.pause, ramps.resume, ramps.retarget):
        name = change.__name__
        for row in (-1, 4):
            told = f"{name}: row {row} is none of the state tensor's; legal: 0 to 3"
            assert refused(change, [0, row]) == told
        for rows in (0, [0.0], [True], "0"):
            told = f"{name}: rows={rows!r}; legal: a list of rows, like [0, 2]"
            assert refused(change, rows) == told
    assert refused(ramps.resume, torch.tensor([0])) == (
        "resume: the ramp of test/.[0]#0 is not paused; a pause ends with resume(), with retarget() "
        "and with the ramp"
    )
    assert str(before) == str(ramps.state_dict())
    assert not [r for r in read_log(tmp_path / "events.jsonl") if r.kind == "ramp"]


def test_drift_is_the_way_from_the_moving_average() -> None:
    """|w - m| / |m| over all weights, m <- 0.9 m + 0.1 w; at rest it is 0."""
    weights = [nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))]
    drift = Drift(weights)
    assert drift.measure() == 0.0
    with torch.no_grad():
        weights[0].add_(5)
    assert drift.measure() == pytest.approx(1.0)  # 5 / 5
    assert drift.measure() == pytest.approx(4.5 / (3.5**2 + 16) ** 0.5)
    drift.rest()
    assert drift.measure() == 0.0
    assert Drift([]).measure() == 0.0


def test_a_restless_host_holds_a_drift_controlled_ramp_up() -> None:
    """Weights that jump at each step are waited for; the linear ramp beside it is not."""
    shares = {}
    for name in ("linear", "drift_controlled"):
        bed = grafting(name)
        for group in bed.optimizer.param_groups:
            group["lr"] = 0.5
        for _ in range(6):
            bed.batch()
        shares[name] = alpha(bed)
    assert shares["linear"] == 0.75
    assert shares["drift_controlled"] < 0.4


def test_a_seed_that_leaves_does_not_disturb_who_reads_the_drift() -> None:
    """The moving average is kept while one seed ramps up by it and another one withdraws."""
    torch.manual_seed(3)
    bed = Bed(germinate(0, 1, strategy="drift_controlled"), together=6, ramp_steps=50)
    bed.until("GRAFTING")
    bed.batch()
    bed.gardener.request(Command("cancel", 1, "test"))
    bed.gardener.tick()
    bed.gardener.garden.state.update([1], {"grafting_strategy": 0})
    assert bed.states[:2] == ["GRAFTING", "CANCELLED"]
    for _ in range(3):
        bed.batch()
    drift = bed.gardener.ramps.state_dict()["drift"]["average"]
    assert len(drift) == sum(1 for name, _ in bed.model.named_parameters() if "kasmina" not in name)


def test_a_run_learns_which_strategy_works(tmp_path: Path) -> None:
    """Seeds that ask for "learned" get a strategy at their graft; choice and reward are logged."""
    log = EventLog(tmp_path / "events.jsonl", "test")
    bed = Bed(germinate(0, 1, 2), log=log, together=6, strategy="learned")
    state = bed.gardener.garden.state
    bed.until("TRAINING")
    assert state["grafting_strategy"][:3].tolist() == [-1] * 3
    bed.until("GRAFTING")
    names = known_strategies()
    assert state["grafting_strategy"][:3].tolist() == [strategy_number(n) for n in names[:3]]
    for _ in range(40):
        bed.epoch()
    assert all(s in ("FOSSILIZED", "DORMANT", "CULLED") for s in bed.states[:3])
    records = read_log(tmp_path / "events.jsonl")
    chosen = [r for r in records if r.kind == "strategy"]
    learned = [r for r in records if r.kind == "learned"]
    assert [r["strategy"] for r in chosen] == list(names[:3])
    assert sorted(r["strategy"] for r in learned) == sorted(names[:3])
    assert [r["regret"] >= 0 for r in learned] == [True] * 3
    told = strategies(tell(records))
    assert told.startswith(
        "The strategies of 3 grafts were chosen by Delayed-UCB1: linear 1, cosine 1, drift_controlled "
        "1. Rewards of 3 are known; at their means the choices have cost at most "
    )
    assert told.endswith(" of them (expected regret).")
    selector = bed.gardener.ramps.choices.selector.state_dict()
    assert all(selector[n]["rewards"] == 1 and not selector[n]["waiting"] for n in names[:3])
    kept = [r for r in learned if r.address is not None and bed.states[r.address.slot] != "CULLED"]
    assert kept and all(r["reward"] > 0.5 for r in kept)


def test_a_rewind_is_the_worst_reward_and_is_not_forgotten() -> None:
    """The state goes back to before the graft, what was learned of it does not."""
    bed = Bed(germinate(0), strategy="learned")
    bed.until("GRAFTING")
    name = known_strategies()[0]
    bed.batch()
    bed.gardener.request(Command("emergency", 0, "test"))
    bed.gardener.tick()
    assert bed.states[0] == "ROLLED_BACK"
    bed.gardener.tick()
    learned = bed.gardener.ramps.choices.selector.state_dict()[name]
    assert learned == {"rewards": 1, "total": 0.0, "waiting": 0, "most": 1}


def test_choices_come_back_as_they_were_saved() -> None:
    """What waits for its end after a resume is learned from there."""
    bed = Bed(germinate(0), strategy="learned")
    bed.until("GRAFTING")
    choices = bed.gardener.ramps.choices
    other = Choices(bed.gardener.garden, bed.gardener.journal, StrategySelector())
    other.load_state_dict(choices.state_dict())
    assert other.state_dict() == choices.state_dict()
    bed.gardener.garden.state.update([0], {"generation": 1})
    other.settle()  # recycled unseen: nothing is known of its end
    assert other.state_dict()["waiting"] == []
    assert all(not arm["rewards"] for arm in other.selector.state_dict().values())
