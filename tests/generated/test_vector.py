"""The vector step: what it leaves alone, what it counts, what it refuses, and what it compiles to."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.generated.packages import SPECS, Package, built
from tests.generated.packages import package as named
from tests.generated.shapes import SHAPES
from tests.generated.test_agreement import shape
from tests.generated.ways import boundary_batch


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The default lifecycle."""
    return named("lifecycle", tmp_path_factory.mktemp("package"))


def forget_graphs() -> None:
    """Let Dynamo begin anew."""
    torch.compiler.reset()


def rows(package: Package, n: int = 400) -> tuple[Any, ...]:
    """N rows in all states with measurements around their limits."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.tensor([int(state) for state in package.lifecycle.State], dtype=torch.int8)
    state = codes[torch.randint(len(codes), (n,), generator=generator)]
    epochs = torch.randint(40, (n,), generator=generator, dtype=torch.int16)
    events = torch.randint(8, (n,), generator=generator, dtype=torch.int32)
    columns = {
        name: torch.rand(n, generator=generator) * 2 - 0.5
        for name in package.field_names
        if package.dtype(name).is_floating_point
    }
    return state, epochs, events * (events > 5), package.context(n, **columns)


def test_inputs_are_never_written(package: Package) -> None:
    """A step returns new tensors and leaves every input as it was."""
    state, epochs, events, context = rows(package)
    limits = package.limits(max_training=1, max_cohort=1)
    inputs = [state, epochs, events, *context, *limits]
    before = [tensor.clone() for tensor in inputs]
    decision = package.vector.step(state, epochs, events, context, limits, True)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    held = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    assert not held & {tensor.untyped_storage().data_ptr() for tensor in decision}


def test_shapes_and_dtypes(package: Package) -> None:
    """State int8, epochs as they came, edge int32, refused bool; no row is no special case."""
    for n in (0, 1, 7):
        state, epochs, events, context = rows(package, n)
        for dtype in (torch.int16, torch.int32):
            decision = package.vector.step(
                state, epochs.to(dtype), events, context, package.limits(), tick=True
            )
            assert [t.dtype for t in decision] == [torch.int8, dtype, torch.int32, torch.bool]
            assert all(t.shape == (n,) for t in decision)


def test_the_tick_may_be_a_tensor(package: Package) -> None:
    """A 0-d bool tensor means the same as a bool."""
    inputs = (*rows(package), package.limits())
    for tick in (False, True):
        plain = package.vector.step(*inputs, tick)
        as_tensor = package.vector.step(*inputs, torch.tensor(tick))
        assert all(torch.equal(a, b) for a, b in zip(plain, as_tensor, strict=True))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_epochs_saturate(package: Package, dtype: torch.dtype) -> None:
    """The counter stays at 32767 in every dtype; guards are proved up to there."""
    idle = torch.zeros(3, dtype=torch.int8)
    epochs = torch.tensor([32765, 32766, 32767], dtype=dtype)
    events = torch.zeros(3, dtype=torch.int32)
    step = package.vector.step
    decision = step(idle, epochs, events, package.context(3), package.limits(), True)
    assert decision.epochs.tolist() == [32766, 32767, 32767]
    decision = step(idle, epochs, events, package.context(3), package.limits(), False)
    assert decision.epochs.tolist() == [32765, 32766, 32767]


@pytest.mark.parametrize("code", [-1, 11, 100])
def test_a_code_that_no_state_has_is_an_error(package: Package, code: int) -> None:
    """A row outside the machine raises instead of moving somewhere."""
    state = torch.tensor([0, code], dtype=torch.int8)
    zero = torch.zeros(2, dtype=torch.int32)
    with pytest.raises(IndexError, match=rf"^row 1: {code} is the code of no state$"):
        package.vector.step(state, zero, zero, package.context(2), package.limits(), True)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_refused_infinity_names_field_and_row(package: Package, value: float) -> None:
    """What the spec refuses raises before anything is decided."""
    zero = torch.zeros(3, dtype=torch.int32)
    context = package.context(3, stability=[0.0, 0.0, value])
    with pytest.raises(ValueError, match=r"^context field 'stability', row 2: infinity is refused"):
        package.vector.step(zero.to(torch.int8), zero, zero, context, package.limits(), True)


def test_a_sum_that_overflows_refuses_nothing(package: Package) -> None:
    """Large numbers are no infinities."""
    zero = torch.zeros(2, dtype=torch.int32)
    context = package.context(2, stability=[3e38, 3e38])
    package.vector.step(zero.to(torch.int8), zero, zero, context, package.limits(), True)


def test_refused_nan_names_field_and_row(tmp_path: Path) -> None:
    """The same for NaN, in another machine."""
    package = named("orders", tmp_path)
    zero = torch.zeros(2, dtype=torch.int32)
    context = package.context(2, price=[math.nan, 1.0])
    with pytest.raises(ValueError, match=r"^context field 'price', row 0: NaN is refused"):
        package.vector.step(zero.to(torch.int8), zero, zero, context, package.limits(), True)


@pytest.mark.parametrize("name", [*SPECS])
def test_normalising_is_what_context_does(name: str, tmp_path: Path) -> None:
    """Each field's policy gives the same value in torch and in Python."""
    package = named(name, tmp_path)
    for field, rule in package.lifecycle.CONTEXT_FIELDS.items():
        for value in sample_values(rule):
            seen = package.vector.normalise(package.context(1, **{field: [value]}))
            python = getattr(package.lifecycle.Context(**{field: value}), field)
            assert repr(getattr(seen, field).item()) == repr(python), (field, value)


@pytest.mark.parametrize("name", [*SPECS])
def test_normalising_means_the_same_compiled(name: str, tmp_path: Path) -> None:
    """It is written another way there, because other operations are cheap."""
    package = named(name, tmp_path)
    rules = package.lifecycle.CONTEXT_FIELDS
    samples = {field: sample_values(rule, every=True) for field, rule in rules.items()}
    n = max(len(values) for values in samples.values())
    columns = {field: (values * n)[:n] for field, values in samples.items()}
    forget_graphs()
    compiled: Any = torch.compile(package.vector.normalise, fullgraph=True, backend="eager")
    traced = compiled(package.context(n, **columns))
    plain = package.vector.normalise(package.context(n, **columns))
    for a, b in zip(traced, plain, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
        assert torch.equal(a.nan_to_num(nan=7.0), b.nan_to_num(nan=7.0))
    forget_graphs()


def sample_values(rule: Any, every: bool = False) -> list[Any]:
    """Values inside, outside, and special: all of them, or those that are not refused."""
    if rule.dtype == "bool":
        return [False, True]
    if rule.dtype == "int32":
        return [-5, 0, 3, 2**31 - 1, -(2**31)]
    nan = [] if rule.nan == "refuse" and not every else [math.nan]
    infinities = [] if rule.infinity == "refuse" and not every else [math.inf, -math.inf]
    return [-1e30, -1.0, 0.3, 0.7, 1.0, 1e30, *nan, *infinities]


@pytest.mark.parametrize("name", [*SPECS, *SHAPES])
def test_a_compiled_step_decides_as_the_table_does(name: str, tmp_path: Path) -> None:
    """Edges are tried there, at every boundary; the table is for what is not compiled."""
    package = shape(name, tmp_path) if name in SHAPES else named(name, tmp_path)
    batch, limits = boundary_batch(package, {}, 300), package.limits()
    forget_graphs()
    compiled: Any = torch.compile(package.vector.decide, fullgraph=True, backend="eager")
    for tick in (torch.tensor(False), torch.tensor(True)):
        tried, found = compiled(*batch, limits, tick), package.vector.decide(*batch, limits, tick)
        assert all(torch.equal(a, b) for a, b in zip(tried, found, strict=True))
    forget_graphs()


def test_nothing_is_recompiled(package: Package) -> None:
    """Limits, ticks, states and commands are data: one graph serves them all."""
    graphs: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    forget_graphs()
    compiled: Any = torch.compile(package.vector.decide, fullgraph=True, backend=backend)
    inputs = rows(package)
    for limits in ({}, {"min_stability": 0.1}, {"max_reconstruction_loss": 3.0, "max_cohort": 2}):
        for tick in (torch.tensor(True), torch.tensor(False)):
            eager = package.vector.decide(*inputs, package.limits(**limits), tick)
            traced = compiled(*inputs, package.limits(**limits), tick)
            assert all(torch.equal(a, b) for a, b in zip(eager, traced, strict=True))
    assert len(graphs) == 1
    forget_graphs()


def test_a_compiled_step_needs_no_tables_on_a_new_device(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing need have run there before; as if this CPU were new."""
    inputs = (*rows(package), package.limits(), torch.tensor(True))
    eager = package.vector.decide(*inputs)
    monkeypatch.setattr(package.vector, "_ON_DEVICE", {})
    forget_graphs()
    compiled: Any = torch.compile(package.vector.decide, fullgraph=True, backend="eager")
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(compiled(*inputs), eager, strict=True))
    assert not package.vector._ON_DEVICE
    assert torch.equal(package.vector.decide(*inputs).edge, eager.edge)
    assert list(package.vector._ON_DEVICE) == [torch.device("cpu")]
    forget_graphs()


def test_the_scan_compiles_as_one_graph(tmp_path: Path) -> None:
    """A machine that is too wide for a table compiles as well."""
    path = tmp_path / "wide.yaml"
    path.write_text(SHAPES["wide"])
    package = built(path, tmp_path / "wide")
    zero = torch.zeros(4, dtype=torch.int32)
    inputs = (zero.to(torch.int8), zero, zero, package.context(4, f3=[0, 9, 4, 5]))
    forget_graphs()
    compiled: Any = torch.compile(package.vector.decide, fullgraph=True, backend="eager")
    decision = compiled(*inputs, package.limits(), torch.tensor(True))
    assert decision.edge.tolist() == [-1, 3, -1, 3]
    forget_graphs()
