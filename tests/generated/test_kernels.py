"""The step in Triton: what it leaves alone, what it refuses, what it records, what it compiles to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch

from kasmina.lifecycle import Lifecycle, StateTensor
from kasmina.lifecycle import step as runtime_step
from kasmina_generated.vector import VectorContext
from tests.generated.packages import Package, package
from tests.generated.ways import Batch, boundary_batch, part
from tests.helpers import ROOT, run_python

pytestmark = pytest.mark.no_cover


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The default lifecycle: two capacities, both by epochs."""
    return package("lifecycle", tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Orders: arithmetic guards, a capacity by a float field, two kinds of refusal."""
    return package("orders", tmp_path_factory.mktemp("orders"))


def rows(found: Package, n: int) -> Batch:
    """N rows at boundaries of all states."""
    batch = boundary_batch(found, {}, 200)
    generator = torch.Generator().manual_seed(n)
    return batch.at(torch.randint(len(batch.state), (n,), generator=generator))


@pytest.mark.parametrize("n", [0, 1, 2, 63, 1000])
@pytest.mark.parametrize("dtype", [torch.int16, torch.int32])
def test_any_number_of_rows(seeds: Package, n: int, dtype: torch.dtype) -> None:
    """One row, none, and numbers that fill no block; epochs keep their dtype."""
    batch = rows(seeds, n)
    batch = batch._replace(epochs=batch.epochs.to(dtype))
    limits = seeds.limits(max_training=2, max_cohort=3)
    for tick in (False, True, torch.tensor(True)):
        wanted = seeds.vector.step(*batch, limits, tick)
        found = part(seeds, "kernels.step").step(*batch, limits, tick)
        assert type(found) is seeds.vector.Decision
        assert [t.dtype for t in found] == [torch.int8, dtype, torch.int32, torch.bool]
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_inputs_are_never_written(seeds: Package) -> None:
    """A step returns new tensors and leaves every input as it was."""
    batch, limits = rows(seeds, 300), seeds.limits(max_training=1, max_cohort=1)
    inputs = [batch.state, batch.epochs, batch.events, *batch.context, *limits]
    before = [tensor.numpy().tobytes() for tensor in inputs]
    decision = part(seeds, "kernels.step").step(*batch, limits, True)
    assert [tensor.numpy().tobytes() for tensor in inputs] == before
    held = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    assert not held & {tensor.untyped_storage().data_ptr() for tensor in decision}


def test_columns_of_a_matrix_may_be_given(seeds: Package) -> None:
    """Measurements that do not lie one after the other mean the same."""
    batch = rows(seeds, 100)
    strided = type(batch.context)(*(torch.stack([c, c], 1)[:, 0] for c in batch.context))
    step = part(seeds, "kernels.step").step
    plain = step(*batch, seeds.limits(), True)
    found = step(*batch._replace(context=strided), seeds.limits(), True)
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_refused_measurement_names_field_and_row(orders: Package, value: float) -> None:
    """Word for word as the vector step says it."""
    batch = rows(orders, 9)
    batch.context.price[[4, 7]] = value
    messages = []
    for step in (orders.vector.step, part(orders, "kernels.step").step):
        with pytest.raises(ValueError, match=r"^context field 'price', row 4: ") as told:
            step(*batch, orders.limits(), True)
        messages.append(str(told.value))
    assert messages[0] == messages[1]


def test_a_code_of_no_state_is_refused(seeds: Package) -> None:
    """No table is read beyond its end; without arbitration such a row stays where it is."""
    batch = rows(seeds, 9)
    batch.state[[3, 5]] = torch.tensor([99, -1], dtype=torch.int8)
    steps = part(seeds, "kernels.step")
    with pytest.raises(IndexError, match=r"^row 3: 99 is the code of no state$"):
        steps.step(*batch, seeds.limits(), True)
    decision = steps.decide(*batch, seeds.limits(), True)
    assert decision.state[[3, 5]].tolist() == [99, -1]
    assert decision.edge[[3, 5]].tolist() == [-1, -1]


def test_inputs_that_do_not_fit_are_refused(seeds: Package) -> None:
    """A kernel would read beyond their ends."""
    batch = rows(seeds, 9)
    step = part(seeds, "kernels.step").step
    with pytest.raises(
        ValueError, match=r"^epochs has 8 rows on cpu; it must be like the states: 9 "
    ):
        step(*batch._replace(epochs=batch.epochs[:8]), seeds.limits(), True)
    short = batch.context._replace(alpha=batch.context.alpha[:1])
    with pytest.raises(
        ValueError, match=r"^alpha has 1 rows on cpu; it must be like the states: 9 "
    ):
        step(*batch._replace(context=short), seeds.limits(), True)


def test_too_many_rows_are_refused(seeds: Package) -> None:
    """Rows are counted in int32."""
    many = 2**30 + 1
    state, epochs, events, context = rows(seeds, 1)
    wide = type(context)(*(column.expand(many) for column in context))
    inputs = (state.expand(many), epochs.expand(many), events.expand(many), wide)
    with pytest.raises(
        ValueError, match=r"^1073741825 rows at once; a step takes at most 1073741824$"
    ):
        part(seeds, "kernels.step").decide(*inputs, seeds.limits(), True)


ON_A_CPU = """
import torch
from kasmina_generated.kernels.step import step
from kasmina_generated.lifecycle import Context, Limits
from kasmina_generated.vector import VectorContext, VectorLimits
from dataclasses import astuple

row = torch.zeros(1, dtype=torch.int32)
context = VectorContext(*(torch.tensor([value]) for value in astuple(Context())))
limits = VectorLimits(*map(torch.tensor, astuple(Limits())))
step(row.to(torch.int8), row, row, context, limits, True)
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without a GPU")
def test_where_no_kernel_can_run_it_says_what_to_do() -> None:
    """Compiled kernels refuse rows that are on no GPU."""
    done = run_python(ON_A_CPU, environment={"TRITON_INTERPRET": "0"})
    assert "the rows are on cpu and kernels run on a GPU; use vector.step, or set" in done.stderr


def test_the_core_loads_neither_kernels_nor_tests() -> None:
    """Who steps with torch waits for no Triton, and needs no Hypothesis."""
    code = """
import sys
import kasmina_generated.machine, kasmina_generated.vector, kasmina_generated.state
extra = ("kasmina_generated.kernels", "kasmina_generated.testing", "triton", "hypothesis")
sys.exit(str([name for name in sys.modules if name.startswith(extra)]))
"""
    assert run_python(code).stderr == "[]\n"


SHAPES = {"one tile": None, "many tiles and programs": (32, 16, 2)}


def cut(found: Package, shape: tuple[int, int, int] | None, monkeypatch: MonkeyPatch) -> None:
    """Let the step's launch have other tiles, chunks and programs than the interpreter's."""
    if shape is None:
        return
    launch, (tile, chunk, programs) = part(found, "kernels.launch"), shape

    def shape_of(n: int, device: torch.device) -> Any:
        return launch.Shape(tile, chunk, max(1, min(programs, -(-n // tile))), 1)

    monkeypatch.setattr(launch, "shape_of", shape_of)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_in_place_is_that_of_the_runtime(
    seeds: Package, shape: str, monkeypatch: MonkeyPatch
) -> None:
    """All columns, over steps that recycle, fill the ring and find no room, at ticks and between."""
    cut(seeds, SHAPES[shape], monkeypatch)
    whole = SHAPES[shape] is None  # the interpreter's cost is by tile
    n, steps = (500, 60) if whole else (90, 12)
    limits = seeds.limits(max_training=n // 25, max_cohort=n // 50)
    generator = torch.Generator().manual_seed(0)
    lifecycle = Lifecycle.default()
    state = StateTensor(n, lifecycle=lifecycle)
    columns = {name: column.clone() for name, column in state.columns.items()}
    work = part(seeds, "kernels.launch").Workspace(columns["lifecycle_state"])
    refused = 0
    for number in range(steps):
        for name in ("alpha", "ramp_steps", "metrics", "checkpoint_id", "error_count"):
            columns[name].copy_(state[name].fill_(number % 2))
        given, measured, tick = commands(lifecycle, n, generator), context(n, generator), number % 5
        result = runtime_step(state, given, measured, limits, tick > 0)
        part(seeds, "kernels.step").advance(
            columns, given, measured, limits, torch.tensor(tick > 0), work
        )
        for name, column in state.columns.items():
            assert torch.equal(columns[name], column), name
        assert torch.equal(work.edge, result.edge.masked_fill(result.refused, -2))
        refused += int(result.refused.sum())
    part(seeds, "kernels.step").check(columns["lifecycle_state"], work)
    assert refused > 20
    assert int(state["generation"].max()) > 0 or not whole
    assert int(state["history_count"].max()) > (10 if whole else 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [1, 33, 100])
def test_any_cut_gives_the_same_decision(
    orders: Package, n: int, shape: str, monkeypatch: MonkeyPatch
) -> None:
    """Rows at tiles' and chunks' ends; capacities by a float and by row."""
    cut(orders, SHAPES[shape], monkeypatch)
    batch = rows(orders, n)
    for limits in (orders.limits(packers=1, vans=2), orders.limits(packers=50, vans=1000)):
        wanted = orders.vector.step(*batch, limits, True)
        found = part(orders, "kernels.step").step(*batch, limits, True)
        assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_a_step_in_place_reports_what_it_refuses(seeds: Package) -> None:
    """By a tensor that stays until it is read; other rows are stepped, a row out of the table stays."""
    columns = {name: column.clone() for name, column in StateTensor(9).columns.items()}
    columns["lifecycle_state"][[3, 5]] = torch.tensor([99, -1], dtype=torch.int8)
    steps = part(seeds, "kernels.step")
    work = part(seeds, "kernels.launch").Workspace(columns["lifecycle_state"])
    measured = seeds.context(9, alpha=[0.0] * 7 + [float("inf"), -float("inf")])
    germinate = torch.full((9,), 1 << seeds.lifecycle.Event.request_germination, dtype=torch.int32)
    steps.advance(columns, germinate, measured, seeds.limits(), True, work)
    assert work.faults.tolist() == [9 - 3, 9 - 7, 0]
    assert columns["lifecycle_state"].tolist() == [1, 1, 1, 99, 1, -1, 1, 1, 1]
    assert columns["epochs_in_state"].tolist() == [0, 0, 0, 1, 0, 1, 0, 0, 0]
    quiet = torch.zeros(9, dtype=torch.int32)
    steps.advance(columns, quiet, seeds.context(9), seeds.limits(), False, work)
    with pytest.raises(IndexError, match=r"^row 3: 99 is the code of no state$"):
        steps.check(columns["lifecycle_state"], work)
    steps.check(columns["lifecycle_state"], work)  # said once
    columns["lifecycle_state"].fill_(0)
    steps.advance(columns, quiet, measured, seeds.limits(), False, work)
    with pytest.raises(
        ValueError, match=r"^context field 'alpha', row 7: infinity is refused"
    ) as told:
        steps.check(columns["lifecycle_state"], work)
    assert told.value.__notes__[0].startswith("declared at lifecycle.yaml:")


def test_columns_that_do_not_fit_are_refused(seeds: Package) -> None:
    """They are written where they are: all of them, one row a seed, one after the other."""
    columns = {name: column.clone() for name, column in StateTensor(4).columns.items()}
    launch, steps = part(seeds, "kernels.launch"), part(seeds, "kernels.step")
    work = launch.Workspace(columns["lifecycle_state"])
    inputs = (torch.zeros(4, dtype=torch.int32), seeds.context(4), seeds.limits(), True)
    strided = columns | {"history": torch.zeros((10, 4), dtype=torch.int8).T}
    with pytest.raises(ValueError, match=r"^history is not contiguous; the kernel writes it where"):
        steps.advance(strided, *inputs, work)
    short = columns | {"metrics": torch.zeros((3, 4))}
    with pytest.raises(ValueError, match=r"^metrics has 3 rows on cpu; it must be like the states"):
        steps.advance(short, *inputs, work)
    missing = {name: column for name, column in columns.items() if name != "generation"}
    with pytest.raises(
        KeyError, match=r"the column 'generation' is missing; a step writes lifecyc"
    ):
        steps.advance(missing, *inputs, work)
    other = launch.Workspace(torch.zeros(5, dtype=torch.int8))
    with pytest.raises(ValueError, match=r"^the workspace is for 5 rows, and there are 4$"):
        steps.advance(columns, *inputs, other)
    assert all(torch.equal(columns[name], c) for name, c in StateTensor(4).columns.items())


def commands(lifecycle: Lifecycle, n: int, generator: torch.Generator) -> torch.Tensor:
    """Germinate often, cancel sometimes."""
    drawn = torch.rand(n, generator=generator)
    event = lifecycle.Event
    germinate = torch.where(drawn < 0.5, 1 << event["request_germination"], 0)
    return torch.where(drawn > 0.9, 1 << event["cancel"], germinate).int()


def context(n: int, generator: torch.Generator) -> VectorContext:
    """Anything, alpha at its ends."""

    def noise() -> torch.Tensor:
        return torch.rand(n, generator=generator) * 2 - 0.5

    return VectorContext(
        reconstruction_loss=noise(), validation_gain=noise().clamp(max=1.0),
        stale_epochs=torch.randint(6, (n,), generator=generator, dtype=torch.int32),
        alpha=torch.randint(2, (n,), generator=generator).float(), stability=noise().clamp(0, 1),
        evaluation_score=noise(), improvement=noise(),
    )  # fmt: skip


def test_guards_compile_to_exact_arithmetic(orders: Package) -> None:
    """For a GPU: divisions round correctly, no product is fused with a sum, nothing is flushed.

    Fusing is what the compiler does when it is let: the option is needed, and it is given.
    """
    directory = Path(orders.vector.__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "tests.generated.compiled", directory],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    exact = {row["kernel"]: row for row in told if not row["fused"]}
    assert set(exact) == {"_step_rows", "_arbitrate"}
    assert exact["_step_rows"]["divisions"] == ["div.rn.f32"]
    assert not any(row["fma"] or row["flushes"] for row in exact.values())
    assert any(row["fma"] for row in told if row["fused"])
