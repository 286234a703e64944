"""The fused twin of inline seeds, against the plain formula, a gather by hand, finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kasmina.blueprints import SiteShape, blueprint_kind
from kasmina.kernels.inline import passed
from kasmina.kernels.mixing import blend, guard
from kasmina.kernels.twin import Cut, Group, Kind, Places, Twin
from kasmina.sites import ChunkManager
from kasmina.sites.plan import neighbours

SEEDS, HIDDEN, CAPACITY = 4, 3, 5
both = pytest.mark.parametrize("replace", [False, True], ids=["residual", "replace"])


class Case:
    """A site of `features` in 4 chunks, whose seeds `slots` hold `rows` of a pool of one kind."""

    def __init__(
        self,
        features: int = 12,
        slots: tuple[int, ...] = (0, 2, 3),
        rows: tuple[int, ...] = (4, 0, 2),
        kind: str = "mlp",
        dtype: torch.dtype = torch.float64,
        shape: tuple[int, ...] = (),
    ) -> None:
        self.chunks = ChunkManager(features, SEEDS)
        width = self.chunks.width
        layout = (features, *shape) if shape else None
        place = SiteShape("inline", width, width, layout, bool(shape))
        self.kind = blueprint_kind(kind)(place, HIDDEN)
        draw = torch.Generator().manual_seed(0)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=draw, dtype=torch.float64).to(dtype)

        self.y = normal(3, features, *shape).requires_grad_()
        self.alpha = torch.tensor([0.3, 0.9, 0.6, 0.25], dtype=dtype).requires_grad_()
        self.stack = [
            normal(CAPACITY, *sizes).requires_grad_() for sizes in self.kind.shapes().values()
        ]
        self.slots, self.rows = torch.tensor(slots), torch.tensor(rows)
        self.nonfinite = torch.zeros(SEEDS, dtype=torch.int64)
        self.trains: Tensor | None = None

    def twin(self, replace: bool) -> Twin:
        """The fused one."""
        valid = None if self.chunks.is_even else self.chunks.valid()
        cut = Cut(SEEDS, self.chunks.columns(), valid)
        kind = Kind(tuple(self.kind.shapes()), self.kind.forward)
        places, rows = Places(cut, self.slots), neighbours(self.rows)
        group = Group(kind, 0, self.slots, rows, places, trains=self.trains)
        return Twin([group], replace, self.nonfinite)

    def fused(self, replace: bool) -> Tensor:
        """What the twin gives."""
        return passed(self.y, self.alpha, self.twin(replace), [self.stack])

    def by_hand(self, replace: bool) -> Tensor:
        """The formula of `mixing.blend` on each seed's chunk by itself."""
        chunks = list(self.chunks.split(self.y, 1))
        for number, (slot, row) in enumerate(zip(self.slots, self.rows, strict=True)):
            chunk = chunks[slot]
            missing = self.chunks.width - chunk.shape[1]
            zeros = chunk.new_zeros(len(chunk), missing, *chunk.shape[2:])
            params = {}
            for name, p in zip(self.kind.shapes(), self.stack, strict=True):
                own = p[row] if self.trains is None or self.trains[number] else p[row].detach()
                params[name] = guard(own.unsqueeze(0))
            made = self.kind.forward(params, guard(torch.cat([chunk, zeros], 1).unsqueeze(0)))
            made = made.narrow(2, 0, chunk.shape[1])
            mixed, _ = blend(chunk.unsqueeze(0), made, self.alpha[slot : slot + 1], replace)
            chunks[slot] = mixed.squeeze(0)
        return torch.cat(chunks, 1)

    def gradients(self, y: Tensor) -> list[Tensor]:
        """Of everything, from a loss that weighs each element."""
        weight = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
        leaves = [self.y, self.alpha, *self.stack]
        found = torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True)
        return [
            torch.zeros_like(leaf) if g is None else g
            for g, leaf in zip(found, leaves, strict=True)
        ]

    def check(self, replace: bool) -> None:
        """Hold both to each other, values and gradients."""
        ours, theirs = self.fused(replace), self.by_hand(replace)
        torch.testing.assert_close(ours, theirs, equal_nan=True)
        for ours_of, theirs_of in zip(self.gradients(ours), self.gradients(theirs), strict=True):
            torch.testing.assert_close(ours_of, theirs_of, equal_nan=True)


@both
@pytest.mark.parametrize("kind", ["mlp", "gated", "low_rank", "affine"])
@pytest.mark.parametrize("features", [12, 13, 15, 4])
def test_values_and_gradients(kind: str, features: int, replace: bool) -> None:
    """All kinds, chunks of equal and of unequal width, down to one feature each."""
    Case(features, kind=kind).check(replace)


@both
@pytest.mark.parametrize("features", [8, 10])
def test_channels(features: int, replace: bool) -> None:
    """Chunks of channels, each with its positions."""
    Case(features, kind="mlp", shape=(5,)).check(replace)
    Case(features, kind="conv", shape=(5,)).check(replace)


@both
def test_neighbours_in_the_pool_are_not_copied(replace: bool) -> None:
    """Rows that follow each other are a slice."""
    case = Case(rows=(1, 2, 3))
    assert neighbours(case.rows) == slice(1, 4)
    assert isinstance(neighbours(torch.tensor([2, 1, 3])), Tensor)
    case.check(replace)


@both
def test_finite_differences(replace: bool) -> None:
    """Of the host's output, of alpha and of every parameter, in float64."""
    case = Case(13)
    twin = case.twin(replace)
    assert torch.autograd.gradcheck(
        lambda y, alpha, *stack: passed(y, alpha, twin, [stack]), (case.y, case.alpha, *case.stack)
    )


@both
def test_seeds_that_do_not_train(replace: bool) -> None:
    """Their parameters get no gradient, the host's flows through them."""
    case = Case()
    case.trains = torch.tensor([True, False, True])
    case.check(replace)
    (_, _, *stack) = case.gradients(case.fused(replace))
    assert all(g[4].any() and g[2].any() and not g[0].any() for g in stack)


@both
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("features", [12, 13])
def test_what_is_not_finite(features: int, value: float, replace: bool) -> None:
    """In a parameter or in the host's output: the identity there, counted, finite gradients."""
    case = Case(features)
    with torch.no_grad():
        case.stack[2][0, 1] = value  # of out_weight: feature 1 of slot 2
        case.y[1, -1] = value  # the host's own, of slot 3
    case.check(replace)
    ours = case.fused(replace)
    case.nonfinite.zero_()
    case.fused(replace)
    assert case.nonfinite[0] == 0 and case.nonfinite[2] == 3
    assert case.nonfinite[3] == case.chunks.widths[3]  # all of that example
    (_, _, *stack) = case.gradients(ours)
    assert all(bool(g.isfinite().all()) for g in stack)


@both
def test_the_ends_of_the_ramp(replace: bool) -> None:
    """Alpha 0 gives the host's bits, and still tells its gradient; alpha 1 of replace gives B's."""
    case = Case()
    with torch.no_grad():
        case.alpha[0], case.alpha[2] = 0.0, 1.0
        case.y[0, 0] = -0.0
    case.check(replace)
    ours = case.chunks.split(case.fused(replace), 1)
    theirs = case.chunks.split(case.y, 1)
    for slot in (0, 1):
        assert torch.equal(ours[slot].view(torch.int64), theirs[slot].view(torch.int64))
    if replace:
        params = {n: p[:1] for n, p in zip(case.kind.shapes(), case.stack, strict=True)}
        assert torch.equal(ours[2], case.kind.forward(params, theirs[2].unsqueeze(0))[0])


@given(
    st.integers(4, 40),
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 4)), unique_by=(lambda p: p[0], lambda p: p[1])
    ),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(deadline=None, max_examples=60)
def test_any_mix(
    features: int,
    held: list[tuple[int, int]],
    examples: int,
    replace: bool,
    dtype: torch.dtype,
) -> None:
    """Any seeds in any rows, down to none, and any batch, down to none."""
    slots, rows = zip(*sorted(held), strict=True) if held else ((0,), (0,))
    case = Case(features, slots, rows, dtype=dtype)
    case.y = case.y.detach()[:1].repeat(examples, 1).requires_grad_()
    case.check(replace)


def test_the_same_inputs_give_the_same_bits() -> None:
    """Forwards and backwards."""
    runs = [Case(dtype=torch.float32) for _ in range(2)]
    outputs = [case.fused(False) for case in runs]
    assert torch.equal(*outputs)
    for a, b in zip(*(c.gradients(y) for c, y in zip(runs, outputs, strict=True)), strict=True):
        assert torch.equal(a, b)


def test_a_second_backward_pass() -> None:
    """Works where the graph is kept, is torch's own error where not; what was kept is let go."""
    case = Case()
    y = case.fused(False)
    first, *_ = torch.autograd.grad(y.sum(), case.y, retain_graph=True)
    second, *_ = torch.autograd.grad(y.sum(), case.y)
    assert torch.equal(first, second)
    assert y.grad_fn is not None and y.grad_fn.kept is None  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(y.sum(), case.y)


def test_what_float16_cannot_hold_between_two_ends_is_held() -> None:
    """dL/dalpha sums B - x, which is as long as both together."""
    case = Case(kind="affine", dtype=torch.float16)
    with torch.no_grad():
        case.y[0] = -6e4
        case.stack[0].fill_(-1.0)  # B(x) = -x
        case.stack[1].fill_(0.0)
    case.alpha = case.alpha.detach().float().requires_grad_()
    (found,) = torch.autograd.grad(case.fused(True).float().sum(), case.alpha)
    assert found[case.slots].isfinite().all()
    assert float(found[0]) == pytest.approx(
        -2 * float(case.y.detach()[:, :3].float().sum()), rel=1e-3
    )
