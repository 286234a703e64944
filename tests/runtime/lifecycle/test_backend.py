"""Which step moves the seeds of a state tensor: the generated kernels or torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kasmina_generated
from kasmina.kernels.backend import BackendError
from kasmina.lifecycle import ContextTable, Lifecycle, LimitTable, RefusedValue, StateTensor, step
from tests.helpers import run_python
from tests.runtime.lifecycle.packages import built, edited

CPU = torch.device("cpu")


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are demanded; the tests run them in Triton's interpreter."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")


def shipped() -> Lifecycle:
    """The default lifecycle, with nothing chosen yet."""
    return Lifecycle.from_package(kasmina_generated)


def walked(lifecycle: Lifecycle) -> list[torch.Tensor]:
    """Every column and every answer of ten steps with commands, transitions and no room."""
    generator = torch.Generator().manual_seed(0)
    state, context = StateTensor(40, lifecycle=lifecycle), ContextTable(40, lifecycle=lifecycle)
    limits, found = LimitTable(lifecycle), []
    limits.override("max_training", 5)
    germinate = 1 << lifecycle.Event["request_germination"]
    for _ in range(10):
        for field in context.vector():
            if field.is_floating_point():
                field.copy_(torch.rand(40, generator=generator))
        events = (torch.rand(40, generator=generator) < 0.3).int() * germinate
        result = step(state, events, context, limits, True)
        found += [
            result.edge,
            result.refused,
            result.after,
            *result.unused_events.__dict__.values(),
        ]
    found += state.columns.values()
    return [column for column in found if isinstance(column, torch.Tensor)]


@pytest.mark.usefixtures("triton")
def test_kernels_step_as_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, reasons of refused commands included."""
    kernels = shipped()
    assert kernels.step_on(CPU).__module__ == "kasmina_generated.kernels.step"
    found = walked(kernels)
    monkeypatch.setenv("KASMINA_BACKEND", "torch")
    torches = shipped()
    assert torches.step_on(CPU) is torches.vector_step
    wanted = walked(torches)
    assert len(found) == len(wanted) > 40
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert any(bool(column.any()) for column in found[1::6])  # somebody found no room


@pytest.mark.usefixtures("triton")
def test_a_package_in_a_directory_brings_its_kernels(tmp_path: Path) -> None:
    """Those of an edited spec, and they are verified as the rest is."""
    (tmp_path / "spec").mkdir()
    spec = edited(tmp_path / "spec", ("max_epochs: 20,", "max_epochs: 2,"))
    lifecycle = built(spec, tmp_path / "package")
    assert lifecycle.step_on(CPU).__module__.startswith("kasmina_built_")
    state = StateTensor(1, lifecycle=lifecycle)
    state.update(0, {"lifecycle_state": 1, "epochs_in_state": 2})
    step(state, None, ContextTable(1, lifecycle=lifecycle), LimitTable(lifecycle), True)
    assert state.state(0).name == "CANCELLED"
    kernel = tmp_path / "package" / "kernels" / "step.py"
    kernel.write_text(kernel.read_text().replace("ticks >= 2", "ticks >= 3"))
    with pytest.raises(Exception, match=r"kernels/step\.py: was edited by hand"):
        Lifecycle.from_directory(tmp_path / "package")


@pytest.mark.usefixtures("triton")
def test_a_refused_measurement_leaves_all_rows_as_they_were() -> None:
    """Read back before anything is written."""
    state, context = StateTensor(4, lifecycle=shipped()), ContextTable(4)
    state.update(1, {"lifecycle_state": 1})
    context["alpha"][2] = float("inf")
    with pytest.raises(RefusedValue, match=r"^context field 'alpha', row 2: infinity is refused"):
        step(state, None, context, LimitTable(), True)
    assert all(
        torch.equal(column, StateTensor(4)[name])
        for name, column in state.columns.items()
        if name != "lifecycle_state"
    )
    assert state.codes.tolist() == [0, 1, 0, 0]


def test_kernels_that_cannot_run_are_not_taken() -> None:
    """Demanded on a CPU without the interpreter they raise, and say what to do; else torch steps."""
    code = """
import torch
from kasmina.lifecycle import Lifecycle
Lifecycle.default().step_on(torch.device("cpu"))
"""
    asked = {"TRITON_INTERPRET": "0", "KASMINA_BACKEND": "triton"}
    assert BackendError.__name__ in run_python(code, environment=asked).stderr
    done = run_python(code + "import sys; sys.exit(str('triton' in sys.modules))")
    assert done.stderr == "False\n"
