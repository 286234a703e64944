"""What a log's events amount to: work, lanes, marks."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from kasmina.observe.log import read_log
from kasmina.observe.panels import MOST_LANES, lanes
from kasmina.observe.story import Story, tell
from tests.runtime.observe.runs import PER_EPOCH, FakeRun, grown


def story(folder: Path) -> Story:
    """The story of a run directory."""
    return tell(read_log(folder / "events.jsonl"))


def test_work_counts_what_a_rewind_threw_away(tmp_path: Path) -> None:
    """60 epochs and the five that were rewound; work never goes back."""
    told = story(grown(tmp_path))
    places = [at for at, _ in told.epochs]
    assert told.end == (60 + 5) * PER_EPOCH
    assert places == sorted(places)
    assert len(places) == 65
    assert told.per_epoch == PER_EPOCH


def test_a_lane_goes_through_its_states(tmp_path: Path) -> None:
    """One stay after the other, without a gap, and thick where a blueprint was held."""
    told = story(grown(tmp_path))
    spans = told.lanes["features", 4]
    assert [span.state for span in spans] == [
        "DORMANT",
        "GERMINATED",
        "TRAINING",
        "GRAFTING",
        "STABILIZATION",
        "EVALUATING",
        "FINE_TUNING",
        "FOSSILIZED",
    ]
    assert all(a.end == b.start for a, b in itertools.pairwise(spans))
    assert spans[-1].end is None
    assert [span.state for span in spans if span.holds_from is None] == ["DORMANT", "GERMINATED"]


def test_marks_are_what_changed_the_network(tmp_path: Path) -> None:
    """Grafts together, rewinds with their seeds, withdrawals of what was grafted, and the kept."""
    marks = [(mark.epoch, mark.what, mark.seeds) for mark in story(grown(tmp_path)).marks]
    assert marks == [
        (12, "grafted", tuple(f"features[{seed}]#0" for seed in range(4))),
        (12, "rewound", ("features[3]",)),
        (22, "withdrawn", ("features[2]#0",)),
        (25, "kept", ("features[0]#0", "features[1]#0")),
        (30, "grafted", ("features[4]#0", "features[5]#0", "features[6]#0")),
        (40, "withdrawn", ("features[6]#0",)),
        (43, "kept", ("features[4]#0", "features[5]#0")),
    ]


def test_a_rewind_puts_every_seed_where_it_was(tmp_path: Path) -> None:
    """Those that it ends, and those that had moved since the snapshot."""
    run = FakeRun(tmp_path)
    for seed in (0, 1):
        run.move(seed, "TRAINING", "promote")
    run.add("snapshot", number=1)
    run.end_epoch(0.5, 1.0)
    run.move(0, "GRAFTING", "reconstruction_pass")
    run.move(1, "CULLED", "fail")
    run.step = 0
    addresses = [{"site": "features", "slot": 0, "generation": 0}]
    run.add("rewind", number=1, from_step=19, to_step=0, to="ROLLED_BACK", addresses=addresses)
    told = story(tmp_path)
    ends = {lane[1]: spans[-1].state for lane, spans in told.lanes.items()}
    assert ends == {0: "ROLLED_BACK", 1: "TRAINING"}


def test_a_seed_that_was_never_grafted_leaves_no_mark(tmp_path: Path) -> None:
    """Culled in training: the network never felt it."""
    run = FakeRun(tmp_path)
    run.move(0, "TRAINING", "promote")
    run.move(0, "CULLED", "fail")
    run.release(0)
    run.finish()
    assert story(tmp_path).marks == []


def test_a_graft_that_is_under_way_is_not_kept(tmp_path: Path) -> None:
    """A run that ends in the middle of a ramp."""
    run = FakeRun(tmp_path)
    run.move(0, "TRAINING", "promote")
    run.move(0, "GRAFTING", "reconstruction_pass")
    run.finish()
    assert [mark.what for mark in story(tmp_path).marks] == ["grafted"]


def test_only_seeds_that_left_their_first_state_have_a_lane(tmp_path: Path) -> None:
    """The eighth of these eight only germinated, and none else stayed behind."""
    rows, hidden = lanes(story(grown(tmp_path, seeds=8)))
    assert [row.name for row in rows] == [f"features[{slot}]" for slot in range(8)]
    assert hidden == 0
    assert rows[7].outcome == "germinated"
    assert rows[2].outcome == "culled mlp"
    assert [bar.thin for bar in rows[6].bars] == [True, *[False] * 5, True]
    assert "features[6]#0 CULLED\nepoch 39 to the end, steps" in rows[6].bars[-1].hover


def test_a_slot_that_was_armed_again_waits(tmp_path: Path) -> None:
    """Its lane ends in the first state, which is not drawn, and holds nothing."""
    run = FakeRun(tmp_path)
    run.move(0, "TRAINING", "promote")
    run.end_epoch(0.5, 1.0)
    run.move(0, "CULLED", "fail")
    run.release(0)
    run.end_epoch(0.5, 1.0)
    run.move(0, "DORMANT", "recycle")
    run.end_epoch(0.5, 1.0)
    (row,), _ = lanes(story(tmp_path))
    assert row.outcome == "dormant"
    assert [bar.state for bar in row.bars] == ["TRAINING", "CULLED"]


def test_too_many_lanes_are_counted(tmp_path: Path) -> None:
    """Those that held a blueprint come first."""
    rows, hidden = lanes(story(grown(tmp_path, seeds=300)))
    assert (len(rows), hidden) == (MOST_LANES, 300 - MOST_LANES)
    assert "features[7]" not in {row.name for row in rows}


def test_the_whole_model_as_a_site_has_a_name(tmp_path: Path) -> None:
    """Its path is a dot."""
    run = FakeRun(tmp_path, site=".")
    run.decide([0], "plateau")
    assert lanes(story(tmp_path))[0][0].name == "model[0]"


@pytest.mark.parametrize("spec", [{}, {"initial": "IDLE", "terminal": []}])
def test_the_initial_state_is_found(tmp_path: Path, spec: dict[str, object]) -> None:
    """From the log's head, or from where most seeds came."""
    run = FakeRun(tmp_path, spec=spec)
    run.decide([0, 1], "plateau")
    assert story(tmp_path).initial == spec.get("initial", "DORMANT")


def test_nothing_is_a_story_too() -> None:
    """An empty log."""
    told = tell([])
    assert (told.initial, told.terminal, told.per_epoch, told.end) == (None, None, None, 0)
    assert told.states() == []
