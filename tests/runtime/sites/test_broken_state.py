"""State that nobody should have written, and devices that do not fit: an error, or the identity."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kasmina.kernels.backend import BackendError
from kasmina.sites import Garden, Site, SiteError, morph
from tests.runtime.kernels.test_inline import grown, site_of
from tests.runtime.sites.models import put

pytestmark = pytest.mark.usefixtures("short_tiles")


def model_and_garden() -> tuple[nn.Module, Garden]:
    """Two sites, a seed of each is grafted."""
    sites = [Site("0", placement="inline", seeds=3), Site("2", seeds=2)]
    model = morph(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), sites)
    garden = Garden.of(model)
    put(garden, 0, "GRAFTING", alpha=0.5)
    put(garden, 2, "TRAINING", alpha=0.0)
    put(garden, 3, "GRAFTING", alpha=0.5)
    return model, garden


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        (
            "lifecycle_state",
            1,
            77,
            (
                "row 1 of the state tensor has the code 77, which is no state of 'lifecycle'; codes go "
                "from 0 to 10. Write codes through StateTensor.update"
            ),
        ),
        ("lifecycle_state", 4, -1, "row 4 of the state tensor has the code -1"),
        (
            "blueprint_slot",
            3,
            9,
            (
                "site '2', slot 0: blueprint_slot is 9, but the pool of kind 0 has 2 rows; let "
                "Garden.allocate give out rows"
            ),
        ),
        (
            "blueprint_id",
            0,
            5,
            "site '0', slot 0: blueprint_id is 5, but the site grows 1 kinds, numbered from 0",
        ),
        ("blueprint_id", 0, -1, "site '0', slot 0: blueprint_id is -1"),
        (
            "blueprint_slot",
            3,
            -2,
            (
                "site '2', slot 0: blueprint_slot is -2; legal: -1 for none, or a row that "
                "Garden.allocate has given out"
            ),
        ),
        (
            "blueprint_slot",
            3,
            -1,
            (
                "site '2', slot 0: blueprint_slot is -1, but in GRAFTING a seed holds a row of a pool; "
                "let Garden.allocate give it one, or write a state that needs none"
            ),
        ),
        (
            "blueprint_slot",
            2,
            0,
            (
                "site '0', slots 0 and 2: blueprint_slot is 0 of kind 0 at both, so they would be one "
                "seed; let Garden.allocate give out rows"
            ),
        ),
    ],
)
def test_a_column_that_names_what_is_not_there(
    column: str, row: int, value: int, message: str
) -> None:
    """Refused when the sites take it over; until it is mended they act as they did."""
    model, garden = model_and_garden()
    x = torch.randn(5, 4)
    expected = model(x)
    good = garden.state[column][row].clone()
    garden.state[column][row] = value
    with pytest.raises(SiteError, match=re.escape(message)):
        garden.refresh()
    assert torch.equal(model(x), expected)
    garden.state[column][row] = good
    garden.refresh()
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_an_alpha_that_is_nan(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Acts like 0, and counts as one element that is not finite: a Gardener takes the seed back."""
    monkeypatch.setenv("KASMINA_BACKEND", backend)
    model = grown(kinds="mlp", states=("GRAFTING", "GRAFTING"))
    garden, site = Garden.of(model), site_of(model)
    assert site.backend.backend == backend
    x = torch.randn(3, 6)
    host = site._inside(x)
    garden.state["alpha"][0] = torch.nan
    garden.refresh()
    first, *rest = site.chunks.split(model(x))
    assert torch.equal(first, site.chunks.split(host)[0])
    assert not torch.equal(rest[0], site.chunks.split(host)[1])
    assert garden.nonfinite().tolist() == [1, 0, 0, 0, 0]
    assert garden.any_nonfinite()


def test_a_host_on_another_device() -> None:
    """Its output and the seeds must be in one place."""
    _model, garden = model_and_garden()
    with pytest.raises(SiteError, match=r"^site '0': the host's output is on meta, its seeds are "):
        garden.sites["0"]._pass(None, torch.zeros(5, 6, device="meta"))


def test_a_host_that_gives_a_sparse_tensor() -> None:
    """No kernel and no twin reads one, so it is refused by name."""
    site = Site("", placement="inline", seeds=1, features=3)
    model = morph(nn.Identity(), [site], example=torch.eye(3))
    put(Garden.of(model), 0, "GRAFTING", alpha=0.5)
    with pytest.raises(SiteError) as error:
        model(torch.eye(3).to_sparse())
    assert str(error.value) == (
        "site '.': its output is torch.sparse_coo; seeds compute with strided tensors alone, so place "
        "the site behind .to_dense()"
    )


def test_a_kernel_that_cannot_be_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `auto` the twin takes over and says why, before any number is wrong; else an error."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model, other = grown(kinds="mlp"), grown(kinds="mlp")
    launched = []

    def broken(*arguments: object, **options: object) -> None:
        launched.append(arguments)
        raise RuntimeError("PTX codegen failed")

    for each in (model, other):
        launches = site_of(each)._launches
        assert launches is not None
        launches._kernels = {
            number: kernel._replace(backward=broken) for number, kernel in launches._kernels.items()
        }
    x = torch.randn(3, 6)
    what = r"a kernel cannot be used \(RuntimeError: PTX codegen failed\)"
    with pytest.raises(BackendError, match=rf"^KASMINA_BACKEND=triton, but on cpu {what}"):
        model(x)
    monkeypatch.setenv("KASMINA_BACKEND", "auto")
    with pytest.warns(RuntimeWarning, match=rf"^site '\.': the twins: {what}"):
        found = other(x)
    assert len(launched) == 2
    assert site_of(other).backend.backend == "torch"
    monkeypatch.setenv("KASMINA_BACKEND", "torch")
    assert torch.equal(found, grown(kinds="mlp")(x))


@pytest.mark.parametrize(
    ("which", "what"), [("forward", "output"), ("backward", "gradient of the input")]
)
def test_a_kernel_that_computes_something_else(
    which: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel is held against its twin before its first number is used; the counters stand still."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model = grown(kinds="mlp")
    launches = site_of(model)._launches
    assert launches is not None
    right = launches._kernels[0]
    wrong: list[Tensor] = []

    def off(*arguments: Any, **options: Any) -> None:
        getattr(right, which)(*arguments, **options)
        written = arguments[1 if which == "forward" else 2]
        wrong.append(written.mul_(2))

    launches._kernels = {0: right._replace(**{which: off})}
    monkeypatch.setenv("KASMINA_BACKEND", "auto")
    told = rf"a kernel cannot be used \(WrongKernel: its {what} is off by 1 of the norm in torch.float32\)"
    x = torch.randn(3, 6)
    with pytest.warns(RuntimeWarning, match=told):
        found = model(x)
    assert any(len(each) for each in wrong)
    assert site_of(model).backend.backend == "torch"
    assert not Garden.of(model).nonfinite().any()
    monkeypatch.setenv("KASMINA_BACKEND", "torch")
    assert torch.equal(found, grown(kinds="mlp")(x))


def test_a_kernel_that_measures_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Telemetry is held as well, before the controller reads its first figure."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model = grown(kinds="mlp")
    launches = site_of(model)._launches
    assert launches is not None
    right = launches._sampler

    def off(y: Tensor, sample: Tensor, **options: Any) -> None:
        right.sample(y, sample, **options)
        sample[:, 1].mul_(1.5)

    launches._sampler = right._replace(sample=off)
    with pytest.raises(BackendError, match="WrongKernel: its sums of squares of the input is off"):
        model(torch.randn(3, 6))


def test_a_wrong_kernel_that_was_asked_for_is_refused_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who catches the error and goes on gets it again, and no number of the kernel."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    model = grown(kinds="mlp")
    launches = site_of(model)._launches
    assert launches is not None
    right = launches._kernels[0]

    def off(*arguments: Any, **options: Any) -> None:
        right.forward(*arguments, **options)
        arguments[1].add_(1)

    launches._kernels = {0: right._replace(forward=off)}
    for _ in range(2):
        with pytest.raises(BackendError, match="WrongKernel: its output is off by"):
            model(torch.randn(3, 6))


@pytest.mark.parametrize(("written", "acts_as"), [(3.0, 1.0), (-2.0, 0.0), (torch.inf, 1.0)])
def test_an_alpha_beyond_its_ends_acts_as_the_end(written: float, acts_as: float) -> None:
    """Where it was written past `StateTensor.update`, which refuses it."""
    model, garden = model_and_garden()
    x, found = torch.randn(5, 4), []
    for alpha in (written, acts_as):
        garden.state["alpha"].fill_(alpha)
        garden.refresh()
        found.append(model(x).detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("placement", ["inline", "parallel"])
def test_a_dtype_that_kernels_do_not_compute_in_is_told(
    placement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twins compute it; kernels go on with the next tensor that is theirs."""
    monkeypatch.setenv("KASMINA_BACKEND", "triton")
    site = Site("", placement=placement, seeds=2, blueprint="affine")  # type: ignore[arg-type]
    model = morph(nn.Linear(4, 4), [site])
    put(Garden.of(model), 0, "GRAFTING", alpha=0.5)
    (layer,) = Garden.of(model).sites.values()
    for dtype, backend in (
        (torch.float32, "triton"),
        (torch.float64, "torch"),
        (torch.float32, "triton"),
    ):
        model.to(dtype)(torch.randn(3, 4, dtype=dtype))
        assert layer.backend.backend == backend
        assert ("the last pass was in torch.float64" in layer.backend.why) == (backend == "torch")


def test_parameters_of_other_strides_are_packed() -> None:
    """Kernels read them row by row; a file keeps strides."""
    model, garden = model_and_garden()
    x = torch.randn(5, 4)
    before, state = model(x).detach(), model.state_dict()
    for name, value in state.items():
        if value.dim() == 3:
            state[name] = value.mT.contiguous().mT
    model.load_state_dict(state, assign=True)
    assert any(not value.is_contiguous() for value in state.values())
    assert all(parameter.is_contiguous() for parameter in garden.parameters())
    assert torch.equal(model(x), before)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("kind", ["mlp", "gated", "low_rank"])
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_units_that_float16_cannot_hold_are_the_identity(
    kind: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What B could have made of them is small, and it has not: nothing goes backwards through it."""
    monkeypatch.setenv("KASMINA_BACKEND", backend)
    site = Site("", placement="inline", seeds=1, blueprint=kind, hidden=2, mode="residual")
    model = morph(nn.Linear(4, 4, bias=False).half(), [site])
    garden = Garden.of(model)
    put(garden, 0, "GRAFTING", alpha=0.5)
    (layer,) = garden.sites.values()
    pool = layer.pool(kind).stacked()
    with torch.no_grad():
        model.get_parameter("weight").copy_(torch.eye(4))
        for name, parameter in pool.items():
            parameter.fill_(
                {"up": 100.0, "down": 100.0, "gate": 1.0, "out": 1e-3}[name.split("_")[0]]
            )
            if name.endswith("_bias"):
                parameter.zero_()
    x = torch.full((1, 4), 300.0, dtype=torch.float16, requires_grad=True)
    y = model(x)
    torch.autograd.backward(y, torch.ones_like(y))
    assert layer.backend.backend == backend
    assert torch.equal(y, x)
    assert garden.nonfinite().tolist() == [4]
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))
    assert garden.alpha_gradient().tolist() == [0.0]
    assert all(p.grad is None or not p.grad[0].any() for p in pool.values())
