"""One seed by hand, against its kind's formula through autograd, and what is not finite."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from kasmina.blueprints import SiteShape, blueprint_kind
from kasmina.blueprints.dense import Gated
from kasmina.kernels import alone
from kasmina.kernels.mixing import add, guard, taken

EXAMPLES, D_IN, D_OUT, HIDDEN, SLOT, ROW = 5, 4, 2, 3, 2, 1
KINDS = {
    "mlp": {},
    "gelu": {"activation": "gelu"},
    "silu": {"activation": "silu"},
    "low_rank": {},
    "gated": {},
}
every_kind = pytest.mark.parametrize("name", KINDS)


@dataclass
class Case:
    """A seed in row 1 of three, at place 2 of four."""

    name: str
    factor: float = 0.25
    dtype: torch.dtype = torch.float64
    trains: bool = True

    def __post_init__(self) -> None:
        self.kind = blueprint_kind(self.name if self.name in {"low_rank", "gated"} else "mlp")(
            SiteShape("parallel", D_IN, D_OUT), HIDDEN, **KINDS[self.name]
        )
        units = self.kind.together()
        assert units is not None
        draw = torch.Generator().manual_seed(1)
        self.stacks = [
            torch.randn((3, *shape), generator=draw, dtype=torch.float64).to(self.dtype)
            for shape in self.kind.shapes().values()
        ]
        self.y, self.x = (
            torch.randn((EXAMPLES, width), generator=draw, dtype=torch.float64).to(self.dtype)
            for width in (D_OUT, D_IN)
        )
        self.alpha = torch.tensor([0.9, 0.8, self.factor, 0.7], dtype=self.dtype)
        self.nonfinite = torch.zeros(4, dtype=torch.int64)
        self.names = tuple(self.kind.shapes())
        self.seed = alone.Seed.of(units, self.names, SLOT, ROW, self.trains)

    @property
    def leaves(self) -> dict[str, Tensor]:
        """By name, all that a gradient is wanted of."""
        named = dict(zip(self.names, self.stacks, strict=True))
        leaves = {"y": self.y, "x": self.x, "alpha": self.alpha, **named}
        return {name: leaf.requires_grad_() for name, leaf in leaves.items()}

    def ours(self) -> Tensor:
        """By hand."""
        return alone.add(self.y, self.x, self.alpha, self.seed, self.stacks, self.nonfinite)

    def theirs(self) -> Tensor:
        """By the formula, through autograd."""
        rows = taken(self.stacks, torch.tensor([ROW]), None, self.dtype)
        made = self.kind.forward(dict(zip(self.names, rows, strict=True)), guard(self.x))
        return add(self.y, made, self.alpha[SLOT : SLOT + 1])[0]


def gradients(out: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a loss whose slope differs from place to place, by name."""
    slope = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return dict(zip(leaves, torch.autograd.grad(out, list(leaves.values()), slope), strict=True))


@every_kind
@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_as_the_formula(name: str, factor: float) -> None:
    """The value to the bit, and every gradient by its name; rows of others get none."""
    case = Case(name, factor)
    leaves = case.leaves
    ours, theirs = case.ours(), case.theirs()
    assert torch.equal(ours, theirs)
    expected = gradients(theirs, leaves)
    for what, gradient in gradients(ours, leaves).items():
        assert torch.allclose(gradient, expected[what], rtol=1e-12, atol=1e-15), what
        if what in case.names:
            assert not gradient[[0, 2]].any(), what
    assert not case.nonfinite.any()


@every_kind
def test_by_autograd_where_a_kind_has_no_slopes(name: str) -> None:
    """A kind of a user's own tells its units alone."""
    case = Case(name)
    leaves = case.leaves
    expected = gradients(case.ours(), leaves)
    case.seed = case.seed._replace(units=case.seed.units._replace(slopes=None))
    for what, gradient in gradients(case.ours(), leaves).items():
        assert torch.allclose(gradient, expected[what], rtol=1e-12), what


def test_slopes_belong_to_their_units() -> None:
    """Who overrides the units of a kind does not keep the slopes of the old ones."""

    class Doubled(Gated):
        def units(self, *given: Tensor) -> Tensor:
            return 2 * super().units(*given)

    units = Doubled(SiteShape("parallel", D_IN, D_OUT), HIDDEN).together()
    assert units is not None
    assert units.slopes is None
    own = Gated(SiteShape("parallel", D_IN, D_OUT), HIDDEN).together()
    assert own is not None
    assert own.slopes is not None


def test_what_is_not_finite_stays_out() -> None:
    """An element of B that overflows counts as 0, is counted, and pulls nothing through."""
    case = Case("gated", 0.5, torch.float32)
    case.x[1] = 3e38
    leaves = case.leaves
    ours, theirs = case.ours(), case.theirs()
    assert torch.equal(ours, theirs)
    assert torch.equal(ours[1], case.y[1])
    assert case.nonfinite.tolist() == [0, 0, D_OUT, 0]
    expected = gradients(theirs, leaves)
    for what, gradient in gradients(ours, leaves).items():
        assert gradient.isfinite().all(), what
        if what in ("y", "alpha"):
            assert torch.allclose(gradient, expected[what]), what


def test_a_seed_that_stands_still() -> None:
    """Where the loss does not train it, its rows get no gradient and the input does."""
    case = Case("mlp", trains=False)
    leaves = case.leaves
    found = torch.autograd.grad(case.ours().sum(), list(leaves.values()), allow_unused=True)
    assert [name for name, each in zip(leaves, found, strict=True) if each is None] == list(
        case.names
    )


def test_what_it_is_not_for() -> None:
    """Other dtypes than the parameters', and autocast, go the long way."""
    case = Case("mlp", dtype=torch.float32)
    assert alone.fits(case.y, case.x, case.stacks)
    assert not alone.fits(case.y, case.x.double(), case.stacks)
    assert not alone.fits(case.y.bfloat16(), case.x.bfloat16(), case.stacks)
    with torch.autocast("cpu"):
        assert not alone.fits(case.y, case.x, case.stacks)
