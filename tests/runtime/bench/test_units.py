"""Work piece by piece: it goes on where it was ended, on one process or on several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kasmina.bench._units import measured


def square(unit: tuple[int]) -> int:
    """Work that processes can import."""
    assert torch.get_num_threads() == 1
    return unit[0] ** 2


def test_what_the_file_holds_is_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The order is that of the units; each that is done is told, among those that are asked for."""
    file = tmp_path / "new" / "units.jsonl"
    assert measured([(3,), (1,)], square, int, jobs=1, file=file) == {(3,): 9, (1,): 1}
    file.write_bytes(file.read_bytes().replace(b":9}", b":8}"))
    again = measured([(1,), (2,), (3,)], square, int, jobs=1, file=file)
    assert list(again.items()) == [((1,), 1), ((2,), 4), ((3,), 8)]
    assert len(file.read_bytes().splitlines()) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "[2]: done, 3 of 3"


def test_a_line_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    """As a kill in the middle of a write leaves it."""
    file = tmp_path / "units.jsonl"
    measured([(3,), (2,)], square, int, jobs=1, file=file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    assert measured([(3,), (2,)], square, int, jobs=1, file=file) == {(3,): 9, (2,): 4}
    assert file.read_bytes() == whole


def test_units_are_spread_over_processes(tmp_path: Path) -> None:
    """With the same results, in the same order."""
    units = [(3,), (1,), (2,)]
    done = measured(units, square, int, jobs=2, file=tmp_path / "units.jsonl")
    assert list(done.items()) == [((3,), 9), ((1,), 1), ((2,), 4)]
