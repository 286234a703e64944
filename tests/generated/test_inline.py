"""Every inline kernel against a plain loop in float64: values, counts and each gradient by name."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kasmina_generated.kernels import tiling
from kasmina_generated.kernels.catalogue import DTYPES, MODES, TEXTS
from kasmina_generated.kernels.sample import gather, sample
from kasmina_generated.kernels.tiling import Tiles, new_measures
from tests.generated.chunks import (
    SMALL,
    UNTOUCHED,
    Case,
    Results,
    differences,
    inputs_of,
    kind_of,
    run,
    wanted,
)
from tests.generated.compiled_inline import KERNELS
from tests.helpers import PACKAGES, ROOT

HALF, BRAIN = torch.float16, torch.bfloat16
CASES = {
    "chunk 1": Case(1, 5, 5, hidden=3, tiles=SMALL),
    "chunk 3, replace": Case(33, 5, 15, replace=True),
    "chunk 5": Case(18, 7, 35, hidden=8, tiles=SMALL, dtype=HALF),
    "chunk 12, uneven, strided": Case(65, 4, 46, hidden=5, strided=True, replace=True),
    "chunk 16": Case(70, 9, 144, hidden=16),
    "chunk 16, in place, bfloat16": Case(70, 9, 144, hidden=16, dtype=BRAIN, listed=True),
    "chunk 64, blocks of units": Case(40, 3, 192, hidden=70, replace=True),
    "chunk 64, in place, float16": Case(40, 3, 192, dtype=HALF, replace=True, listed=True),
    "chunk 100, uneven": Case(40, 3, 299, hidden=20),
    "chunk 256, bfloat16": Case(20, 2, 512, hidden=10, dtype=BRAIN),
    "no rows": Case(0, 4, 64),
    "splits, uneven, bfloat16": Case(37, 7, 47, tiles=SMALL, dtype=BRAIN, replace=True),
    "broken": Case(30, 9, 27, hidden=3, tiles=SMALL, broken=True),
    "broken, in place": Case(30, 9, 45, tiles=SMALL, broken=True, listed=True, replace=True),
    "broken, blocks of units": Case(18, 3, 192, hidden=70, tiles=Tiles(rows=16), broken=True),
}  # fmt: skip
# Two more activations in the text of `mlp_relu`: each layout, dtype and block of it is that one's.
ALIKE = {
    "mlp_gelu": ("chunk 3, replace", "chunk 5", "splits, uneven, bfloat16", "broken, in place"),
    "mlp_silu": ("chunk 3, replace", "chunk 16, in place, bfloat16", "broken"),
}
COVERING = ("chunk 3, replace",)  # takes every line that is measured: those outside of kernels
PAIRS = [
    pytest.param(
        *(text, case),
        marks=[
            *([pytest.mark.long] if name not in ALIKE.get(text, CASES) else []),
            *([pytest.mark.no_cover] if name not in COVERING else []),
        ],
        id=f"{text}-{name}",
    )
    for text in TEXTS
    for name, case in CASES.items()
]


def faults(text: str, case: Case) -> list[str]:
    """Return what the kernels of a text give otherwise than the loop."""
    kind = kind_of(text, case)
    inputs = inputs_of(kind, case)
    found = run(text, case, inputs)
    return differences(found, wanted(kind, case, inputs), kind.shapes(), case.dtype)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy on NaN, in the interpreter
@pytest.mark.parametrize(("text", "case"), PAIRS)
def test_a_kernel_gives_what_the_loop_gives(text: str, case: Case) -> None:
    """Nothing is left unwritten, and nothing else is written."""
    assert faults(text, case) == []


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_cases_are_not_empty(case: Case) -> None:
    """Some chunks are mixed and some are not, and what is broken is."""
    inputs = inputs_of(kind_of("mlp_relu", case), case)
    assert inputs.joint.any()
    assert not inputs.mixed.all()
    if case.n:
        assert all(t.isfinite().all() for t in (inputs.x, *inputs.parameters)) is not case.broken


def same(one: Results, other: Results) -> bool:
    """Whether two results have the same bits."""
    pairs = zip([*one[:4], *one.gradients], [*other[:4], *other.gradients], strict=True)
    return all(a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes() for a, b in pairs)


@pytest.mark.parametrize("text", ["gated", "affine"])
@pytest.mark.no_cover
def test_the_same_inputs_give_the_same_bits_again(text: str) -> None:
    """Whatever order the programs run in: nothing is added up by whoever comes first."""
    case = Case(37, 3, 48, tiles=SMALL)
    inputs = inputs_of(kind_of(text, case), case)
    assert inputs.mixed.any()
    first, second = run(text, case, inputs), run(text, case, inputs)
    assert same(first, second)


def test_a_kernel_that_is_wrong_is_told() -> None:
    """The comparison sees a changed number, a missing one and a lost count."""
    case = CASES["chunk 16"]
    kind = kind_of("mlp_relu", case)
    inputs = inputs_of(kind, case)
    right = wanted(kind, case, inputs)
    row, chunk = int(inputs.rows[inputs.joint][0]), int(inputs.mixed.nonzero()[0])
    wrong = Results(
        out=right.out + 1e-3,
        nonfinite=right.nonfinite + (torch.arange(9) == chunk),
        sample=right.sample,
        gx=right.gx.index_fill(0, torch.tensor([3]), torch.nan),
        gradients=tuple(g.index_fill(0, torch.tensor([row]), UNTOUCHED) for g in right.gradients),
        alpha_gradient=right.alpha_gradient,
    )
    told = differences(wrong, right, kind.shapes(), case.dtype)
    assert [line.partition(":")[0] for line in told] == ["out", "gx", *kind.shapes(), "nonfinite"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.no_cover
def test_what_nobody_wrote_is_not_read(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listed chunk in a state without gradients has no sums in `partial`.

    Fresh memory holds signalling NaN here: NumPy warns where one is added up, and that fails.
    """
    case = Case(39, 8, 69, hidden=15, mixed=True, listed=True, tiles=SMALL, seed=263)
    inputs = inputs_of(kind_of(text, case), case)
    given: list[torch.Tensor] = []

    def empty(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        given.append(torch.full(size, 0x7F800001, dtype=torch.int32, device=device).view(dtype))
        return given[-1]

    monkeypatch.setattr(torch, "empty", empty)
    assert (inputs.mixed & ~inputs.joint).any()
    assert faults(text, case) == []
    assert len(given) == 1


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("hidden", [2, 7, 16, 32, 64, 100, 128, 300])
@pytest.mark.parametrize("width", [1, 3, 5, 16, 48, 64, 100, 128, 200, 256])
def test_products_are_as_large_as_four_warps_and_shared_memory_bear(
    width: int, hidden: int, size: int
) -> None:
    """Every unit is in a block, every block in its lanes, and a weight in what shared memory has."""
    shape = tiling.shape_of(tiling.Tiles(), 64, width, hidden, size)
    assert shape.options.get("num_warps", 4) <= 4
    assert shape.group * width <= shape.columns
    assert shape.group * shape.units <= shape.lanes
    assert (shape.blocks - 1) * shape.units < hidden <= shape.blocks * shape.units
    assert shape.lanes <= 16 or shape.lanes * shape.columns * size <= 2**14


@pytest.mark.parametrize("text", [text for text in TEXTS if text != "affine"])
@pytest.mark.parametrize(
    ("dtype", "width", "hidden", "refused"),
    [
        (HALF, 64, 129, True),
        (BRAIN, 64, 129, True),
        (BRAIN, 65, 65, True),
        (BRAIN, 64, 128, False),
        (BRAIN, 128, 64, False),
        (BRAIN, 32, 300, False),
        (BRAIN, 256, 256, False),
        (torch.float32, 128, 300, False),
    ],
)
def test_a_gpu_gets_no_kernel_that_its_compiler_breaks(
    text: str, dtype: torch.dtype, width: int, hidden: int, refused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Several blocks of large products gave wrong gradients on an H200, in half precision alone."""
    module = importlib.import_module(f"kasmina_generated.kernels.inline_{text}_backward")
    monkeypatch.setattr(module, "INTERPRETED", False)
    launches = partial(
        module._launches, 40, 3 * width, (3 * width, 1) * 3, (dtype,) * 9, torch.device("cpu"), 3,
        (3, hidden, width), 0, False, Tiles(), None,
    )  # fmt: skip
    if not refused:
        launches()
        return
    told = (
        rf"^{hidden} hidden units of a chunk of {width} features in {dtype}; on a GPU, Triton 3.6 "
    )
    with pytest.raises(NotImplementedError, match=told):
        launches()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small cases of all kinds."""
    chunks = draw(st.integers(1, 8))
    width = draw(st.sampled_from([1, 2, 3, 5, 8, 12, 16, 20]))
    return Case(
        n=draw(st.integers(0, 40)),
        chunks=chunks,
        features=chunks * width + draw(st.integers(0, chunks - 1)),
        hidden=draw(st.integers(1, 20)),
        dtype=getattr(torch, draw(st.sampled_from(DTYPES))),
        replace=draw(st.sampled_from(MODES["inline"])) == "replace",
        listed=draw(st.booleans()),
        strided=draw(st.booleans()),
        mixed=draw(st.booleans()),
        tiles=draw(st.sampled_from([SMALL, Tiles(), Tiles(32, 16, 9, stages=1)])),
        seed=draw(st.integers(0, 1000)),
    )


@pytest.mark.parametrize("examples", [15, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.no_cover
def test_any_shape_and_any_mix_of_states(examples: int) -> None:
    """Sizes, tiles, dtypes, modes, layouts, states, kinds and rows as they come."""

    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(st.sampled_from(list(TEXTS)), cases())
    def search(text: str, case: Case) -> None:
        assert faults(text, case) == []

    search()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize(("n", "features", "chunks"), [(0, 8, 2), (1, 7, 3), (130, 100, 9), (33, 300, 1)])  # fmt: skip
def test_a_sample_measures_every_chunk(n: int, features: int, chunks: int, bad: bool) -> None:
    """Sum, sum of squares, maximum and the number of what is not finite."""
    case = Case(n, chunks, features)
    x = torch.randn(features, n, generator=torch.Generator().manual_seed(n)).T
    if bad and n:
        x[0, 0], x[n - 1, features - 1] = torch.nan, torch.inf
    found = torch.full((chunks, 4), UNTOUCHED)
    sample(x, found, tiles=SMALL)
    for chunk, columns in enumerate(case.slices()):
        v = x[:, columns].double()
        most = v.max() if v.numel() else torch.tensor(-torch.inf)
        lost = (~v.isfinite()).sum()
        want = torch.stack([v.sum(), v.square().sum(), most, lost])
        torch.testing.assert_close(
            found[chunk].double(), want, rtol=1e-5, atol=1e-4, equal_nan=True
        )


@pytest.mark.parametrize("left", [1e30, -5.0, float("nan"), float("inf"), 500.0])
def test_a_column_that_was_not_measured_leads_nowhere(left: float) -> None:
    """How many splits there are is read from memory; what stood there before ends at its room."""
    x, found = torch.ones(20, 12), torch.zeros(3, 4)
    measures = torch.full_like(new_measures(x), 2.0)
    measures[-1] = 3.0
    measures[-1, 4:8] = left
    reached = torch.cat((measures.flatten(), torch.full((4096,), torch.nan)))
    gather(x, reached[: measures.numel()].view_as(measures), found)
    assert found[0].tolist() == found[2].tolist() == [24.0, 24.0, 2.0, 0.0]
    assert not found[1].isnan().any()


class _At(NamedTuple):
    """What a launch asks of a tensor."""

    address: int
    device: int = 0

    def data_ptr(self) -> int:
        return self.address

    def get_device(self) -> int:
        return self.device


def test_a_launch_hands_on_addresses_where_triton_need_not_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it compiled runs again on aligned memory of the same device, and on nothing else."""
    looked: list[tuple[object, ...]] = []
    ran: list[tuple[object, ...]] = []

    class Compiled:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *given: ran.append(given)

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Compiled]:
            def run(*given: object, **constants: object) -> Compiled:
                looked.append(given)
                return Compiled()

            return run

    monkeypatch.setattr(tiling, "INTERPRETED", False)
    launch: Any = tiling.Launch(Kernel(), (3,), (7,), {"C": 8}, {"num_warps": 4})
    odd, even, foreign = _At(24), _At(32), _At(64, device=-1)
    launch(odd, None)
    launch(even, None)
    assert looked == [(odd, None, 7), (even, None, 7)] and not ran
    launch(_At(48), None)
    assert ran == [(48, None, 7, 8)]
    launch(odd, None)
    launch(even, foreign)
    assert looked[2:] == [(odd, None, 7), (even, foreign, 7)]
    assert len(ran) == 1


def test_no_kernel_asks_the_host() -> None:
    """A launch reads nothing back, so that a graph can be captured: no item, no sync, no branch on data."""
    folder = PACKAGES["kasmina_generated"] / "kernels"
    asking = {
        "item",
        "tolist",
        "cpu",
        "numpy",
        "synchronize",
        "nonzero",
        "is_nonzero",
        "any",
        "all",
    }
    for path in sorted([*folder.glob("inline_*.py"), folder / "sample.py"]):
        calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        assert not asking & {f.attr for f in calls if isinstance(f, ast.Attribute)}, path.name


MOST_SHARED = 227 * 1024  # bytes of a block on an H100 or H200


def test_a_compiler_takes_them() -> None:
    """For a GPU: each branch of the templates, of kinds with one map, with two, and with none."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.generated.compiled_inline"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in told] == [module for module, _, _ in KERNELS]
    assert all(int(row[1]) < MOST_SHARED and int(row[2]) > 1000 for row in told)
