"""A run's end: no seed is under way then, and what was not kept has left without a jump."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kasmina.control import TamiyoController
from kasmina.control.tamiyo import TamiyoConfig
from kasmina.errors import KasminaError
from kasmina.grafting import known_strategies
from kasmina.growth import (
    Command,
    GrowConfig,
    Idle,
    Observation,
    Proposal,
    RunResult,
    grow,
    replay,
)
from kasmina.growth.ending import least_epochs, ticks_until
from kasmina.growth.orders import Orders
from kasmina.growth.task import evaluate
from kasmina.lifecycle import Lifecycle
from kasmina.observe.log import EventLog, read_log
from kasmina.sites import Site, fold
from kasmina.tasks import digits
from kasmina_generated.messages import types
from tests.runtime.growth.gardens import GERMINATE, QUICK, Bed, assert_same, germinate
from tests.runtime.growth.test_run import TASK

TOO_LATE = "too little of the run is left to graft and to be judged"
LEAST = 8  # epochs of 4 steps: asked for at 1, grafts at 5, ramps 2 epochs up, and 1 down
ENDS = [(LEAST, "GRAFTING"), (10, "STABILIZATION"), (11, "EVALUATING"), (12, "FINE_TUNING")]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Dropout of the host."""
    torch.manual_seed(3)


def lived(epochs: int, **settings: object) -> tuple[Bed, list[str], list[float]]:
    """A run to its end: the seed's states and alphas after each step and tick."""
    bed = Bed(germinate(0), epochs=epochs, twin_sample=0, **settings)  # type: ignore[arg-type]
    states, alphas = [], []
    for _ in range(epochs):
        for _ in range(4):
            bed.batch()
            alphas.append(float(bed.gardener.garden.state["alpha"][0]))
        bed.gardener.tick()
        states.append(bed.states[0])
    return bed, states, alphas


@pytest.mark.parametrize(("epochs", "before"), ENDS)
def test_a_seed_that_the_gate_would_keep_is_kept(epochs: int, before: str) -> None:
    """Wherever it was, it is decided an epoch before the end."""
    bed, states, alphas = lived(epochs)
    assert states[-3:] == [before, "FOSSILIZED", "FOSSILIZED"]
    cost = bed.gardener.garden.site_of(0).pool("mlp").kind.cost().parameters
    assert bed.gardener.parameters() == 41 + cost
    assert alphas[-1] == 1.0


@pytest.mark.parametrize("limit", ["min_evaluation_score", "min_improvement"])
@pytest.mark.parametrize("epochs", [LEAST, 12])
def test_a_seed_that_it_would_not_keep_leaves_along_its_ramp(epochs: int, limit: str) -> None:
    """No parameter and no jump is left: alpha falls step by step through the last epoch."""
    bed, states, alphas = lived(epochs, limits={**QUICK, limit: 10.0})
    assert states[-1] == {"min_evaluation_score": "CULLED", "min_improvement": "CANCELLED"}[limit]
    assert max(alphas) == 1.0
    assert alphas[-1] == 0.0
    assert max(abs(after - before) for before, after in pairwise(alphas)) <= 0.2501
    assert bed.gardener.parameters() == 41
    assert int(bed.gardener.garden.state["blueprint_slot"][0]) == -1


def test_nothing_changes_where_all_have_ended() -> None:
    """A planned end alone moves no bit."""
    runs = []
    for epochs in (20, None):
        torch.manual_seed(3)
        bed = Bed(germinate(0), epochs=epochs)
        for _ in range(20):
            bed.epoch()
        runs.append(bed)
    planned, open_ = runs
    assert planned.states == open_.states
    assert planned.states[0] == "FOSSILIZED"
    assert_same(planned.model.state_dict(), open_.model.state_dict())


def test_what_cannot_be_judged_any_more_does_not_graft(tmp_path: Path) -> None:
    """A candidate that learns for too long is culled by the lifecycle, and the log says why."""
    slow = {**QUICK, "training_patience": 1000}
    with EventLog(tmp_path / "events.jsonl", "test-0") as log:
        bed, states, _ = lived(14, limits=slow, log=log)
    assert states[-3:] == ["CULLED"] * 3
    assert "GRAFTING" not in states
    found = [r for r in read_log(tmp_path / "events.jsonl") if r.kind == "transition"]
    assert (found[-1].fields["event"], found[-1].fields["reason"]) == ("fail", TOO_LATE)
    assert bed.gardener.parameters() == 41


def test_what_could_not_graft_any_more_does_not_germinate() -> None:
    """The mask forbids it, and whoever proposes it all the same is told why."""
    with pytest.raises(KasminaError) as error:
        lived(LEAST - 1)
    assert str(error.value) == (
        "controller 'scripted' proposed 'request_germination' for test/.[0]#0 in state DORMANT, "
        f"which the action mask forbids: {TOO_LATE}"
    )


def test_a_run_without_a_planned_end_is_concluded_by_a_call() -> None:
    """The answer is how many steps the withdrawal takes; then nothing grows any more."""
    bed = Bed(germinate(0), limits={**QUICK, "min_improvement": 10.0})
    bed.until("STABILIZATION")
    before = bed.gardener.loss()
    assert bed.gardener.conclude() == 8
    assert bed.gardener.loss() == before
    assert bed.states[:2] == ["CANCELLED", "DORMANT"]
    for _ in range(8):
        bed.batch()
    assert bed.gardener.conclude() == 0
    assert bed.gardener.parameters() == 41
    bed.gardener.request(Command(GERMINATE, 2, "test"))
    bed.gardener.tick()
    assert bed.states[2] == "CANCELLED"
    other = Bed()
    other.gardener.load_state_dict(bed.gardener.state_dict())
    assert other.gardener.closed(".")


class ByLot(Idle):
    """Germinates a quarter of what may germinate, each with a strategy by lot."""

    name = "by lot"

    def __init__(self, lot: Random) -> None:
        self.lot = lot

    def propose(self, observation: Observation, mask: NDArray[np.bool_]) -> Proposal:
        """See `Controller`."""
        rows = np.flatnonzero(mask[:, observation.commands.index(GERMINATE)]).tolist()
        strategies = known_strategies()
        chosen = [(row, self.lot.choice(strategies)) for row in rows if self.lot.random() < 0.25]
        return Proposal(
            tuple(Command(GERMINATE, row, "", strategy=strategy) for row, strategy in chosen), ""
        )


SITES = (
    [Site(".", seeds=4, blueprint="mlp", hidden=6)],
    [Site("0", placement="inline", seeds=3, blueprint="affine", mode="replace")],
    [Site("0", placement="inline", seeds=3, hidden=4)],
    [Site(".", seeds=6, blueprint=("mlp", "gated"), hidden=4), Site("0", seeds=2, hidden=4)],
)


@pytest.mark.parametrize("seeds", [range(4), pytest.param(range(4, 120), marks=pytest.mark.long)])
def test_random_lives_all_end(seeds: range) -> None:
    """Whatever germinates when and how: it is kept whole in the end, or nothing of it is left."""
    for seed in seeds:
        lot = Random(seed)
        epochs, ramp, limit = (
            lot.randint(3, 26),
            lot.choice((1, 3, 8, 20)),
            lot.choice((-10, 0, 10)),
        )
        bed = Bed(
            ByLot(lot),
            sites=lot.choice(SITES),
            limits={**QUICK, "min_improvement": limit},
            epochs=epochs,
            ramp_steps=ramp,
            contest=3,
        )
        while bed.gardener.clock.epoch < epochs:
            bed.epoch()
        state = bed.gardener.garden.state
        kept = [name == "FOSSILIZED" for name in bed.states]
        assert set(bed.states) <= {"DORMANT", "FOSSILIZED", "CULLED", "CANCELLED", "ROLLED_BACK"}
        assert state["alpha"].tolist() == [float(each) for each in kept], seed
        assert (state["blueprint_slot"] >= 0).tolist() == kept, seed
        folded = sum(p.numel() for p in fold(bed.model).parameters())
        assert folded == bed.gardener.parameters(), seed


def test_a_lifecycle_that_turns_in_circles_is_stopped_all_the_same() -> None:
    """After as many ticks as there are waits in it; here it is given none."""
    bed = Bed(germinate(0))
    bed.until("TRAINING")
    bed.gardener.ending._ticks = torch.zeros(11, dtype=torch.int64)
    assert bed.gardener.conclude() == 0
    assert bed.states[0] == "CANCELLED"


def test_who_commands_from_elsewhere_is_told_too() -> None:
    """A seed that could not graft any more is refused with the reason."""
    bed = Bed(epochs=LEAST)
    orders = Orders(bed.gardener, "test")
    command = types.Germinate(run="test", reason="", target=types.Target(site=".", slot=1))
    assert orders.check(command) is None
    for _ in range(2):
        bed.epoch()
    told = orders.carry_out(command)
    assert isinstance(told, types.Refused)
    assert told.detail == f"{TOO_LATE}, so nothing germinates any more"
    assert bed.states[1] == "DORMANT"


def _run(path: Path, epochs: int, stop_at: int = 10**9) -> RunResult:
    limits = {**QUICK, "min_evaluation_score": -10.0, "min_improvement": 10.0}
    with EventLog(path, "products-0") as log:
        steps = iter(range(stop_at))
        return grow(
            TASK,
            GrowConfig(epochs=epochs, limits=limits),
            controller=TamiyoController(TamiyoConfig(first=0.1)),
            log=log,
            gardening={"ramp_steps": 6},
            stop=lambda: next(steps, None) is None,
        )


def test_a_whole_run_ends_with_no_seed_under_way(tmp_path: Path) -> None:
    """Its log tells who was stopped and why, and replays to the same end."""
    result = _run(tmp_path / "events.jsonl", 20)
    assert result.params_final == result.params_start
    assert set(result.states) <= {"DORMANT", "CULLED", "CANCELLED"}
    assert result.states["CANCELLED"] == 2
    log = read_log(tmp_path / "events.jsonl")
    moved = [r for r in log if r.kind == "transition" and r.fields["to"] == "CANCELLED"]
    assert {r.fields["reason"] for r in moved} == {
        "the run ends, and what evidence there is takes it no further"
    }
    report = replay(tmp_path)
    assert report.mismatches == []
    assert report.states == result.states


@pytest.mark.parametrize(("steps", "state"), [(39, "GRAFTING"), (112, "FINE_TUNING")])
def test_an_interrupted_run_is_not_concluded(steps: int, state: str, tmp_path: Path) -> None:
    """It is to be resumed, so its seeds stay under way; what there is so far still folds."""
    result = _run(tmp_path / "events.jsonl", 20, stop_at=steps)
    assert (result.status, result.steps) == ("interrupted", steps)
    assert result.states == {state: 2}
    assert replay(tmp_path).mismatches == []
    plain = fold(result.model)
    assert sum(p.numel() for p in plain.parameters()) == result.params_final > result.params_start
    assert evaluate(TASK, plain, TASK.build_data(0).test())[1] == result.test_metric


def test_the_shortest_way_to_the_host() -> None:
    """One tick waits for room and three learn; the earlier lifecycle has no room to wait for."""
    assert ticks_until(Lifecycle.default(), "blend") == 4
    assert ticks_until(Lifecycle.v1(), "blend") == 3
    assert ticks_until(Lifecycle.default(), "shadow") == 1


def test_a_short_run_keeps_what_it_has_paid_for(tmp_path: Path) -> None:
    """At the last call the contest's winner grafts as it is, and the run's end finds it judged."""
    path = tmp_path / "log"
    with EventLog(path, "test") as log:
        controller = TamiyoController()
        result = grow(digits.task(), GrowConfig(seed=0, epochs=30), controller=controller, log=log)
    assert result.states == {"DORMANT": 23, "FOSSILIZED": 1}
    (graft,) = [r for r in read_log(path) if r.kind == "transition" and r["to"] == "GRAFTING"]
    assert graft.epoch < 30 - 60 / 19
    assert result.test_metric > 0.9


@pytest.mark.parametrize("steps", [1, 3])
def test_a_ramp_ends_within_its_state_however_short_epochs_are(steps: int) -> None:
    """A ramp of 60 steps would be out of time after 12 epochs of one step, and be taken back."""
    bed = Bed(germinate(0), ramp_steps=60, twin_sample=0, contest=1)
    for _ in range(60):
        for _ in range(steps):
            bed.batch()
        bed.gardener.tick()
        if bed.states[0] == "GRAFTING":
            assert bed.gardener.ending.ramp() == 10 * steps
        if bed.states[0] == "STABILIZATION":
            break
    assert bed.states[0] == "STABILIZATION"
    assert float(bed.gardener.garden.state["alpha"][0]) == 1.0
    assert bed.gardener.effects.rewinds == {".": 0}


def test_a_state_without_a_limit_takes_any_ramp() -> None:
    """As a lifecycle of one's own may have it."""
    lifecycle = Lifecycle.default()
    assert least_epochs(lifecycle, "blend") == 12
    assert least_epochs(lifecycle, "withdraw") == float("inf")
