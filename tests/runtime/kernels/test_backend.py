"""Which backend computes seeds, and why; devices that are not here are made up."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from kasmina.kernels import backend
from kasmina.kernels.backend import BackendError, choose
from kasmina.sites import Garden, Site, morph


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with a GPU whose properties a test may change."""
    made = SimpleNamespace(capability=(9, 0), name="NVIDIA H200", interpreted=False, hip=None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: made.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: made.name)
    monkeypatch.setattr(backend, "interpreted", lambda: made.interpreted)
    return made


def asked(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """Set or clear the environment's switch."""
    if value is None:
        monkeypatch.delenv("KASMINA_BACKEND", raising=False)
    else:
        monkeypatch.setenv("KASMINA_BACKEND", value)


@pytest.mark.parametrize("value", [None, "auto", "triton"])
def test_a_gpu_runs_kernels(
    gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """Unless it is told otherwise."""
    asked(monkeypatch, value)
    assert choose("cuda") == ("triton", "NVIDIA H200 has compute capability 9.0")
    asked(monkeypatch, "torch")
    assert choose("cuda") == ("torch", "KASMINA_BACKEND=torch asks for the twins")


OLD = "compute capability 7.5 of Tesla T4 is below 8.0"
LACKS: dict[str, tuple[dict[str, object], str]] = {
    "old": ({"capability": (7, 5), "name": "Tesla T4"}, OLD),
    "interpreted": ({"interpreted": True}, "TRITON_INTERPRET=1 is set, which is for machines"),
}


@pytest.mark.parametrize("lack", LACKS)
def test_a_gpu_that_cannot_falls_back_or_says_so(
    gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    """`auto` takes the twins and says why; `triton` is an error with the same reason."""
    changes, reason = LACKS[lack]
    vars(gpu).update(changes)
    asked(monkeypatch, "auto")
    choice = choose("cuda:0")
    assert choice.backend == "torch"
    assert choice.why.startswith(f"the twins: {reason}")
    asked(monkeypatch, "triton")
    with pytest.raises(BackendError, match=rf"^KASMINA_BACKEND=triton, but .* cuda:0: {reason}"):
        choose("cuda:0")


def test_no_triton_and_an_amd_gpu(gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both run the twins."""
    asked(monkeypatch, "auto")
    with monkeypatch.context() as patch:
        patch.setattr(torch.version, "hip", "6.0")
        assert choose("cuda").why == "the twins: the kernels were never run on an AMD GPU"
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert choose("cuda").why == "the twins: Triton is not installed (pip install triton)"


def test_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run there only in the interpreter, and only when they are demanded."""
    asked(monkeypatch, "")
    expected = choose("cpu")
    asked(monkeypatch, None)
    assert (
        choose("cpu")
        == expected
        == ("torch", "the twins: kernels run on a CUDA GPU and this is 'cpu'")
    )
    assert choose("mps").backend == "torch"
    asked(monkeypatch, "triton")
    monkeypatch.setattr(backend, "interpreted", lambda: True)
    assert choose("cpu").backend == "triton"
    monkeypatch.setattr(backend, "interpreted", lambda: False)
    with pytest.raises(BackendError, match=r"no kernel can run on cpu: .* set TRITON_INTERPRET=1"):
        choose("cpu")


def test_what_is_no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message lists what is legal, and morph() refuses before anything is changed."""
    asked(monkeypatch, "cuda")
    message = "KASMINA_BACKEND='cuda' is no backend; legal: auto, triton, torch"
    with pytest.raises(BackendError, match=re.escape(message)):
        choose("cpu")
    host = torch.nn.Linear(3, 4)
    with pytest.raises(BackendError, match=re.escape(message)):
        morph(host, [Site("", placement="inline", seeds=2)])
    assert not hasattr(host, "kasmina")
    assert "forward" not in host.__dict__


def test_a_site_says_what_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As chosen when it was made."""
    asked(monkeypatch, "torch")
    model = morph(torch.nn.Linear(3, 4), [Site("", placement="inline", seeds=2)])
    (site,) = Garden.of(model).sites.values()
    assert site.backend == ("torch", "KASMINA_BACKEND=torch asks for the twins")
