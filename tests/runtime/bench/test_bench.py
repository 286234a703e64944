"""The benchmarks' frame: rows, timing, and what `kasmina bench` prints."""

from __future__ import annotations

import gc
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import kasmina.bench
from kasmina.bench import (
    IncorrectResult,
    Row,
    Timings,
    _machine,
    benchmark,
    interleave,
    known,
    load,
    report,
    require,
    single_thread,
)
from kasmina.cli.bench import bench
from kasmina.errors import UsageError

MODULE = '''
from kasmina.bench import Row, benchmark

@benchmark("{name}")
def run():
    """Measure nothing."""
    return [Row("speed", {value}, "ns", target=40.0, baselines={{"dict table": 161.0}})]
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose modules are benchmarks too."""
    monkeypatch.setattr(kasmina.bench, "__path__", [*kasmina.bench.__path__, str(tmp_path)])
    yield tmp_path


@pytest.mark.parametrize(
    ("row", "met"),
    [
        (Row("a", 1.0, "s", 1.0, "<="), True),
        (Row("a", 1.1, "s", 1.0, "<="), False),
        (Row("a", 1.0, "s", 1.0, ">="), True),
        (Row("a", 0.9, "s", 1.0, ">="), False),
        (Row("a", math.nan, "s", 1.0, "<="), False),
        (Row("a", math.nan, "s", 1.0, ">="), False),
        (Row("a", 0.5, "s", 1.0, "<=", quoted=True), False),
        (Row("a", 0.5, "s"), None),
    ],
)
def test_a_row_is_met_by_its_own_measurement_only(row: Row, met: bool | None) -> None:
    """NaN and quoted figures meet nothing; without a target there is nothing to meet."""
    assert row.met is met


def test_the_object_has_the_published_keys() -> None:
    """What other programs read of a benchmark does not change its shape."""
    printed = report("step", [Row("a", 1.0, "s", 2.0), Row("b", 1.0, "s", quoted=True)])
    assert list(printed) == ["bench", "device", "versions", "command", "rows"]
    assert printed["command"] == "kasmina bench step --json"
    assert {"python", "torch", "numpy", "kasmina"} <= set(printed["versions"])
    first, second = printed["rows"]
    assert list(first) == ["name", "value", "unit", "target", "op", "met", "baselines"]
    assert (second["target"], second["op"], second["met"], second["quoted"]) == (None,) * 3 + (
        True,
    )


def test_timings_compare_the_same_round() -> None:
    """A round in which everything was ten times slower leaves the ratio as it is."""
    timings = Timings({"a": (2.0, 20.0, 2.0), "b": (1.0, 10.0, 1.0)})
    assert timings.median("a") == 2.0
    assert timings.ratio("a", "b") == 2.0


def test_subjects_are_called_in_turns() -> None:
    """Warm-up first, then every round begins with another subject, without garbage collection."""
    calls: list[str] = []
    enabled: list[bool] = []

    def subject(name: str) -> None:
        calls.append(name)
        enabled.append(gc.isenabled())

    timings = interleave(
        {"a": lambda: subject("a"), "b": lambda: subject("b")}, repeats=2, calls=2, warmup=1
    )
    assert "".join(calls) == "ab" + "aabb" + "bbaa"
    assert enabled == [True] * 2 + [False] * 8
    assert gc.isenabled()
    assert all(len(seconds) == 2 for seconds in timings.seconds.values())


def test_garbage_collection_stays_off_where_it_was_off() -> None:
    """The timer gives back what it found."""
    gc.disable()
    try:
        interleave({"a": int}, repeats=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_time_is_per_call() -> None:
    """Ten calls of a millisecond are a millisecond."""
    timings = interleave({"sleep": lambda: time.sleep(0.001)}, repeats=3, calls=10, warmup=0)
    assert 0.001 <= timings.median("sleep") < 0.01


def test_process_time_does_not_count_sleep() -> None:
    """With the CPU clock, what others take does not count."""
    timings = interleave(
        {"sleep": lambda: time.sleep(0.01)}, repeats=3, warmup=0, clock=time.process_time
    )
    assert timings.median("sleep") < 0.005


def test_single_thread_gives_the_threads_back() -> None:
    """One thread inside, as many as before outside."""
    before = torch.get_num_threads()
    with single_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_wrong_result_is_not_timed() -> None:
    """The error says what should have held."""
    require(True, "fine")
    message = "not timed, because this does not hold: compiled and eager step agree"
    with pytest.raises(IncorrectResult, match=message):
        require(False, "compiled and eager step agree")


def test_a_benchmark_says_what_it_measures() -> None:
    """A registered function without a docstring is refused."""
    with pytest.raises(ValueError, match=r"benchmark 'mute': .*run needs a docstring"):

        @benchmark("mute")
        def run() -> list[Row]:
            return []


def test_an_unknown_benchmark_lists_the_known_ones() -> None:
    """Wrong usage, with the names that would do."""
    with pytest.raises(UsageError) as caught:
        load("speed")
    assert str(caught.value) == f"no benchmark 'speed'; known: {', '.join(known())}"
    assert caught.value.exit_code == 2


def test_without_a_name_the_names_are_listed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new module is known at once; helpers are not benchmarks."""
    (folder / "fresh.py").write_text(MODULE.format(name="fresh", value=1.0))
    assert bench() == 0
    names = capsys.readouterr().out.split()
    assert "fresh" in names
    assert names == sorted(names)
    assert not any(name.startswith("_") for name in names)


def test_json_is_one_object_on_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output holds nothing but the object."""
    (folder / "swift.py").write_text(MODULE.format(name="swift", value=30.0))
    assert bench("swift", json=True) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    printed = json.loads(captured.out)
    assert printed["bench"] == "swift"
    assert printed["rows"][0]["met"] is True
    assert "swift: Measure nothing." in captured.err


def test_a_missed_target_ends_with_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table shows value, target, verdict and what was measured beside it."""
    (folder / "slow.py").write_text(MODULE.format(name="slow", value=50.0))
    assert bench("slow") == 1
    printed = capsys.readouterr().out
    for part in ("speed", "50 ns", "<= 40", "missed", "dict table: 161"):
        assert part in printed


def test_a_package_that_is_missing_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """triton, where there is none, is left out."""
    monkeypatch.setattr(_machine, "_PACKAGES", ("torch", "no-such-package"))
    assert list(_machine.versions()) == ["python", "torch"]
