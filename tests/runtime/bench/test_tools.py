"""The tools around the benchmarks: one run of everything on a GPU, and the pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kasmina.bench import Row
from tests.helpers import ROOT
from tools import gpu_bench, pictures


def _good(value: float) -> Iterator[Row]:
    yield Row("good", value, "us", 2.0, baselines={"copy_, us": 1.0})


def _bad() -> Iterator[Row]:
    yield Row("before it failed", 1.0, "us")
    raise RuntimeError("no such kernel")


def test_one_case_that_fails_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows and errors are on disk after each case; a case without time left is told as such."""
    monkeypatch.setattr(gpu_bench, "OUT", tmp_path)
    record = gpu_bench.Record()
    record.case("a", _bad, until=1e9)
    first = json.loads((tmp_path / "gpu_bench.json").read_text())
    assert [row["name"] for row in first["rows"]] == ["before it failed"]
    record.case("b", partial(_good, 3.0), until=1e9)
    record.case("b", partial(_good, 1.0), until=-1e9)
    record.save()
    found = json.loads((tmp_path / "gpu_bench.json").read_text())
    assert [(row["bench"], row["value"], row["met"]) for row in found["rows"]] == [
        ("a", 1.0, None),
        ("b", 3.0, False),
    ]
    failed, late = found["errors"]
    assert (failed["case"], late["case"]) == ("a: _bad", "b: _good (1.0,)")
    assert "RuntimeError: no such kernel" in failed["error"]
    assert late["error"] == "no time was left"
    assert "good: 3 us [<= 2 False] (copy_, us 1)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "name", "drawn"),
    [
        (
            "h200.json",
            "h200",
            ["h200_roofline.svg", "h200_seeds.svg", "h200_share.svg", "h200_width.svg"],
        ),
        ("cpu_curves.json", "cpu", ["cpu_seeds.svg", "cpu_share.svg", "cpu_width.svg"]),
    ],
)
def test_the_pictures_are_drawn_from_the_committed_figures(
    source: str, name: str, drawn: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same figures give the same bytes."""
    monkeypatch.setattr(pictures, "IMAGES", tmp_path)
    monkeypatch.setattr(
        sys, "argv", ["pictures", str(ROOT / "docs" / "figures" / source), "--name", name]
    )
    assert pictures.main() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == drawn
    for each in drawn:
        assert (tmp_path / each).read_bytes() == (ROOT / "docs" / "images" / each).read_bytes()


def test_rows_that_tell_flop_and_bytes_are_points_of_a_roofline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what was measured in their run; without such rows there is no picture."""
    monkeypatch.setattr(pictures, "IMAGES", tmp_path)
    pictures.of_rows([Row("a", 1.0, "us").as_dict()], "none")
    assert not list(tmp_path.iterdir())
    beside = {"GFLOP": 2.0, "MB": 134.0, "ours, us": 70.0, "copy bandwidth, TB/s": 4.2}
    pictures.of_rows([Row("forward", 1.0, "x", baselines=beside).as_dict()], "some")
    assert [path.name for path in tmp_path.iterdir()] == ["some_roofline.svg"]
    assert "copy: 4.20 TB/s" in (tmp_path / "some_roofline.svg").read_text()
