"""The kernels of parallel seeds, interpreted, against their twin: values and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kasmina.blueprints import Blueprint, SiteShape, blueprint_kind
from kasmina.kernels import mixing, parallel, together
from kasmina.kernels.inline import Columns, WrongKernel
from kasmina.kernels.parallel import Known
from kasmina.kernels.twin import Kind

TEXTS = ("mlp_relu", "mlp_gelu", "mlp_silu", "low_rank", "gated", "affine")
MODULES = {text: import_module(f"kasmina_generated.kernels.parallel_{text}") for text in TEXTS}
DORMANT, TRAINING, GRAFTING, EVALUATING = 0, 2, 3, 5
KIND = 1  # the number of the kind at the site
# Triton's interpreter computes with NumPy, which warns where a GPU just goes on.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
every_text = pytest.mark.parametrize("text", TEXTS)
both_ways = pytest.mark.parametrize("known", [True, False], ids=["known", "device"])

# Relative to the norm. float32 sums in another order; a half-precision product rounds its inputs,
# its hidden units and their gradients, each to 2**-9 (bfloat16, where the interpreter cuts off
# instead: 2**-8) or 2**-12 (float16).
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-2, torch.float16: 3e-3}


@dataclass(frozen=True)
class Case:
    """A site's seeds and what passes it; `active` of `seeds`, of which `training` train jointly."""

    text: str
    examples: int = 37
    d_in: int = 20
    d_out: int = 13
    hidden: int = 8
    seeds: int = 9
    capacity: int = 5
    active: int = 3
    training: int = 2
    dtype: torch.dtype = torch.float32
    pool: torch.dtype | None = None  # another dtype than the site's
    alphas: Sequence[float] | None = None
    spoil: Callable[[Made], None] | None = field(default=None, compare=False)

    @property
    def kind(self) -> Blueprint:
        """The kind, in its own torch."""
        name, _, activation = (
            self.text.partition("_") if "mlp" in self.text else (self.text, "", "")
        )
        options: dict[str, Any] = {"activation": activation} if activation else {}
        width = self.d_in if self.text == "affine" else self.d_out
        return blueprint_kind(name)(SiteShape("parallel", self.d_in, width), self.hidden, **options)


class Made:
    """The tensors of a case."""

    def __init__(self, case: Case) -> None:
        self.case, kind, draw = case, case.kind, torch.Generator().manual_seed(case.examples)
        self.module = MODULES[case.text]

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw)

        slots = torch.randperm(case.seeds, generator=draw)
        self.slots = slots[: case.active].sort().values
        self.rows = torch.randperm(case.capacity, generator=draw)[: case.active]
        joint = torch.randperm(case.active, generator=draw) < case.training
        self.joint = torch.zeros(case.capacity, dtype=torch.bool)
        self.joint[self.rows] = joint
        self.codes = torch.full((case.seeds,), TRAINING, dtype=torch.int8)
        self.codes[self.slots] = torch.where(joint, GRAFTING, EVALUATING).to(torch.int8)
        self.kinds = torch.full((case.seeds,), KIND, dtype=torch.int8)
        self.column = torch.full((case.seeds,), -1, dtype=torch.int16)
        self.column[self.slots] = self.rows.to(torch.int16)
        self._add_bystanders(slots[case.active :])
        self.alpha = torch.rand(case.seeds, generator=draw)
        if case.alphas is not None:
            self.alpha[self.slots] = torch.tensor(case.alphas)
        width = kind.shape.d_out
        self.x, self.y, self.g = (
            normal(case.examples, n).to(case.dtype) for n in (case.d_in, width, width)
        )
        self.params = {
            name: (normal(case.capacity, *shape) / shape[-1] ** 0.5).to(case.pool or case.dtype)
            for name, shape in kind.shapes().items()
        }
        if case.spoil is not None:
            case.spoil(self)

    def _add_bystanders(self, slots: Tensor) -> None:
        """Seeds beside the active ones: of another kind, at rest, learning aside, without a row."""
        for i, slot in enumerate(slots.tolist()):
            self.kinds[slot] = KIND if i % 3 else 0
            self.codes[slot] = (GRAFTING, TRAINING, DORMANT)[i % 3]
            self.column[slot] = i % self.case.capacity

    def run(self, known: bool, keep: bool = False) -> dict[str, Tensor]:
        """What the kernels give, by name."""
        case = self.case
        told = Known(case.active, case.training) if known else None
        nonfinite = torch.zeros(case.seeds, dtype=torch.int64)
        site = (self.codes, self.kinds, self.column, self.alpha, tuple(self.params.values()), KIND)
        out, saved = parallel.forward(
            self.x, self.y, *site, nonfinite, module=self.module, known=told, keep=keep
        )
        gx, gradients, to_alpha = parallel.backward(
            self.g, self.x, saved, site[4], case.seeds, module=self.module, known=told
        )
        assert gx is not None and gradients is not None
        assert [t.dtype for t in gradients] == [p.dtype for p in self.params.values()]
        return {
            "out": out,
            "x": gx,
            "alpha": to_alpha,
            "nonfinite": nonfinite,
            **dict(zip(self.params, gradients, strict=True)),
        }

    def wanted(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """What the twin gives, in `dtype`, of the numbers that the kernels are given."""
        kind = self.case.kind
        x, y, alpha = self.x.to(dtype), self.y.to(dtype), self.alpha.clone()
        stacks = {name: p.to(self.case.dtype).to(dtype) for name, p in self.params.items()}
        leaves = {"x": x, "alpha": alpha, **stacks}
        for leaf in leaves.values():
            leaf.requires_grad_()
        rows = {name: p.index_select(0, self.rows) for name, p in stacks.items()}
        units, own = kind.together(), alpha[self.slots]
        if units is not None:
            out, counts = together.add(y, x, own, units, rows)
        else:
            guarded = {name: mixing.guard(p) for name, p in rows.items()}
            out, counts = mixing.add(y, kind.forward(guarded, mixing.guard(x)), own)
        gradients = torch.autograd.grad(out, list(leaves.values()), self.g.to(dtype))
        found = dict(zip(leaves, gradients, strict=True))
        for name in stacks:
            mask = self.joint.view(-1, *[1] * (found[name].dim() - 1))
            found[name] = torch.where(mask, found[name], 0)
        nonfinite = torch.zeros(self.case.seeds, dtype=torch.int64)
        nonfinite[self.slots] = counts
        return {"out": out.detach(), "nonfinite": nonfinite, **found}


def compare(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """By name, relative to the norm; counts exactly."""
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if name == "nonfinite":
            assert found[name].tolist() == value.tolist()
            continue
        error = (found[name].double() - value.double()).norm()
        assert error <= tolerance * value.double().norm() + 1e-12, (name, float(error))


@pytest.fixture(autouse=True)
def nothing_is_left_unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nobody has written yet holds NaN, or a row that does not exist."""

    def new(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or like.dtype
        return torch.full(
            tuple(shape), float("nan") if dtype.is_floating_point else 77, dtype=dtype
        )

    monkeypatch.setattr(parallel, "_new", new)


@both_ways
@every_text
def test_as_the_twin(text: str, known: bool) -> None:
    """Values and every gradient in float32, against the twin in float64."""
    made = Made(Case(text))
    compare(made.run(known), made.wanted(torch.float64), TOLERANCE[torch.float32])


SHAPES = [
    Case("mlp_relu", 1, 1, 1, 1, 1, 1, 1, 1),
    Case("mlp_silu", 33, 5, 40, 5, 20, 18, 17, 9),  # 17 seeds: a bucket that is not full
    Case("gated", 33, 33, 9, 3, 20, 13, 11, 11),
    Case("low_rank", 5, 4, 3, 130, 3, 3, 2, 0),  # units wider than a tile; none trains
    Case("affine", 33, 70, 70, 1, 8, 8, 8, 3),
]


@both_ways
@pytest.mark.parametrize("case", SHAPES, ids=lambda case: f"{case.text}-{case.hidden}")
@pytest.mark.no_cover
def test_awkward_shapes(case: Case, known: bool) -> None:
    """Sizes that fill no tile, whole and empty sets of seeds that train; maps kept or not."""
    made = Made(case)
    wanted = made.wanted(torch.float64)
    for keep in (False, True)[: 1 if made.module.ELEMENTWISE else 2]:  # which has no maps to keep
        compare(made.run(known, keep), wanted, TOLERANCE[torch.float32])


@both_ways
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("text", ["gated", "affine"])
@pytest.mark.no_cover
def test_half_precision(text: str, dtype: torch.dtype, known: bool) -> None:
    """Everything in the site's dtype; parameters in float32 get gradients in float32."""
    for pool in (None, torch.float32):
        made = Made(Case(text, dtype=dtype, pool=pool))
        compare(made.run(known), made.wanted(torch.float64), TOLERANCE[dtype])


NAUGHT = [(text, torch.nan) for text in TEXTS] + [("gated", 0.0), ("affine", 0.0)]


@both_ways
@pytest.mark.parametrize(("text", "alpha"), NAUGHT)
@pytest.mark.no_cover
def test_alpha_0_gives_the_hosts_bits(text: str, alpha: float, known: bool) -> None:
    """Also of -0.0 and infinities; dL/dalpha is told, and a NaN selects the host as well."""

    def spoil(made: Made) -> None:
        made.y[0, 0], made.y[1, 1] = -0.0, torch.inf

    made = Made(Case(text, alphas=(0.0, alpha, 0.0), spoil=spoil))
    found = made.run(known)
    assert torch.equal(found["out"].view(torch.int32), made.y.view(torch.int32))
    assert found["alpha"][made.slots].ne(0).all()
    assert not found["x"].any() and not any(found[name].any() for name in made.params)


@both_ways
def test_nobody_is_active(known: bool) -> None:
    """The host's bits and gradients of zero."""
    made = Made(Case("mlp_relu", active=0, training=0))
    found = made.run(known)
    assert torch.equal(found.pop("out"), made.y)
    assert not any(value.any() for value in found.values())


@both_ways
def test_an_empty_batch(known: bool) -> None:
    """No launch, nothing out."""
    made = Made(Case("gated", examples=0))
    found = made.run(known)
    assert found.pop("out").shape == (0, 13) and found.pop("x").shape == (0, 20)
    assert not any(value.any() for value in found.values())


def in_last_map(made: Made) -> None:
    """One NaN in what a seed puts out last."""
    list(made.params.values())[-1].flatten(1)[made.rows[1], 2] = torch.nan


def in_first_map(made: Made) -> None:
    """One infinity in what reads the input."""
    next(iter(made.params.values())).flatten(1)[made.rows[0], 1] = -torch.inf


def overflow(made: Made) -> None:
    """Finite parameters whose products are not."""
    first, *_, last = made.params.values()
    first[made.rows[1]] *= 1e3
    last[made.rows[1]] = 1e36


def in_input(made: Made) -> None:
    """One NaN in what all seeds read."""
    made.x[3, 1] = torch.nan


@both_ways
@pytest.mark.parametrize("fault", [in_last_map, in_first_map, overflow, in_input])
@pytest.mark.parametrize("text", ["mlp_relu", "gated", "affine"])
@pytest.mark.no_cover
def test_what_is_not_finite(text: str, fault: Callable[[Made], None], known: bool) -> None:
    """Dropped and counted element by element as in the twin; nothing of it leaves backwards."""
    made = Made(Case(text, 33, 6, 9, 12, 8, 6, 5, 3, spoil=fault))
    found, wanted = made.run(known), made.wanted(torch.float32)
    assert found["nonfinite"].any() or (text, fault) == ("affine", overflow)
    told = set(found) - {"alpha"}  # dL/dalpha is a sum of what may be just below the largest number
    assert all(bool(found[name].isfinite().all()) for name in told)
    if fault is overflow:
        told = {"out", "nonfinite"}
    elif text == "affine" or fault is in_first_map:
        told -= {"x", "scale", "shift"}  # the guard of `mixing` drops more than the lane
    pick = {name: found[name] for name in told}
    compare(pick, {name: wanted[name] for name in told}, 1e-5)


@both_ways
def test_float16_overflows_at_its_own_end(known: bool) -> None:
    """What float16 cannot hold is counted, though alpha brings it back into range."""

    def spoil(made: Made) -> None:
        made.params["out_weight"][made.rows[1]] = 3e4

    made = Made(Case("low_rank", dtype=torch.float16, alphas=(0.5, 1e-3, 0.2), spoil=spoil))
    found, wanted = made.run(known), made.wanted(torch.float16)
    assert found["nonfinite"].any() and found["nonfinite"].tolist() == wanted["nonfinite"].tolist()
    assert found["out"].isfinite().all()


@both_ways
def test_any_strides(known: bool) -> None:
    """Transposed input, output and gradient."""
    made = Made(Case("gated"))
    wanted = made.wanted(torch.float64)
    made.x, made.y, made.g = (t.T.contiguous().T for t in (made.x, made.y, made.g))
    compare(made.run(known), wanted, TOLERANCE[torch.float32])


@both_ways
@pytest.mark.no_cover
def test_the_same_bits_twice(known: bool) -> None:
    """Sums are taken in a fixed order, and the state that a pass met goes with it."""
    made = Made(Case("gated", 33, 33, 40, 12, 8, 6, 5, 3))
    first, second = made.run(known), made.run(known)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_backward_pass_sees_the_state_of_its_forward_pass() -> None:
    """A step of the lifecycle in between changes nothing."""
    made = Made(Case("mlp_relu"))
    site = (made.codes, made.kinds, made.column, made.alpha, tuple(made.params.values()), KIND)
    nonfinite = torch.zeros(9, dtype=torch.int64)
    _, saved = parallel.forward(made.x, made.y, *site, nonfinite, module=made.module)
    wanted = parallel.backward(made.g, made.x, saved, site[4], 9, module=made.module)
    made.codes.fill_(DORMANT)
    found = parallel.backward(made.g, made.x, saved, site[4], 9, module=made.module)
    assert wanted[1] is not None and found[1] is not None
    for a, b in zip(
        (wanted[0], *wanted[1], wanted[2]), (found[0], *found[1], found[2]), strict=True
    ):
        assert a is not None and b is not None and torch.equal(a, b)


def test_again_gives_what_forward_saved() -> None:
    """A backward pass that has only the inputs finds the same."""
    made = Made(Case("gated", spoil=in_last_map))
    site = (made.codes, made.kinds, made.column, made.alpha, tuple(made.params.values()), KIND)
    nonfinite = torch.zeros(9, dtype=torch.int64)
    known = Known(3, 2)
    _, saved = parallel.forward(
        made.x, made.y, *site, nonfinite, module=made.module, known=known, keep=True
    )
    again = parallel.again(made.x, made.y, *site, module=made.module, known=known)
    active = int(saved.counts[0])
    assert torch.equal(saved.counts, again.counts) and torch.equal(saved.maps, again.maps)
    assert torch.equal(saved.exact[:, :active], again.exact[:, :active])
    assert saved.counts.tolist() == [3, 2, 1, 1]


def test_rows_and_codes_beyond_the_tables_take_no_part() -> None:
    """A state code that no table knows, a row that the pool does not have: as if at rest."""
    made = Made(Case("mlp_relu"))
    made.codes[made.slots[0]] = 127
    made.column[made.slots[1]] = 5
    found = made.run(False)
    rest = Made(Case("mlp_relu"))
    rest.codes[rest.slots[:2]] = DORMANT
    wanted = rest.run(False)
    assert all(torch.equal(found[name], wanted[name]) for name in found)


def test_too_small_a_number_drops_seeds_but_reads_nothing_foreign() -> None:
    """A host that knows less than is true gets the first seeds, and finite numbers."""
    made = Made(Case("mlp_relu", active=3, training=3))
    made.case = replace(made.case, active=1, training=1)
    found = made.run(True)
    assert all(bool(value.isfinite().all()) for value in found.values())
    assert found["alpha"].ne(0).sum() == 1


def test_buckets() -> None:
    """At most a sixteenth is empty, and an octave has 16 buckets."""
    for active in range(1, 1200):
        size = parallel.bucket(active)
        assert active <= size <= active + active // 16
        assert parallel.bucket(size) == size
    assert len({parallel.bucket(active) for active in range(513, 1025)}) == 16


def test_buckets_are_counted() -> None:
    """Every pass whose number of seeds the host knows is; one that asks the device has none."""
    parallel._buckets.clear()
    made = Made(Case("mlp_relu"))
    columns = Columns(made.codes, made.kinds, made.column)
    nonfinite = torch.zeros(9, dtype=torch.int64)
    for known in (Known(3, 2), Known(3, 2), None):
        seeds = parallel.Seeds(columns, KIND, nonfinite, made.module, known, made.x.shape[1])
        parallel.add(made.y, made.x, made.alpha, tuple(made.params.values()), seeds)
    assert parallel.buckets_used() == {3: 2}


def _held(made: Made, module: Any = None) -> None:
    kind = made.case.kind
    twin = Kind(tuple(kind.shapes()), kind.forward)
    stack = tuple(made.params.values())
    parallel.hold(made.y, made.x.shape[1], stack, module or made.module, twin, GRAFTING)


# Every kind in float32, a kind of each template in every dtype; the long run takes all pairs.
HELD = [
    pytest.param(
        *(text, dtype),
        marks=[] if dtype == torch.float32 or text in ("gated", "affine") else [pytest.mark.long],
    )
    for text in TEXTS
    for dtype in TOLERANCE
]


@pytest.mark.parametrize(("text", "dtype"), HELD)
@pytest.mark.no_cover
def test_a_right_kernel_holds(text: str, dtype: torch.dtype) -> None:
    """On numbers of its own: the pool is left as it was. Below inference mode as well."""
    made = Made(Case(text, dtype=dtype))
    before = {name: p.clone() for name, p in made.params.items()}
    with torch.inference_mode():
        _held(made)
    assert all(torch.equal(p, before[name]) for name, p in made.params.items())


@pytest.mark.parametrize(
    ("text", "launch", "place", "what"),
    [
        ("mlp_relu", "hidden", 2, "its output is off by 0"),
        ("mlp_relu", "hidden_gradient", 3, "its gradient of the input is off by"),
        ("affine", "elements", 2, "its output is off by"),
        ("affine", "elements_parameters", 4, "its gradient of scale is off by"),
    ],
)
def test_a_wrong_kernel_does_not_hold(text: str, launch: str, place: int, what: str) -> None:
    """Whichever launch is wrong, and says in what."""
    made, wrong = Made(Case(text)), []
    right = getattr(made.module, launch)

    class Off:
        def __getitem__(self, grid: Any) -> Callable[..., None]:
            def run(*arguments: Any, **options: Any) -> None:
                right[grid](*arguments, **options)
                wrong.append(arguments[place].mul_(1.2))

            return run

    module = ModuleType("wrong")
    module.__dict__.update(vars(made.module), **{launch: Off()})
    with pytest.raises(WrongKernel, match=what):
        _held(made, module)
    assert wrong


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small cases of all kinds."""
    seeds = draw(st.integers(1, 12))
    capacity = draw(st.integers(1, seeds))
    active = draw(st.integers(1, capacity))
    examples, d_in, d_out = (draw(st.integers(1, 40)) for _ in range(3))
    return Case(
        draw(st.sampled_from(TEXTS)),
        examples,
        d_in,
        d_out,
        draw(st.integers(1, 20)),
        seeds,
        capacity,
        active,
        draw(st.integers(0, active)),
    )


@pytest.mark.parametrize("examples", [5, pytest.param(100, marks=pytest.mark.long)])
@pytest.mark.no_cover
def test_any_shape_and_mix_of_states(examples: int) -> None:
    """Sizes, seeds and who trains, drawn at random; both ways."""

    @settings(max_examples=examples, deadline=None, derandomize=True)
    @given(cases())
    def search(case: Case) -> None:
        made = Made(case)
        wanted = made.wanted(torch.float64)
        for known in (True, False):
            compare(made.run(known), wanted, 1e-5)  # a single element may cancel

    search()
