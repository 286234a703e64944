"""The tools around the benchmarks: one run of everything on a GPU, and the pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from kasmina.bench import Row
from tests.helpers import ROOT
from tools import gpu_all, gpu_bench, gpu_sites, pictures


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


def test_a_benchmark_leaves_time_for_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its share of what is left when it begins: what one does not take is the others'."""
    now = [gpu_bench.STARTED]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ends = []
    for _, end in gpu_bench.deadlines(260.0):
        ends.append(end)
        now[0] += 10
    assert ends[:2] == pytest.approx([50, 10 + 250 * 5 / 21])
    assert ends[-1] == pytest.approx(260) and len(ends) == len(gpu_bench.SHARES)


def test_jobs_are_told_as_they_end_whatever_becomes_of_them(tmp_path: Path) -> None:
    """What fails, hangs or was not begun is on disk beside what is well."""

    def job(name: str, code: str, seconds: float = 60.0) -> gpu_all.Job:
        return gpu_all.Job(name, [sys.executable, "-c", code], seconds)

    jobs = [
        job("well", "print('hello')"),
        job("broken", "import sys; print('so it is'); sys.exit(3)"),
        job("hangs", "import time; time.sleep(600)", 0.2),
    ]
    far = time.monotonic() - gpu_all.STARTED + 1e6
    known = gpu_all.run(jobs, tmp_path / "found.json", far, at_once=2)
    assert json.loads((tmp_path / "found.json").read_text()) == known
    told = {each["job"]: (each["rc"], each["told"]) for each in known}
    assert told == {"well": (0, "hello\n"), "broken": (3, "so it is\n"), "hangs": (-1, "")}
    (late,) = gpu_all.run(jobs[:1], tmp_path / "late.json", -1e9, at_once=1)
    assert (late["rc"], late["told"]) == (-2, "no time was left")


def test_every_check_of_sites_is_a_job_and_every_family_is_sanitized() -> None:
    """By the very names that the checks have."""
    names = [job.name for job in gpu_all.checks(9.0, few=False)]
    assert len(names) == len(set(names))
    known = gpu_sites.cases()
    assert {name for name in known if not name.startswith("launched")} - {"costs"} <= set(names)
    for name in known:
        if name.startswith("launched"):
            assert f"memcheck, {name}" in names
    for placement in ("inline", "parallel"):
        assert any(name.startswith("racecheck") and placement in name for name in names)


def test_a_check_of_sites_tells_on_disk_what_it_found(tmp_path: Path) -> None:
    """Real memory ends here; a name that no case has is an error that lists those there are."""
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "tools.gpu_sites", "--only"]
    roots = (str(ROOT / name) for name in ("spec", "generator", "generated", "runtime"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
    ask = partial(
        subprocess.run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    done = ask([*command, "memory", "--out", str(out)], check=False)
    (found,) = json.loads(out.read_text())
    assert done.returncode == 0 and found["ok"], done.stdout + done.stderr
    assert found["same"] and "no memory to double the pool" in found["refused"]
    wrong = ask([*command, "nothing"], check=False)
    assert (
        wrong.returncode == 2 and "no case begins with 'nothing'; known: captured" in wrong.stderr
    )


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
