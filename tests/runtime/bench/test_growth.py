"""The growth benchmark: its arms are fair, its figures are those of its runs, and it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import stdev
from xml.etree import ElementTree

import pytest
import torch

from kasmina.bench import Row, growth, load
from kasmina.bench import _growth_arms as arms
from kasmina.bench._growth_arms import GROWN, SUBJECTS, Outcome
from kasmina.bench._growth_table import Results, interval, picture, student, table, targets
from kasmina.cli.bench import bench
from kasmina.errors import UsageError
from kasmina.growth.task import evaluate
from kasmina.tasks import digits


def outcome(arm: str, seed: int, test: float, task: str = "digits") -> Outcome:
    """An outcome with figures of its own."""
    curve = ((1e9, 0.2), (2e9, test))
    facts = {
        "germinated": 2,
        "grafted": 1,
        "ended": {"FOSSILIZED": 1, "CULLED": 1},
        "timed_out": 0,
    }
    return Outcome(task, arm, seed, test, test, 1 - test, 100, int(3e9), 50, 1.5, curve, facts)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (3, 3.182), (4, 2.776), (9, 2.262), (29, 2.045), (1000, 1.962)],
)
def test_students_quantile(freedom: int, quantile: float) -> None:
    """To half a percent of the tables."""
    assert student(freedom) == pytest.approx(quantile, rel=5e-3)


def test_intervals_are_students_and_differences_are_paired() -> None:
    """Pairs are of equal seeds; what one arm lacks is left out."""
    ours = [outcome(GROWN, seed, 0.9 + 0.01 * seed) for seed in range(4)]
    theirs = [outcome("other", seed, 0.8 + 0.02 * seed) for seed in range(3)]
    results = Results([*ours, *theirs])
    gap = results.paired("digits", GROWN, "other")
    assert gap is not None
    gaps = [10.0, 9.0, 8.0]
    half = student(2) * stdev(gaps) / 3**0.5
    assert (gap.mean, gap.low, gap.high) == pytest.approx((9.0, 9.0 - half, 9.0 + half))
    assert results.paired("digits", GROWN, "nobody") is None
    assert interval([1.0]).mean == 1.0


def test_the_table_and_the_picture_hold_every_arm() -> None:
    """One row an arm; the picture is SVG with a curve for each."""
    bare = {"ended": {"CULLED": 2}}
    results = Results([outcome(GROWN, 1, 0.9), replace(outcome("other", 1, 0.8), facts=bare)])
    lines = table(results, GROWN).splitlines()
    assert len(lines) == 4
    assert lines[3] == (
        "| digits | other, of which 1 grew nothing | 1 | 80.00 | 0.200 | 100 | 3.0 | 1.5 | +10.00 |"
    )
    two = [outcome(arm, seed, 0.9) for arm in (GROWN, "other") for seed in (1, 2)]
    assert "| 90.00 (90.00 to 90.00) |" in table(Results(two), GROWN)
    drawn = ElementTree.fromstring(picture(results, {GROWN: GROWN, "other": "other"}))
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}polyline")) == 2


def test_rows_hold_the_targets() -> None:
    """A miss is a miss: the mean of the seeds against the issue's figure."""
    seeds = growth.REPORTING_SEEDS
    found = [outcome(GROWN, seed, 0.97) for seed in seeds]
    found += [outcome(arms.SAME_FLOPS, seed, 0.96 + 0.001 * (seed % 2)) for seed in seeds]
    rows = {row.name: row for row in growth.rows(Results(found))}
    assert rows["digits: test, mean of 10"].met is False
    assert rows[f"digits: better than {arms.SAME_FLOPS}, lower end"].met is True
    assert rows[f"{GROWN}: seeds that ended"].met is True
    assert rows[f"{GROWN}: seeds that ended"].baselines == {"CULLED": 50.0, "FOSSILIZED": 50.0}
    assert rows[f"{GROWN}: fossils in a run, fewest"].met is True
    assert rows[f"{GROWN}: fossils in a run, fewest"].baselines == {"digits, runs without": 0.0}


@pytest.mark.parametrize(
    ("same_flops", "same_steps", "flops", "earned"),
    [
        (0.90, 0.99, 10, True),  # surely better
        (0.99, 0.97, 5, True),  # as good, and cheap
        (0.99, 0.97, 4, False),  # not cheap enough
        (0.99, 0.98, 9, False),  # worse
    ],
)
def test_growing_has_paid_where_it_is_better_or_cheaper(
    same_flops: float, same_steps: float, flops: int, earned: bool
) -> None:
    """Either is enough; three GFLOP of 4.6 or more are 35% fewer."""
    found = [outcome(GROWN, seed, 0.975) for seed in (1, 2, 3)]
    found += [outcome(arms.SAME_FLOPS, seed, same_flops) for seed in (1, 2, 3)]
    steps = [outcome(arms.SAME_STEPS, seed, same_steps) for seed in (1, 2, 3)]
    found += [replace(each, flops=int(flops * 1e9)) for each in steps]
    rows = {row.name: row for row in growth.rows(Results(found))}
    row = rows["digits: surely better at equal FLOPs, or as good with 35% fewer"]
    assert row.met is earned


def test_what_grew_nothing_saves_nothing() -> None:
    """Its FLOPs are told beside those of its architecture, and are no share of them."""
    found = [replace(outcome(GROWN, 1, 0.9), facts={**outcome("", 1, 0).facts, "ended": {}})]
    found += [outcome(arm, 1, 0.8) for arm in (arms.SAME_FLOPS, arms.SAME_STEPS)]
    rows = {row.name: row for row in growth.rows(Results(found))}
    assert not [name for name in rows if "FLOPs saved" in name]
    earned = rows["digits: surely better at equal FLOPs, or as good with 35% fewer"]
    assert earned.met is False
    assert set(earned.baselines) == {"better by", "as good by"}


def test_the_table_of_targets_says_what_was_met() -> None:
    """Figure, target, whether it was met, and what stands beside it."""
    rows = [Row("a", 97.0, "%", 98.0, ">=", {"b": 1.0}), Row("c", 2.0, "s"), Row("d", 1, "", 1)]
    assert targets(rows).splitlines()[2:] == [
        "| a | 97 % | >= 98 % | **no** | b 1 |",
        "| c | 2 s |  |  |  |",
        "| d | 1 | <= 1 | yes |  |",
    ]


def test_the_arms_of_a_seed_share_start_and_batches() -> None:
    """The re-initialised architecture has its size, and FLOPs are equal where an arm says so."""
    found = {each.arm: each for each in arms.arms(SUBJECTS["digits"], 1, epochs=4)}
    assert {GROWN, arms.START, arms.FINAL, arms.SAME_STEPS, arms.SAME_FLOPS, arms.WHOLE} <= set(
        found
    )
    assert {arms.WIDENED, arms.INLINE, arms.RANDOM} <= set(found)
    grown = found[GROWN]
    assert found[arms.SAME_STEPS].parameters == grown.parameters
    assert found[arms.SAME_STEPS].steps == found[arms.START].steps == grown.steps == 76
    assert found[arms.SAME_FLOPS].flops == pytest.approx(grown.flops, rel=0.02)
    assert found[arms.WHOLE].parameters == 3466
    assert found[arms.WIDENED].parameters == 3466
    assert all(0 <= each.test <= 1 for each in found.values())


def test_widening_keeps_the_function_and_the_old_moments() -> None:
    """New units give nothing at first; what the optimizer knew of the old ones stays."""
    task = digits.task()
    model = task.build_model(0, 4)
    optimizer, _ = task.optimizer(model.parameters(), 10)
    x, y = task.build_data(0).train.next_batch()
    torch.autograd.backward(task.loss(model(x), y))
    optimizer.step()
    wider, fresh = arms._wider(task, 0, model, optimizer, 9, 10)
    torch.testing.assert_close(wider(x), model(x))
    for new, old in zip(wider.parameters(), model.parameters(), strict=True):
        corner = tuple(slice(0, size) for size in old.shape)
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(fresh.state[new][name][corner], optimizer.state[old][name])
    assert evaluate(task, wider, []) != evaluate(task, model, [(x, y)])


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--out` goes on where a run was ended, and holds table, picture and all figures."""
    asked: list[object] = []

    def one(unit: tuple[str, int, int | None, bool]) -> list[Outcome]:
        asked.append(unit)
        return [outcome(GROWN, unit[1], 0.9)]

    monkeypatch.setattr(growth, "_one", one)
    for _ in range(2):
        assert bench("growth", quick=True, out=tmp_path) == 0
    assert asked == [growth.QUICK[0]]
    assert json.loads((tmp_path / "growth.json").read_text())[0]["test"] == 0.9
    figures = json.loads((tmp_path / "growth-figures.json").read_text())
    assert figures["rows"][0]["value"] == pytest.approx(90)
    assert "nan" not in (tmp_path / "growth.md").read_text()
    assert (tmp_path / "growth.svg").exists()


def test_a_folder_that_cannot_be_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    """For benchmarks that write nothing else there, too."""
    (tmp_path / "a").touch()
    for name in ("gate", "growth"):
        with pytest.raises(UsageError) as error:
            bench(name, quick=True, out=tmp_path / "a")
        assert str(error.value) == f"--out {tmp_path}/a: no folder can be there: File exists"


def test_options_that_a_benchmark_has_not_are_refused() -> None:
    """With the ones that it has."""
    load("spec")
    with pytest.raises(UsageError, match=r"benchmark 'spec' has no --jobs; its options: --out$"):
        bench("spec", jobs=2)
    with pytest.raises(UsageError, match=r"--jobs is 0; give 1 or more"):
        bench("growth", jobs=0)
