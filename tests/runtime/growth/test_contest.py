"""Kinds compete for a site: who wins, what becomes of the others, and what the log says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kasmina.growth import Command, Scripted
from kasmina.growth.aside import Learned
from kasmina.growth.contest import FREE, WAITS, Candidates, _winner
from kasmina.observe.log import EventLog, Record, read_log
from kasmina.sites import Site
from tests.runtime.growth.gardens import GERMINATE, QUICK, Bed

KINDS = ("low_rank", "gated", "mlp")  # of which the first cannot tell a product of two features
SITE = [Site(".", seeds=6, blueprint=KINDS, hidden=6)]


def everyone(*extra: tuple[int, str]) -> Scripted:
    """One candidate of each kind at the first epoch, and the extra ones two epochs later."""
    first = [Command(GERMINATE, row, "test", blueprint=kind) for row, kind in enumerate(KINDS)]
    later = [Command(GERMINATE, row, "test", blueprint=kind) for row, kind in extra]
    return Scripted({1: first, 3: later})


def contests(path: Path) -> list[Record]:
    """The decided contests of a log."""
    return [record for record in read_log(path) if record.kind == "contest"]


def test_one_kind_grafts_and_the_others_are_culled_with_their_evidence(tmp_path: Path) -> None:
    """No seed grafts before all have learned for `contest` epochs; then only the winner does."""
    with EventLog(tmp_path / "log", "test") as log:
        bed = Bed(everyone(), sites=SITE, log=log, contest=6)
        for _ in range(7):
            bed.epoch()
            assert set(bed.states[:3]) <= {"DORMANT", "GERMINATED", "TRAINING"}
        bed.until("CULLED")
    (contest,) = contests(tmp_path / "log")
    winner = KINDS.index(contest["winner"])
    assert winner > 0
    assert [bed.states[row] for row in range(3) if row != winner] == ["CULLED", "CULLED"]
    assert bed.states[winner] in ("TRAINING", "GRAFTING")
    gains = {each["kind"]: each["gain"] for each in contest["candidates"]}
    assert gains.keys() == set(KINDS)
    assert gains["low_rank"] < 0.5 * gains[contest["winner"]]
    culled = [
        r for r in read_log(tmp_path / "log") if r.kind == "transition" and r["to"] == "CULLED"
    ]
    for record in culled:
        assert (
            f"{contest['winner']} was chosen: it explains {gains[contest['winner']]:.3g}"
            in (record["reason"])
        )


def test_who_comes_later_is_waited_for(tmp_path: Path) -> None:
    """A contest is open until the last candidate has learned for as long as the first had to."""
    with EventLog(tmp_path / "log", "test") as log:
        bed = Bed(everyone((3, "mlp")), sites=SITE, log=log, contest=6)
        bed.until("CULLED")
    (contest,) = contests(tmp_path / "log")
    assert contest.epoch == 3 + 1 + 6 + 1  # germinated, promoted, six ticks old at the next
    assert {tuple(each["slots"]) for each in contest["candidates"]} == {(0,), (1,), (2, 3)}


def test_a_site_with_one_kind_has_no_contest(tmp_path: Path) -> None:
    """Seeds of one kind do not compete."""
    with EventLog(tmp_path / "log", "test") as log:
        bed = Bed(Scripted({1: [Command(GERMINATE, row, "test") for row in (0, 1)]}), log=log)
        bed.until("GRAFTING")
    assert contests(tmp_path / "log") == []


def test_where_nobody_gains_nobody_wins(tmp_path: Path) -> None:
    """Labels that have nothing to do with the inputs: all candidates are given up."""
    limits = {**QUICK, "min_validation_gain": 0.0005}
    with EventLog(tmp_path / "log", "test") as log:
        bed = Bed(everyone(), sites=SITE, log=log, limits=limits, contest=2)
        bed.y = torch.randint(2, bed.y.shape, generator=torch.Generator().manual_seed(3))
        for _ in range(30):
            bed.epoch()
            assert not {"GRAFTING", "FOSSILIZED"}.intersection(bed.states)
    ended = [
        r for r in read_log(tmp_path / "log") if r.kind == "transition" and r["to"] == "CULLED"
    ]
    assert len(ended) == 3
    assert {r["reason"] for r in ended} == {
        "no kind explains more of the held-out gradient than chance does"
    }
    (contest,) = contests(tmp_path / "log")
    assert contest["winner"] is None


@pytest.mark.parametrize(
    ("gains", "winner"),
    [
        ({"a": 0.10, "b": 0.098, "c": 0.07}, "b"),  # hardly less, and cheaper
        ({"a": 0.10, "b": 0.07, "c": 0.07}, "a"),
        ({"a": 0.10, "b": 0.10, "c": 0.10}, "c"),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, None),
        ({"a": float("-inf"), "b": 0.01, "c": 0.0}, "b"),
    ],
)
def test_the_largest_gain_for_its_price_wins(gains: dict[str, float], winner: str | None) -> None:
    """Of costs 3, 2 and 1; the price is the tenth root of the cost."""
    cost = {"a": 3, "b": 2, "c": 1}
    found = _winner([Candidates(k, [0], gain, cost[k], cost[k]) for k, gain in gains.items()])
    assert (found.kind if found else None) == winner


def test_a_cohort_is_waited_for() -> None:
    """Seeds that have learned do not graft while an earlier cohort is on trial."""
    bed = Bed(
        Scripted({1: [Command(GERMINATE, 0, "test")], 3: [Command(GERMINATE, 1, "test")]}),
        sites=[Site(".", seeds=2, blueprint="mlp", hidden=6)],
    )
    grafted = {"GRAFTING", "STABILIZATION", "EVALUATING", "FINE_TUNING"}
    snapshots = set()
    for _ in range(60):
        bed.epoch()
        assert not {bed.states[0], bed.states[1]} <= grafted
        snapshots.add(int(bed.gardener.garden.state["checkpoint_id"][1]))
    assert snapshots == {-1, 2}  # the second cohort's own
    assert bed.states == ["FOSSILIZED", "FOSSILIZED"]


def test_a_crowd_grafts_once_its_first_seed_gets_no_better() -> None:
    """Those that may graft count as stale together; one that gains nothing keeps its own count."""
    bed = Bed(Scripted({1: [Command(GERMINATE, row, "test") for row in range(4)]}))
    bed.until("TRAINING")
    contest = bed.gardener.contest
    learned = Learned(
        torch.full((4,), torch.inf),
        torch.tensor([0.2, 0.1, 0.3, 0.0]),
        torch.tensor([1, 6, 0, 2], dtype=torch.int32),
        torch.tensor([0.2, 0.1, 0.3, 0.0]),
    )
    free = torch.full((4,), FREE, dtype=torch.int32)
    assert contest.in_step(learned, free).stale_epochs.tolist() == [6, 6, 6, 2]
    assert contest.in_step(learned, free * WAITS).stale_epochs.tolist() == [1, 6, 0, 2]
