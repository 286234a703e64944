"""The benchmarks of the kernels: what runs without a GPU, and the GPU's rows by the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from kasmina.bench import (
    IncorrectResult,
    Row,
    _gpu,
    backward,
    curves,
    forward,
    known,
    load,
    parallel,
    report,
    step,
    train,
)
from kasmina.bench._seeded import Seeded, error, launches_of, loop, vectorised
from kasmina.blueprints import Placement
from kasmina.kernels import tiles
from kasmina.kernels.backend import Choice
from tools import tune

# NumPy's in the interpreter, on lanes that are masked.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
NAMES = ("forward", "backward", "train", "step", "parallel", "curves")


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels by Triton's interpreter, at sizes for it, and no compiler for the baselines."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    monkeypatch.setattr(_gpu, "DEVICE", "cpu")
    monkeypatch.setattr(_gpu, "quick", True)
    monkeypatch.setattr(_gpu, "L2", 1)
    for module in (forward, backward, parallel, curves):
        monkeypatch.setattr(module, "ROWS", 8, raising=False)
        monkeypatch.setattr(module, "FEATURES", 128, raising=False)
    monkeypatch.setattr(forward, "SMALL", (8, 64, 16))
    monkeypatch.setattr(forward, "compiled", lambda call: call)
    monkeypatch.setattr(backward, "compiled", lambda call: call)
    monkeypatch.setattr(parallel, "SEEDS", 16)
    monkeypatch.setattr(parallel, "UNITS", 8)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that take a moment."""
    for module in (forward, backward):
        monkeypatch.setattr(module, "CPU", (16, 4, 2, 8))
    monkeypatch.setattr(train, "SMALL", (16, 32, 8, 4))
    monkeypatch.setattr(step, "SEEDS", (500,))
    monkeypatch.setattr(curves, "SMALL", {"ROWS": 4, "FEATURES": 256, "FEW": 2})
    monkeypatch.setattr(curves, "SEEDS", (1, 10))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("small")
@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the GPU instead")
def test_without_a_gpu_the_twins_are_measured_and_the_rest_is_said_to_be_missing(name: str) -> None:
    """Every benchmark is known, gives positive figures, and says why there are no others."""
    assert name in known()
    *rows, last = load(name).run()
    assert "no CUDA GPU" in last.name
    assert rows
    assert last.met is None
    printed = report(name, rows)
    assert printed["command"] == f"kasmina bench {name} --json"
    times = [us for row in printed["rows"] for what, us in row["baselines"].items() if "us" in what]
    assert times
    assert min(times) > 0


@pytest.mark.usefixtures("small")
def test_the_twins_are_held_to_ten_times_the_loop() -> None:
    """That is the target of a tenth of the seeds with telemetry, and of no other row."""
    rows = list(forward.on_cpu())
    assert [row.target for row in rows] == [10.0, None, None]
    assert {row.op for row in rows} == {">="}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("share", [0.1, pytest.param(1.0, marks=pytest.mark.no_cover)])
def test_the_rows_of_a_large_pass(share: float) -> None:
    """The floor with its target, and one row against each baseline; the copy stands beside all."""
    first, *against = forward.large(16, share)
    assert (first.target, first.op) == (forward.FLOORS[share], "<=")
    assert {"copy_, us", "floor, us", "copy bandwidth, TB/s"} <= set(first.baselines)
    wanted = first.baselines["ours, us"] / first.baselines["floor, us"]
    assert first.value == pytest.approx(wanted)
    assert [row.target for row in against] == [7.0, 14.0, 100.0]
    (ratio,) = [row for row in against if row.name.endswith("against loop over chunks")]
    ours, theirs = ratio.baselines.values()
    assert ratio.value == pytest.approx(theirs / ours)


@pytest.mark.usefixtures("interpreted")
def test_the_rows_in_place_and_of_a_small_pass() -> None:
    """Each has its target."""
    assert [row.target for row in forward.in_place(64)] == [0.3]
    assert [row.target for row in forward.small()] == [5, 20, 45]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("share", [0.1, pytest.param(1.0, marks=pytest.mark.no_cover)])
def test_the_rows_of_a_backward_pass(share: float) -> None:
    """Its own floor, and torch.compile; gradients were held against plain torch before."""
    floor, against = backward.large(16, share)
    assert (floor.target, against.target) == (1.6, 4.0)


@pytest.mark.usefixtures("interpreted")
def test_the_rows_of_parallel_seeds() -> None:
    """Forward and both directions, against the dense MLP of the active width."""
    rows = list(parallel.large())
    assert [row.target for row in rows] == [1.3, 1.3]
    assert all(row.name.endswith("dense MLP of 16") for row in rows)


@pytest.mark.usefixtures("interpreted")
def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output, telemetry and gradients are compared before anything is timed."""
    seeded = forward.prepared(16, 1.0, 64)
    sample = torch.zeros(4, 4)
    forward.check(seeded, sample)
    launches = launches_of(seeded.site)
    right = launches.forward

    def wrong(change: Callable[[Any, Any], object], *arguments: Any) -> None:
        right(*arguments)
        change(arguments[1], arguments[5])

    faults: dict[str, Callable[[Any, Any], object]] = {
        "give what float64 gives": lambda out, _: out[0].fill_(9.0),
        "telemetry 1 is right": lambda _, told: told[:, 1].mul_(2),
    }
    for message, change in faults.items():
        monkeypatch.setattr(launches, "forward", partial(wrong, change))
        with pytest.raises(IncorrectResult, match=message):
            forward.check(seeded, sample)
    x, g = torch.randn(2, 8, 64).bfloat16()
    pulled = launches.backward(g, x, None, seeded.site.alpha.detach(), [seeded.stack()])
    backward.check(pulled, seeded, x, g)
    pulled.alpha.mul_(1.1)
    with pytest.raises(IncorrectResult, match="gradient of alpha"):
        backward.check(pulled, seeded, x, g)


def test_the_baselines_give_what_the_site_gives() -> None:
    """The vectorised form, the loop and the site are one function; telemetry agrees as well."""
    seeded = Seeded(64, 8, 5).activate(0.5)
    seeded.site.sample_every = 1
    x, by_loop = torch.randn(10, 64), loop(seeded, telemetry=True)
    out, told = vectorised(x, seeded.weights(), 0.5, seeded.slots(), 8)
    assert error(out, seeded.model(x)) < 1e-6
    assert error(by_loop(x), out) < 1e-6
    assert not torch.equal(out, x)
    measured = seeded.garden.telemetry()
    theirs = by_loop.sample  # type: ignore[attr-defined]
    for number, ours in enumerate((measured.total, measured.squares, measured.maximum)):
        assert torch.allclose(ours, told[number], rtol=1e-4, atol=1e-4)
        assert torch.allclose(theirs[:, number], told[number], rtol=1e-4, atol=1e-4)


def test_a_share_of_the_seeds_acts_and_trains() -> None:
    """As many as were asked for, and none after they were sent to sleep again."""
    seeded = Seeded(64, 8, 5)
    for share, acting in ((0.25, 2), (1.0, 8), (0.0, 0)):
        seeded.activate(share)
        assert sum(len(part.slots) for part in seeded.site.plan.active) == acting
        assert int(seeded.site.training_rows("mlp").sum()) == acting


def test_busy_time_is_the_union_of_spans() -> None:
    """What runs side by side counts once, gaps not at all."""
    assert train.busy([(0, 2), (1, 3), (5, 6), (5.5, 5.75)]) == 4


def test_against_is_how_many_times_faster() -> None:
    """A baseline of three times the time is three times slower."""
    (row,) = _gpu.against("x", {"ours": 2.0, "eager": 6.0}, {"eager": 3.0})
    assert row == Row(
        "x, against eager", 3.0, "times faster", 3.0, ">=", {"ours, us": 2.0, "eager, us": 6.0}
    )


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the GPU instead")
def test_curves_tell_each_point_at_once_and_some_points_quickly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On stderr, so that stdout stays one object; `--quick` leaves points out, no curve."""
    whole = curves.run()
    assert capsys.readouterr().err.count("\n") == len(whole)
    few = curves.run(quick=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[0].startswith(f"  {few[0].name}: ")
    assert len(few) < len(whole) / 2
    axes = [set().union(*(row.baselines for row in rows)) for rows in (few, whole)]
    assert axes[0] == axes[1] >= {"seeds", "share, %", "width"}


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize("bench", [curves, parallel], ids=["curves", "parallel"])
def test_a_wrong_gradient_is_not_timed(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the output is right and a gradient is off by a tenth, nothing is timed."""
    placement: Placement = "inline" if bench is curves else "parallel"
    seeded = Seeded(64, 4, 16, dtype=torch.float32, placement=placement).activate(0.5)
    x, g = torch.randn(2, 8, 64)

    def held() -> None:
        if bench is parallel:
            parallel.check(seeded, x, g)
            return
        leaf = x.clone().requires_grad_()
        out = seeded.model(leaf)
        (to_x,) = torch.autograd.grad(out, leaf, g)
        curves.check(seeded, x, out.detach(), to_x, g)

    held()
    right = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd,
        "grad",
        lambda outputs, inputs, grad: (
            tuple(1.1 * each for each in right(outputs, inputs, grad))
            if grad.dtype == torch.float32
            else right(outputs, inputs, grad)
        ),
    )
    with pytest.raises(IncorrectResult, match="the gradient of"):
        held()


@pytest.mark.usefixtures("interpreted")
def test_a_point_of_a_curve_has_both_directions() -> None:
    """By kernels; with the place on the axis and the copy beside it."""
    rows = list(curves.point("width", 4, 16, 32, 8, 0.25))
    assert [row.name.split(", ")[1] for row in rows] == ["forward", "backward"]
    assert all(row.baselines["width"] == 4.0 and row.value > 0 for row in rows)


@pytest.mark.usefixtures("interpreted")
def test_tuning_writes_what_the_runtime_reads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The fastest of the candidates of each direction, by name of the GPU; others stay."""
    monkeypatch.setattr(tune, "CLASSES", (tune.Class(8, 8, 4),))
    few = {direction: each[:2] for direction, each in tune.CANDIDATES.items()}
    monkeypatch.setattr(tune, "CANDIDATES", few)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "this one")
    told: list[dict[str, Any]] = []
    path = tmp_path / "tiles.json"
    path.write_text('{"another": {}}')
    tune.write(tune.tuned(told), path)
    assert set(few) == set(get_args(tiles.Direction))
    assert [(each["direction"], each["tiles"]) for each in told] == [
        (direction, tuple(each)) for direction, candidates in few.items() for each in candidates
    ]
    found = tiles.table(path)
    assert set(found) == {"another", "this one"}
    for direction, candidates in few.items():
        (measured,) = found["this one"][direction]
        assert measured[:4] == (8, 2, 4, 2)
        assert tuple(measured.tiles) in [tuple(each) for each in candidates]


@pytest.mark.usefixtures("interpreted")
def test_a_site_that_fell_back_to_its_twins_is_not_timed() -> None:
    """A row that is called a kernel's is never the twin's."""
    seeded = forward.prepared(16, 0.5, 64)
    forward.launching(seeded, None)
    seeded.site.backend = Choice("torch", "the twins: a kernel is wrong")
    with pytest.raises(IncorrectResult, match="kernels compute the site: the twins: a kernel is"):
        forward.launching(seeded, None)
