"""Which tiles a launch takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from kasmina.kernels import tiles
from kasmina.kernels.tiles import Direction, TableError, Tiles, Tuning, nearest, table

NARROW = {"rows": 8192, "chunks": 256, "width": 16, "bytes": 2, "tiles": {"rows": 128}}
WIDE = {"rows": 8192, "chunks": 64, "width": 64, "bytes": 2, "tiles": {"columns": 128}}


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of one made-up GPU."""
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"GPU": {"forward": [NARROW, WIDE]}}))
    held = table(path)
    monkeypatch.setattr(tiles, "table", lambda: held)
    return path


def test_the_committed_table_can_be_read() -> None:
    """And whatever it holds is legal."""
    for by_direction in table().values():
        assert set(by_direction) <= set(get_args(Direction))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((8192, 256, 16, 2), Tiles(rows=128)),
        ((4096, 341, 12, 2), Tiles(rows=128)),
        ((300, 200, 20, 4), Tiles(rows=128)),
        ((8192, 41, 100, 2), Tiles(columns=128)),
        ((1, 1, 4096, 4), Tiles(columns=128)),
        ((0, 256, 16, 2), Tiles(rows=128)),
    ],
)
def test_the_nearest_shape(
    measured: Path, shape: tuple[int, int, int, int], expected: Tiles
) -> None:
    """The chunk's width counts most; no shape is too far away."""
    assert nearest("GPU", "forward", *shape) == expected


def test_nobody_has_measured_it(measured: Path) -> None:
    """Another GPU, or a direction that is not there: defaults."""
    assert nearest("GPU", "backward", 8192, 256, 16, 2) == Tiles()
    assert nearest("other", "forward", 8192, 256, 16, 2) == Tiles()


def test_a_launch_asks_once(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a class of shapes; sizes of batches within a factor of two share one."""
    asked = []

    def noting(*shape: object) -> Tiles:
        asked.append(shape)
        return Tiles()

    monkeypatch.setattr(tiles, "nearest", noting)
    tuning = Tuning(torch.device("cpu"))
    for rows in (256, 256, 300, 511):
        tuning.tiles("forward", torch.zeros(rows, 12), 5)
    assert asked == [("cpu", each, 256, 5, 3, 4) for each in ("forward", "carry")]


def test_tiles_do_not_depend_on_which_batch_came_first(measured: Path) -> None:
    """The same inputs give the same bits, also after a run is resumed at another batch."""
    found = []
    for order in ((1100, 2000), (2000, 1100)):
        tuning = Tuning(torch.device("cpu"))
        tuning._gpu = "GPU"
        asked = {rows: tuning.tiles("forward", torch.zeros(rows, 4096), 256) for rows in order}
        found.append([asked[1100], asked[2000]])
    assert found[0] == found[1]


def _entry(**tiles: object) -> str:
    return json.dumps({"G": {"forward": [NARROW, {**NARROW, "tiles": tiles}]}})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", ": no table of tiles (JSONDecodeError"),
        ("[]", " is []; legal: an object"),
        ('{"GPU": {"forward": 3}}', ": GPU, forward is 3; legal: a list"),
        (
            '{"GPU": {"forward": [{}]}}',
            ": GPU, forward[0].tiles is missing; legal: an entry with rows, chunks, width, bytes",
        ),
        (
            json.dumps({"G": {"forward": [{**NARROW, "width": 0}]}}),
            ": G, forward[0].width is 0; legal: a whole number from 1 up",
        ),
        (_entry(rows=48), ": G, forward[1].tiles.rows is 48; legal: a power of two from 16 up"),
        (_entry(columns=8), ": G, forward[1].tiles.columns is 8; legal: a power of two from 16"),
        (_entry(rows=True), ": G, forward[1].tiles.rows is True; legal: a power of two from 16"),
        (_entry(warps=3), ": G, forward[1].tiles.warps is 3; legal: a power of two from 1 up"),
        (_entry(registers=-1), ": G, forward[1].tiles.registers is -1; legal: a whole number"),
        (_entry(rws=64), ": G, forward[1].tiles has the field 'rws'; legal: rows, columns, warps"),
    ],
)
def test_a_broken_table(tmp_path: Path, text: str, what: str) -> None:
    """Says which file, which field, what it is and what is legal."""
    path = tmp_path / "tiles.json"
    path.write_text(text)
    with pytest.raises(TableError, match=re.escape(f"{path}{what}")):
        table(path)
