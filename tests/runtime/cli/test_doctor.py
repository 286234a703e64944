"""`kasmina doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kasmina.cli import doctor, main
from kasmina.kernels import tiles


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the command printed as JSON."""
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_sound_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions, every device with its backend and why, the generated kernels, nothing to mend."""
    monkeypatch.delenv("KASMINA_BACKEND", raising=False)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "all is well" in text and "cpu" in text and "torch" in text
    assert main(["doctor", "--json"]) == 0
    found = told(capsys)
    assert found["faults"] == [] and found["asked"] == "auto (not set)"
    assert "mlp_relu" in str(found["kernels"])
    first = found["devices"][0]
    assert first["name"] == "cpu" and first["backend"] == "torch"
    assert first["why"] == "the twins: kernels run on a CUDA GPU and this is 'cpu'"


def test_what_cannot_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that does not exist is a fault, with what is legal; the exit code says so."""
    monkeypatch.setenv("KASMINA_BACKEND", "fast")
    assert main(["doctor", "--json"]) == 1
    (fault,) = told(capsys)["faults"]
    assert fault == "cpu: KASMINA_BACKEND='fast' is no backend; legal: auto, triton, torch"


def test_a_cache_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert main(["doctor", "--json"]) == 1
    (fault,) = told(capsys)["faults"]
    assert fault.startswith(f"kernels cannot be kept in {tmp_path}/file/cache: {tmp_path}/file")
    assert "TRITON_CACHE_DIR" in fault


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc to write into")
def test_a_file_system_that_takes_no_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions say that root may write into /proc; only trying tells."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self/net/cache")
    assert main(["doctor", "--json"]) == 1
    (fault,) = told(capsys)["faults"]
    assert fault.startswith("kernels cannot be kept in /proc/self/net/cache/kasmina/kernels: /proc")
    assert "cannot be written (" in fault


def test_a_cache_that_can_be_written_is_left_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file that was tried is gone again, and no folder was made."""
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "here"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not yet"))
    assert main(["doctor", "--json"]) == 0
    assert told(capsys)["faults"] == []
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_a_table_of_tiles_that_is_broken_is_a_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """File, field, value and what is legal; everything else is told as well."""
    entry = {"rows": 8, "chunks": 1, "width": 1, "bytes": 2, "tiles": {"rows": 8}}
    path = tmp_path / "tiles.json"
    path.write_text(json.dumps({"GPU": {"forward": [entry]}}))
    monkeypatch.setattr(doctor, "table", lambda: tiles.table(path))
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    told_so = "forward[0].tiles.rows is 8; legal: a power of two from 16 up"
    assert f"fault: tiles: {path}: GPU, {told_so}" in text
    assert "generated kernels: " in text and "all is well" not in text


def test_no_line_is_broken_where_the_terminal_ends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reason can be searched for and copied, brackets and all."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("KASMINA_BACKEND", "auto")
    monkeypatch.setattr("kasmina.cli.doctor.find_spec", lambda name: None)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  why: the twins: kernels run on a CUDA GPU and this is 'cpu'" in lines
    assert "not installed: sklearn, for the task digits: pip install 'kasmina[tasks]'" in lines
    assert any(line.startswith("kinds of your own: a formula gives an inline") for line in lines)


def test_what_is_missing_is_named_with_its_purpose(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is no fault."""
    monkeypatch.setattr("kasmina.cli.doctor.find_spec", lambda name: None)
    assert main(["doctor", "--json"]) == 0
    missing = told(capsys)["missing"]
    assert "z3, for proofs of guards that compute: pip install 'kasmina[verify]'" in missing
