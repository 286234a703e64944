"""`kasmina doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kasmina.cli import main


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


def test_what_is_missing_is_named_with_its_purpose(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is no fault."""
    monkeypatch.setattr("kasmina.cli.doctor.find_spec", lambda name: None)
    assert main(["doctor", "--json"]) == 0
    missing = told(capsys)["missing"]
    assert "z3, for proofs of guards that compute: pip install 'kasmina[verify]'" in missing
