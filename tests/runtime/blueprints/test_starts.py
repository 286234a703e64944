"""Starts from the singular directions of a batch's gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import backward

from kasmina.blueprints import Blueprint, BlueprintError, SiteShape, blueprint_kind
from kasmina.blueprints.starts import gradmax, tiny

SHAPE = SiteShape("parallel", 6, 4)


def batch(examples: int = 400) -> tuple[Tensor, Tensor]:
    """Correlated inputs, and a target of rank 3 with noise."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(examples, 6, generator=draw) @ torch.randn(6, 6, generator=draw) + 0.5
    mixed = torch.randn(6, 3, generator=draw) @ torch.randn(3, 4, generator=draw)
    return x, x @ mixed + 0.3 * torch.randn(examples, 4, generator=draw)


def drawn(kind: Blueprint, seeds: int) -> dict[str, Tensor]:
    """The values that seeds are given when they are allocated."""
    stream = torch.Generator().manual_seed(4)
    rows = [kind.init(stream) for _ in range(seeds)]
    return {name: torch.stack([row[name] for row in rows]) for name in kind.shapes()}


def explained(kind: Blueprint, params: dict[str, Tensor], x: Tensor, target: Tensor) -> float:
    """Share of the target's mean square that all seeds together explain at their best scale."""
    made = kind.forward(params, x).sum(0)
    return float((made * target).sum() ** 2 / (made.square().sum() * target.square().sum()))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_tiny_is_the_best_linear_prediction_of_its_rank(rank: int) -> None:
    """As reduced-rank regression has it in closed form (Izenman 1975)."""
    x, target = batch()
    x = x - x.mean(0)  # the linear kind has no bias
    kind = blueprint_kind("low_rank")(SHAPE, rank, start="tiny")
    begun = kind.begin(drawn(kind, 1), x, target - target.mean(0))
    assert begun is not None
    error = (kind.forward(begun, x)[0] - (target - target.mean(0))).square().mean()
    best = torch.linalg.lstsq(x, target - target.mean(0)).solution
    _, _, v = torch.linalg.svd(x @ best)
    projected = x @ best @ v[:rank].T @ v[:rank]
    expected = (projected - (target - target.mean(0))).square().mean()
    assert float(error) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("low_rank", {}),
        ("gated", {}),
        *[("mlp", {"activation": a}) for a in ("relu", "gelu", "silu")],
    ],
)
def test_tiny_knows_the_direction_before_the_first_step(kind: str, options: dict[str, str]) -> None:
    """Two seeds of it explain far more of the gradient than two that were drawn.

    A unit that is linear where it begins explains all that its rank can; a ReLU is half of one.
    """
    x, target = batch()
    blueprint = blueprint_kind(kind)(SHAPE, 4, start="tiny", **options)
    params = drawn(blueprint, 2)
    begun = blueprint.begin(params, x, target)
    assert begun is not None and begun.keys() == params.keys()
    before, after = (explained(blueprint, dict(each), x, target) for each in (params, begun))
    assert after > (3 * before if kind == "mlp" else 0.6)


def test_seeds_that_begin_together_get_different_directions() -> None:
    """The first to the first seed, the second to the second; beyond the rank nothing is written."""
    x, target = batch()
    kind = blueprint_kind("low_rank")(SHAPE, 4, start="tiny")
    params = drawn(kind, 3)
    begun = kind.begin(params, x, target)
    assert begun is not None
    together = kind.forward(begun, x)
    shares = [float((together[seed] * target).sum()) for seed in range(3)]
    assert shares[0] > shares[1] > shares[2] > 0
    writes = begun["out_weight"].square().sum(1)  # [S, hidden]
    assert (writes > 0).sum() == 4  # of 12 units: the output has 4 features
    idle = writes == 0
    assert torch.equal(begun["down_weight"][idle], params["down_weight"][idle])


@pytest.mark.parametrize(("kind", "options"), [("low_rank", {}), ("mlp", {"activation": "gelu"})])
def test_gradmax_changes_nothing_and_learns_fastest(kind: str, options: dict[str, str]) -> None:
    """Its output is 0, and no other writing of that norm has a larger gradient of what is read."""
    x, target = batch()
    blueprint = blueprint_kind(kind)(SHAPE, 2, start="gradmax", **options)
    begun = dict(blueprint.begin(drawn(blueprint, 1), x, target) or {})
    assert not blueprint.forward(begun, x).any()

    def gradient(out: Tensor) -> float:
        read = blueprint.inner[0]  # type: ignore[attr-defined]
        params = {**begun, "out_weight": out}
        params[f"{read}_weight"] = params[f"{read}_weight"].clone().requires_grad_()
        backward((blueprint.forward(params, x)[0] - target).square().mean())
        found = params[f"{read}_weight"].grad
        assert found is not None
        return float(found.norm())

    ours = gradient(begun["out_weight"])
    draw = torch.Generator().manual_seed(2)
    for _ in range(30):
        other = torch.linalg.qr(torch.randn(4, 2, generator=draw))[0]
        assert gradient(other[None] * begun["out_weight"][0, :, 0].norm()) <= ours * (1 + 1e-5)


@pytest.mark.parametrize("start", [tiny, gradmax])
def test_a_batch_that_tells_nothing_gives_no_units(start: object) -> None:
    """A target of 0, as beside a part that the loss does not reach."""
    units = start(torch.randn(8, 3), torch.zeros(8, 2), 4)  # type: ignore[operator]
    assert units.read.shape == (0, 3) and units.write.shape == (0, 2)


def test_fewer_examples_than_features() -> None:
    """The ridge keeps directions that the batch hardly holds from blowing up."""
    x, target = batch(3)
    units = tiny(x, target, 4)
    assert bool(units.read.isfinite().all()) and float(units.read.abs().max()) < 100


@pytest.mark.parametrize(
    ("kind", "shape", "options", "message"),
    [
        (
            "mlp",
            SHAPE,
            {"start": "gradmax"},
            (
                "blueprint 'mlp': start='gradmax' begins with weights of 0, and relu'(0) = 0 leaves a "
                "ReLU that reads with 0 dead for ever; use start='tiny' here"
            ),
        ),
        (
            "gated",
            SHAPE,
            {"start": "gradmax"},
            (
                "blueprint 'gated': start='gradmax' begins with weights of 0, and a product of two "
                "zeros has no gradient by either; use start='tiny' here"
            ),
        ),
        (
            "mlp",
            SHAPE,
            {"start": "zero"},
            (
                "blueprint 'mlp': start='zero'; legal: random, tiny, gradmax. Say it with "
                "Site(..., options={'mlp': {'start': ...}})"
            ),
        ),
        (
            "mlp",
            SiteShape("inline", 4, 4),
            {"start": "tiny"},
            (
                "blueprint 'mlp': start='tiny' reads the gradient at the output of a site of "
                "features, which parallel seeds learn; use start='random' here"
            ),
        ),
    ],
)
def test_refusals(kind: str, shape: SiteShape, options: dict[str, str], message: str) -> None:
    """With the reason."""
    with pytest.raises(BlueprintError) as error:
        blueprint_kind(kind)(shape, 8, **options)
    assert str(error.value) == message
